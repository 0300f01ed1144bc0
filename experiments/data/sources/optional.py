"""Packages that only one source of data, or one mode, needs."""

import importlib
from typing import Any


def require(package: str, extra: str, what: str = "this data set") -> Any:
    """Imports a package. Raises ValueError with the command that installs it if it is missing."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{what} needs the package {error.name}: pip install -e '.[{extra}]'"
        ) from error
