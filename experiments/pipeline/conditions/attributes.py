"""Conditioning on attributes: several classes of a sample, each of which may be unknown."""

import dataclasses
from typing import Any, ClassVar, Self

import numpy as np
from jaxtyping import Int

from experiments.data.conditions.attributes import as_texts, numbers_of
from experiments.data.dataset import Dataset, Split
from experiments.pipeline.conditions.base import Arrays, Load, in_turn

Rows = Int[np.ndarray, "rows columns"]


@dataclasses.dataclass(frozen=True, eq=False)
class Attributes:
    """A class in each of several columns; -1 is unknown.

    Without `drawn`, samples are drawn for the attributes of the test data, in turn.

    Attributes:
        classes: the number of classes of each column that the model knows.
        names: of the classes of each column, once the training data are known.
        drawn: the attributes to draw samples for, in turn; None: the test data's.
    """

    classes: tuple[int, ...]
    names: tuple[tuple[str, ...], ...] = ()
    drawn: np.ndarray | None = None
    droppable: ClassVar[bool] = True
    kind: ClassVar[str] = "attributes"
    keywords: ClassVar[tuple[str, ...]] = ("attributes",)

    def from_data(self, dataset: Dataset, split: Split) -> Arrays:
        return {"attributes": self._of(dataset, split)}

    def for_samples(self, indices: np.ndarray, dataset: Load) -> Arrays:
        if self.drawn is not None:
            return {"attributes": in_turn(self.given(self.drawn)["attributes"], indices)}
        return {"attributes": in_turn(self._of(dataset(), "test"), indices)}

    def null(self, n: int) -> Arrays:
        return {"attributes": np.full((n, len(self.classes)), -1, np.int32)}

    def negative(self, n: int) -> Arrays:
        return {}

    @property
    def is_asked(self) -> bool:
        return self.drawn is not None

    def given(self, values: Any) -> Arrays:
        """The numbers of classes by their names, or by their numbers where they have no names."""
        rows = np.asarray(values)
        one = rows.ndim == 1 and len(self.classes) > 1
        texts = as_texts("the condition 'attributes'", rows[None] if one else np.atleast_1d(rows))
        return {"attributes": numbers_of("the condition 'attributes'", texts, self._known_names)}

    def asked(self, values: Any) -> Self:
        return dataclasses.replace(self, drawn=np.asarray(values))

    def record(self, dataset: Dataset) -> dict[str, Any]:
        """The names of the classes of each column."""
        self._of(dataset, "train")
        self._of(dataset, "test")
        return {"names": [list(names) for names in dataset.attributes]}

    def with_record(self, about: dict[str, Any]) -> Self:
        return dataclasses.replace(self, names=tuple(map(tuple, about["names"])))

    @property
    def _known_names(self) -> tuple[tuple[str, ...], ...]:
        """The names of the classes: their numbers as texts, unless the data have others."""
        numbers = (tuple(map(str, range(n))) for n in self.classes)
        names = self.names or ((),) * len(self.classes)
        return tuple(
            own if own != all_[: len(own)] else all_
            for own, all_ in zip(names, numbers, strict=True)
        )

    def _of(self, dataset: Dataset, split: Split) -> Rows:
        rows = dataset.conditions(split).get(self.kind)
        if rows is None:
            raise ValueError(
                f"config.model.attributes is {self.classes}, but the data have no attributes: take "
                "data with some (docs/howto/conditions.md), or set it to ()"
            )
        found = tuple(len(names) for names in dataset.attributes)
        fits = len(found) == len(self.classes)
        if not fits or any(own > n for own, n in zip(found, self.classes, strict=True)):
            raise ValueError(
                f"the data have attributes of {', '.join(map(str, found))} classes, but "
                f"config.model.attributes is {self.classes}: set config.model.attributes={found}"
            )
        return rows
