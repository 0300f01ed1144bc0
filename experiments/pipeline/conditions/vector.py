"""Conditioning on vectors of real numbers, such as the parameters of a simulation."""

import dataclasses
from typing import Any, ClassVar, Self

import numpy as np
from jaxtyping import Float

from experiments.data.dataset import Dataset, Split
from experiments.pipeline.conditions.base import Arrays, Load, in_turn

Rows = Float[np.ndarray, "rows numbers"]


@dataclasses.dataclass(frozen=True, eq=False)
class Vector:
    """A vector of real numbers, in the data's own units.

    The network sees them standardised by the training set. Without `drawn`, samples are drawn for
    the vectors of the test data, in turn.

    Attributes:
        size: numbers in a vector.
        mean: of each number in the training set, once it is known.
        std: likewise, the standard deviation.
        drawn: the vectors to draw samples for, in turn; None: the test data's.
    """

    size: int
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    drawn: Rows | None = None
    droppable: ClassVar[bool] = True
    kind: ClassVar[str] = "vector"
    keywords: ClassVar[tuple[str, ...]] = ("vectors",)

    def from_data(self, dataset: Dataset, split: Split) -> Arrays:
        return {"vectors": self._standardized(self._of(dataset, split))}

    def for_samples(self, indices: np.ndarray, dataset: Load) -> Arrays:
        return {"vectors": self._standardized(self.of_samples(indices, dataset))}

    def of_samples(self, indices: np.ndarray, dataset: Load) -> Rows:
        """The vectors that samples are drawn for, in the data's own units."""
        rows = self._of(dataset(), "test") if self.drawn is None else self.drawn
        return in_turn(rows, indices)

    def null(self, n: int) -> Arrays:
        return {"vectors": np.full((n, self.size), np.nan, np.float32)}

    def negative(self, n: int) -> Arrays:
        return {}

    @property
    def is_asked(self) -> bool:
        return self.drawn is not None

    def given(self, values: Any) -> Arrays:
        return {"vectors": self._standardized(self._rows("the condition 'vector'", values))}

    def asked(self, values: Any) -> Self:
        return dataclasses.replace(self, drawn=self._rows("the condition 'vector'", values))

    def record(self, dataset: Dataset) -> dict[str, Any]:
        """The moments of the training data's vectors.

        Raises:
            ValueError: vectors that do not fit, or a number that is constant.
        """
        self._of(dataset, "test")
        rows = self._of(dataset, "train").astype(np.float64)
        constant = np.flatnonzero(rows.min(axis=0) == rows.max(axis=0))
        if len(constant):
            raise ValueError(
                f"the vectors of the training data are constant in column {constant[0]}: leave it "
                "out, as a model cannot learn what it changes"
            )
        return {"mean": rows.mean(axis=0).tolist(), "std": rows.std(axis=0).tolist()}

    def with_record(self, about: dict[str, Any]) -> Self:
        return dataclasses.replace(self, mean=tuple(about["mean"]), std=tuple(about["std"]))

    def _of(self, dataset: Dataset, split: Split) -> Rows:
        rows = dataset.conditions(split).get(self.kind)
        if rows is None:
            raise ValueError(
                f"config.model.vector_dim is {self.size}, but the data have no vectors: take data "
                "with some (docs/howto/conditions.md), or set it to 0"
            )
        return self._rows(f"the vectors of the {split} data", rows)

    def _rows(self, what: str, values: Any) -> Rows:
        """Vectors as an array [N, size]; a single vector, or single numbers, are brought there."""
        rows = np.asarray(values)
        if rows.ndim < 2:
            rows = rows.reshape(-1, 1) if self.size == 1 else rows.reshape(1, -1)
        if rows.dtype.kind not in "fiub" or rows.shape[1:] != (self.size,) or not len(rows):
            raise ValueError(
                f"{what} are {rows.dtype} of the shape {np.shape(values)}: they must be numbers "
                f"[N, {self.size}], as config.model.vector_dim is {self.size}"
            )
        wrong = np.argwhere(~np.isfinite(rows))
        if len(wrong):
            row, column = wrong[0]
            raise ValueError(
                f"{what} hold {rows[row, column]} in row {row}, column {column}: leave such rows "
                "out, or fill these numbers in"
            )
        return rows

    def _standardized(self, rows: Rows) -> Rows:
        if not self.mean:
            raise ValueError(
                "the mean and standard deviation of the vectors are not known: training records "
                "them in the run's folder"
            )
        return ((rows - np.asarray(self.mean)) / np.asarray(self.std)).astype(np.float32)
