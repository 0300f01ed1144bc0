"""Samples in arrays of numbers that are read when a batch needs them, for data beyond memory."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np

from experiments.runs.files import reading

MASK_OPTION = "if NaN means missing, set config.data.missing='mask'"
CHUNK = 1 << 22  # numbers that are searched for missing ones at a time
IN_MEMORY = 1 << 28  # bytes: data of at most this size are read at once


class UnreadableError(ValueError):
    """Samples of a sequence that cannot be read, such as those of files that are gone.

    Attributes:
        rows: their indices in the sequence.
    """

    def __init__(self, message: str, rows: Iterable[int]):
        super().__init__(message)
        self.rows = frozenset(rows)


class Part(NamedTuple):
    """The samples of one file.

    Attributes:
        name: of the file, in errors.
        length: number of samples.
        read: a function of increasing indices that reads these samples.
    """

    name: str
    length: int
    read: Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class LazyArray:
    """A sequence like an array [N, *sample_shape], indexed by an array or a slice.

    Attributes:
        parts: the files, whose samples follow one another.
        sample_shape: of one sample.
        dtype: of the values; those of files are converted to it.
        rows: the samples that belong to the sequence; None: all.
    """

    parts: tuple[Part, ...]
    sample_shape: tuple[int, ...]
    dtype: np.dtype
    rows: np.ndarray | None = None

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum([part.length for part in self.parts])

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.rows is None else len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.sample_shape)

    @property
    def nbytes(self) -> int:
        """The bytes of all samples in memory."""
        return math.prod(self.shape) * self.dtype.itemsize

    def take(self, rows: np.ndarray) -> Self:
        """The sequence of some of the samples. Nothing is read."""
        return dataclasses.replace(self, rows=rows if self.rows is None else self.rows[rows])

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        if isinstance(index, slice):
            index = np.arange(*index.indices(len(self)))
        rows = np.asarray(index) if self.rows is None else self.rows[index]
        values = np.empty((len(rows), *self.sample_shape), self.dtype)
        owners = np.searchsorted(self._ends, rows, side="right")
        for owner in np.unique(owners).tolist():
            part, own = self.parts[owner], np.flatnonzero(owners == owner)
            first = self._ends[owner] - part.length
            wanted, places = np.unique(rows[own] - first, return_inverse=True)
            try:
                with reading(part.name, "the file as it was at the start"):
                    found = part.read(wanted)
            except ValueError as error:
                raise UnreadableError(str(error), np.asarray(index)[own].tolist()) from error
            with np.errstate(over="ignore"):  # infinities are refused with their place
                values[own] = found[places]
        return values

    def name_of(self, index: int) -> str:
        """The file of a sample, and its number there."""
        row = index if self.rows is None else int(self.rows[index])
        owner = int(np.searchsorted(self._ends, row, side="right"))
        part = self.parts[owner]
        return f"sample {row - int(self._ends[owner]) + part.length} of {part.name}"

    def some(self, n: int) -> np.ndarray:
        """At most n of the samples, at even distances."""
        return self[np.linspace(0, len(self) - 1, min(len(self), n)).astype(int)]


def values_of(
    parts: Sequence[Part], shape: tuple[int, ...], dtype: np.dtype, missing: bool = False
) -> np.ndarray | LazyArray:
    """The samples of some files: an array if they are small, otherwise a LazyArray.

    `missing` allows missing values, which are NaN.
    """
    lazy = LazyArray(tuple(parts), shape, dtype)
    if lazy.nbytes > IN_MEMORY:
        return lazy
    values = lazy[:]
    check_finite(values, "the data", lazy.name_of, missing=missing)
    return values


def check_finite(
    values: np.ndarray,
    what: str,
    name_of: Callable[[int], str],
    columns: Sequence[str] = (),
    missing: bool = False,
) -> None:
    """Raises ValueError, with its place, for a value that is not finite.

    Args:
        values: [N, ...].
        what: the data's name in errors.
        name_of: names a sample by its index.
        columns: names of the columns of a table.
        missing: NaN is a missing value; a sample without any other value is an error.
    """
    wrong = np.argwhere(np.isinf(values) if missing else ~np.isfinite(values))
    if len(wrong):
        row, *place = wrong[0].tolist()
        first = values[tuple(wrong[0])]
        at = f"in column {column_name(place[0], columns)}" if len(place) == 1 else f"at {(*place,)}"
        option = f"; {MASK_OPTION}" if np.isnan(first) else ""
        raise ValueError(
            f"{what}: {len(wrong)} numbers are not finite, the first is {first} in {name_of(row)}, "
            f"{at}; leave such samples out, or fill these values in{option}"
        )
    if missing and len(empty := np.flatnonzero(np.isnan(values).reshape(len(values), -1).all(1))):
        raise ValueError(
            f"{what}: {len(empty)} samples have no observed value, the first is "
            f"{name_of(int(empty[0]))}: leave them out"
        )


def complete(values: Any) -> np.ndarray:
    """The rows of the samples [N, ...] without missing values, which are read a chunk at a time."""
    step = max(1, CHUNK // math.prod(values.shape[1:]))
    parts = [
        ~np.isnan(values[first : first + step]).reshape(-1, math.prod(values.shape[1:])).any(axis=1)
        for first in range(0, len(values), step)
    ]
    return np.flatnonzero(np.concatenate(parts))


def complete_samples(values: Any) -> Any:
    """The samples without missing values; those of a LazyArray are not kept in memory."""
    return take(values, complete(values))


def column_name(k: Any, columns: Sequence[str]) -> str:
    """The number of a column, from 0 on, and its name if it has one."""
    return f"{k} ({columns[k]!r})" if columns else str(k)


def take(values: Any, rows: np.ndarray) -> Any:
    """The samples of these rows; those of a LazyArray are not read."""
    return values.take(rows) if isinstance(values, LazyArray) else values[rows]
