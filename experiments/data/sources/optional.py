"""Packages that only one source needs."""

import importlib
from typing import Any


def require(package: str, extra: str) -> Any:
    """Imports a package. Raises ValueError with the command that installs it if it is missing."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"this data set needs the package {error.name}: pip install -e '.[{extra}]'"
        ) from error
