"""Packages that only one data set needs."""

import importlib
from typing import Any


def require(package: str, extra: str) -> Any:
    """The module `package`. Raises ValueError, saying how to install it, if it is missing."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"this data set needs the package {error.name}: pip install -e '.[{extra}]'"
        ) from error
