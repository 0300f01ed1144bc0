"""Classes to draw: one, several in turn, or all in turn."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def as_labels(label: int | Sequence[int]) -> tuple[int, ...]:
    """The classes to draw in turn; () for -1, all of them.

    Raises:
        ValueError: something else than integers.
    """
    given = np.atleast_1d(label)
    if given.size and given.dtype.kind not in "iu":
        raise ValueError(f"config.sampling.label is {label!r}: classes are integers from 0 on")
    labels = tuple(given.astype(int).tolist())
    return () if labels == (-1,) else labels


def labels_in_turn(labels: tuple[int, ...], n_classes: int, indices: Any) -> Any:
    """The classes of samples: those of `labels` in turn, or all n_classes if there are none."""
    if not labels:
        return (indices % n_classes).astype(np.int32)
    return np.asarray(labels, np.int32)[indices % len(labels)]


def check_labels(labels: tuple[int, ...], n_classes: int) -> None:
    """Raises ValueError for a class to draw that is not one of n_classes."""
    for label in labels:
        if not 0 <= label < n_classes:
            raise ValueError(
                f"config.sampling.label is {label}: it must be a class, 0 to {n_classes - 1}, or "
                "-1 for all in turn"
            )
