"""Attributes of samples: several columns of classes, which are numbered from 0 on."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Int

from experiments.data.dataset import SPLITS, Dataset, note_of, numbered

KIND = "attributes"
UNKNOWN = ("", "-1", "None", "nan")
"""Texts of a value that is not known; its number is -1."""


def with_numbers(dataset: Dataset) -> Dataset:
    """The data set with attributes [N, K] as int32, -1 for unknown ones.

    Values of a column that are not 0, ..., n - 1 are numbered; the names of its classes are
    recorded, and shown.

    Raises:
        ValueError: columns of fractions, or another number of columns in the two splits.
    """
    given = [dataset.conditions(split).get(KIND) for split in SPLITS]
    if all(rows is None for rows in given):
        return dataset
    texts = [
        as_texts(f"the attributes of the {split} data", [] if rows is None else rows)
        for split, rows in zip(SPLITS, given, strict=True)
    ]
    if texts[0].shape[1] != texts[1].shape[1]:
        raise ValueError(
            f"there are {texts[0].shape[1]} attributes in the training data and "
            f"{texts[1].shape[1]} in the test data: give both the same"
        )
    columns = np.concatenate(texts).T
    found = [numbered(column[~np.isin(column, UNKNOWN)])[0] for column in columns]
    notes = tuple(
        note_of(f"attribute {k}", names)
        for k, names in enumerate(found)
        if names != tuple(map(str, range(len(names))))
    )
    made = {f"{split}_conditions": dataset.conditions(split) for split in SPLITS}
    for split, rows in zip(SPLITS, texts, strict=True):
        made[f"{split}_conditions"] = dict(made[f"{split}_conditions"])
        made[f"{split}_conditions"][KIND] = numbers_of("the attributes", rows, tuple(found))
    changes: dict[str, Any] = {"attributes": tuple(found), "notes": (*dataset.notes, *notes)}
    return dataclasses.replace(dataset, **made, **changes)


def as_texts(what: str, values: Any) -> np.ndarray:
    """Attributes as texts [N, K]. Raises ValueError for fractions, or for another shape."""
    rows = np.asarray(values)
    rows = rows[:, None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or not rows.shape[1]:
        raise ValueError(f"{what} have the shape {np.shape(values)}: they must be [N, columns]")
    if rows.dtype.kind == "b":
        rows = rows.astype(int)
    if rows.dtype.kind == "f":
        whole = np.nan_to_num(rows, nan=-1.0)
        if not (whole == np.round(whole)).all():
            raise ValueError(
                f"{what} hold fractions such as {whole[whole != np.round(whole)][0]:g}: they must "
                "be classes; give real numbers as 'vector'"
            )
        rows = whole.astype(int)
    return np.array([[_text(value) for value in row] for row in rows], dtype=object)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value).strip()


def numbers_of(
    what: str, texts: np.ndarray, names: tuple[tuple[str, ...], ...]
) -> Int[np.ndarray, "rows columns"]:
    """The numbers of classes [N, K] that are given as texts; -1 for unknown ones.

    Args:
        what: the attributes' name in errors.
        texts: [N, K].
        names: of the classes of each column.

    Raises:
        ValueError: another number of columns, or a class that is not among the names.
    """
    if texts.shape[1] != len(names):
        raise ValueError(f"{what} have {texts.shape[1]} columns: there must be {len(names)}")
    numbers = np.full(texts.shape, -1, np.int32)
    for k, own in enumerate(names):
        number = {name: label for label, name in enumerate(own)}
        for row, text in enumerate(texts[:, k].tolist()):
            if text not in number and text not in UNKNOWN:
                some = ", ".join(own[:10]) + " ..." * (len(own) > 10)
                raise ValueError(
                    f"{what} hold {text!r} in row {row}, column {k}: it must be one of {some}, or "
                    "-1 for unknown"
                )
            numbers[row, k] = number.get(text, -1)
    return numbers
