"""Conditions on labels: the class of a sample, and the confidence in its class or caption."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from experiments.data.dataset import Dataset, Split
from experiments.pipeline.conditions.base import Arrays, Load
from experiments.pipeline.labels import as_labels, check_labels, labels_in_turn


@dataclasses.dataclass(frozen=True)
class ClassLabel:
    """The class of a sample.

    Attributes:
        n_classes: classes that the model knows.
        labels: the classes to draw, in turn; () for all of them in turn.
        negative_label: the class to guide away from; -1 for none.

    Raises:
        ValueError: a class that the model does not know, or a negative_label that is among labels.
    """

    n_classes: int
    labels: tuple[int, ...] = ()
    negative_label: int = -1
    droppable: ClassVar[bool] = True
    kind: ClassVar[str] = "class"
    keywords: ClassVar[tuple[str, ...]] = ("class_labels",)

    def __post_init__(self):
        check_labels(self.labels, self.n_classes)
        negative = self.negative_label
        if not -1 <= negative < self.n_classes or negative in self.labels:
            drawn = f" that is not among the classes to draw, {self.labels}" if self.labels else ""
            raise ValueError(
                f"config.guidance.classifier_free.negative_label is {negative}: it must be a class,"
                f" 0 to {self.n_classes - 1},{drawn} or -1 for none"
            )

    @property
    def is_asked(self) -> bool:
        return bool(self.labels)

    def asked(self, label: int | Sequence[int]) -> "ClassLabel":
        """A copy that draws these classes in turn; -1: all classes of the model."""
        return dataclasses.replace(self, labels=as_labels(label))

    def against(self, negative: str) -> "ClassLabel":
        """A copy that guides away from the class of this number; "" for none.

        Raises:
            ValueError: no number, or none of a class that is not drawn.
        """
        if negative and not negative.isdecimal():
            raise ValueError(
                f"the negative class is {negative!r}: it must be the number of a class"
            )
        return dataclasses.replace(self, negative_label=int(negative) if negative else -1)

    def given(self, values: int | Sequence[int]) -> Arrays:
        labels = as_labels(values)
        check_labels(labels, self.n_classes)
        return {"class_labels": np.asarray(labels, np.int32)}

    def from_data(self, dataset: Dataset, split: Split) -> Arrays:
        dataset.check_labels(self.n_classes)
        return {"class_labels": getattr(dataset, f"{split}_labels")}

    def for_samples(self, indices: np.ndarray, dataset: Load) -> Arrays:
        return {"class_labels": labels_in_turn(self.labels, self.n_classes, indices)}

    def null(self, n: int) -> Arrays:
        return {"class_labels": np.full(n, -1, np.int32)}

    def negative(self, n: int) -> Arrays:
        if self.negative_label < 0:
            return {}
        return {"class_labels": np.full(n, self.negative_label, np.int32)}


@dataclasses.dataclass(frozen=True)
class Confidence:
    """The confidence of a sample's label or caption (Dufour et al. 2024, arXiv 2405.20324).

    Attributes:
        confidence: the confidence to draw samples with.

    Raises:
        ValueError: a confidence outside [0, 1].
    """

    confidence: float = 1.0
    droppable: ClassVar[bool] = False
    keywords: ClassVar[tuple[str, ...]] = ("confidences",)

    def __post_init__(self):
        if not 0 <= self.confidence <= 1:
            raise ValueError(
                f"config.sampling.confidence is {self.confidence}: it must be in [0, 1]"
            )

    def from_data(self, dataset: Dataset, split: Split) -> Arrays:
        return {"confidences": getattr(dataset, f"{split}_confidence")}

    def for_samples(self, indices: np.ndarray, dataset: Load) -> Arrays:
        return {"confidences": np.full(indices.shape, self.confidence, np.float32)}

    def null(self, n: int) -> Arrays:
        return {"confidences": np.zeros(n, np.float32)}

    def negative(self, n: int) -> Arrays:
        return {}
