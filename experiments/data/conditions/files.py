"""Files of conditions to draw samples for: arrays, tables."""

import csv
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from experiments.runs.files import open_arrays, reading

FIELD = "config.sampling.condition"
EXPECTED = "an .npy or .npz file of plain arrays, or a .csv file of numbers below their names"


def read(path: str, kinds: Collection[str]) -> dict[str, Any]:
    """The values in a file by kind of condition.

    Args:
        path: a .npz file has an array for each kind, by name. Others hold the values of one kind.
        kinds: those of the model.

    Raises:
        ValueError: no such file, a damaged one, or a model without conditions or with several.
    """
    file = Path(path)
    if not kinds:
        raise ValueError(
            f"{FIELD} is {path!r}, but the model has no conditions: leave it out, or train a model "
            "with some (docs/guide.md, Conditions)"
        )
    if not file.exists():
        raise ValueError(f"{FIELD} is {path!r}, which does not exist: give {EXPECTED}")
    reader = READERS.get(file.suffix.lower())
    if reader is None:
        raise ValueError(f"{FIELD} is {path!r}: give {EXPECTED}")
    values = reader(file)
    if isinstance(values, dict):
        for name in values.keys() - kinds:
            raise ValueError(
                f"{FIELD} = {path!r} has an array {name!r}, but the model's conditions are "
                f"{', '.join(map(repr, kinds))}: name the arrays by these"
            )
        return values
    if len(kinds) > 1:
        raise ValueError(
            f"{FIELD} is {path!r}, and the model has the conditions "
            f"{', '.join(map(repr, kinds))}: give an .npz file of arrays by these names"
        )
    return {next(iter(kinds)): values}


def _npz(path: Path) -> dict[str, np.ndarray]:
    with open_arrays(path, EXPECTED) as file:
        return dict(file)


def _npy(path: Path) -> np.ndarray:
    with reading(path, EXPECTED):
        return np.load(path, allow_pickle=False)


def _csv(path: Path) -> np.ndarray:
    """The rows below the header, as numbers if all are, otherwise as strings."""
    with reading(path, EXPECTED), path.open(newline="", encoding="utf-8-sig") as file:
        header, *rows = [row for row in csv.reader(file) if row] or [[]]
    if not rows or any(len(row) != len(header) for row in rows):
        raise ValueError(f"{path} must be {EXPECTED}, as many in each row")
    try:
        return np.array(rows, float)
    except ValueError:  # classes may have names
        return np.array(rows)


READERS = {".npz": _npz, ".npy": _npy, ".csv": _csv}
