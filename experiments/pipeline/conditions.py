"""Conditions: what a network is given besides x and the noise level.

Each kind of condition is a class with the protocol `Condition`. Conditions are arrays with a row
for each sample, by the network's keyword: {"class_labels": [B], "text": [B, L]}. The null of a
condition is its unconditional value: class -1, the empty text, confidence 0.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.dataset import Dataset, Split
from experiments.pipeline.labels import as_labels, check_labels, labels_in_turn
from sde_lib.batch import expand, sample_keys

Arrays = dict[str, Any]
Load = Callable[[], Dataset]
"""Loads the model's data; called only where they are needed."""


class Condition(Protocol):
    """One kind of condition.

    Attributes:
        droppable: training replaces it by its null at random.
    """

    droppable: ClassVar[bool]

    def from_data(self, dataset: Dataset, split: Split) -> Arrays:
        """The conditions of one split of the data set, [N, ...]."""
        ...

    def for_samples(self, indices: np.ndarray, dataset: Load) -> Arrays:
        """The values for drawing the samples number indices[0], indices[1], ...: [B, ...]."""
        ...

    def null(self, n: int) -> Arrays:
        """The unconditional values of n samples."""
        ...

    def negative(self, n: int) -> Arrays:
        """The negative values of n samples, to guide away from; {} if none are given."""
        ...


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

    def __post_init__(self):
        check_labels(self.labels, self.n_classes)
        negative = self.negative_label
        if not -1 <= negative < self.n_classes or negative in self.labels:
            drawn = f" that is not among the classes to draw, {self.labels}" if self.labels else ""
            raise ValueError(
                f"config.guidance.classifier_free.negative_label is {negative}: it must be a class,"
                f" 0 to {self.n_classes - 1},{drawn} or -1 for none"
            )

    def asked(self, label: int | Sequence[int]) -> "ClassLabel":
        """A copy that draws these classes in turn; -1: all classes of the model."""
        return dataclasses.replace(self, labels=as_labels(label))

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
    """The confidence of a sample's label (Dufour et al. 2024, arXiv 2405.20324).

    Attributes:
        confidence: the label confidence to draw samples with.

    Raises:
        ValueError: a confidence outside [0, 1].
    """

    confidence: float = 1.0
    droppable: ClassVar[bool] = False

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


class TextReader(Protocol):
    """A way to make arrays of texts."""

    def from_data(self, dataset: Dataset, split: Split) -> np.ndarray:
        """The captions of one split of the data."""
        ...

    def prompts(self) -> np.ndarray | None:
        """The prompts that samples are drawn for, in turn; None if none are given."""
        ...

    def negative(self) -> np.ndarray | None:
        """The negative prompt, [1, ...]; None if none is given."""
        ...

    def empty(self) -> np.ndarray:
        """The empty text, without its first axis."""
        ...

    def asked(self, prompts: tuple[str, ...]) -> "TextReader":
        """The reader with other prompts."""
        ...


@dataclasses.dataclass(frozen=True)
class Text:
    """A text: captions of the data, and prompts of the samples.

    Without prompts, samples are drawn for the captions of the test data, in turn.

    Attributes:
        reader: makes arrays of texts.
    """

    reader: TextReader
    droppable: ClassVar[bool] = True

    def asked(self, prompt: str | Sequence[str]) -> "Text":
        """A copy that draws these prompts in turn."""
        prompts = (prompt,) if isinstance(prompt, str) else tuple(prompt)
        return dataclasses.replace(self, reader=self.reader.asked(prompts))

    def from_data(self, dataset: Dataset, split: Split) -> Arrays:
        return {"text": self.reader.from_data(dataset, split)}

    def for_samples(self, indices: np.ndarray, dataset: Load) -> Arrays:
        texts = self.reader.prompts()
        if texts is None:
            texts = self.reader.from_data(dataset(), "test")
        return {"text": texts[indices % len(texts)]}

    def null(self, n: int) -> Arrays:
        empty = self.reader.empty()
        return {"text": np.broadcast_to(empty, (n, *empty.shape))}

    def negative(self, n: int) -> Arrays:
        text = self.reader.negative()
        return {} if text is None else {"text": np.broadcast_to(text, (n, *text.shape[1:]))}


@dataclasses.dataclass(frozen=True)
class Conditions:
    """All conditions of a model.

    Attributes:
        members: one for each kind.
        dropout: probability, in training, that a sample's droppable conditions are null.

    Raises:
        ValueError: a dropout outside [0, 1], or a positive one without a class or text to drop.
    """

    members: tuple[Condition, ...] = ()
    dropout: float = 0.0

    def __post_init__(self):
        if not 0 <= self.dropout <= 1:
            raise ValueError(
                f"config.model.label_dropout is {self.dropout}: it must be a probability, in [0, 1]"
            )
        if self.dropout and not self.droppable:
            raise ValueError(
                "config.model.label_dropout needs config.model.class_conditional=True, or "
                "config.model.text"
            )

    @property
    def droppable(self) -> tuple[Condition, ...]:
        """The members that training replaces by their null at random."""
        return tuple(member for member in self.members if member.droppable)

    @property
    def has_unconditional(self) -> bool:
        """True if the model can give an unconditional score.

        It was trained with dropout, or it has confidences and no text. In the second case the score
        of the same class at confidence 0 stands for the unconditional one.
        """
        text = any(isinstance(member, Text) for member in self.members)
        return bool(self.dropout) or (len(self.droppable) < len(self.members) and not text)

    @property
    def has_classes(self) -> bool:
        """True if the model is conditioned on classes."""
        return any(isinstance(member, ClassLabel) for member in self.members)

    @property
    def has_negative(self) -> bool:
        """True if a condition to guide away from is given."""
        return any(member.negative(1) for member in self.members)

    def from_data(self, dataset: Dataset, split: Split) -> Arrays:
        """The conditions of one split of the data set, [N, ...]."""
        return _joined(member.from_data(dataset, split) for member in self.members)

    def for_samples(self, indices: np.ndarray, dataset: Load) -> Arrays:
        """The values for drawing the samples number indices[0], indices[1], ...: [B, ...]."""
        return _joined(member.for_samples(indices, dataset) for member in self.members)

    def drop(self, key: jax.Array, values: Arrays, first_index: int | jax.Array) -> Arrays:
        """The values with each sample's droppable conditions null with probability `dropout`.

        All of a sample's are dropped together. Row k is sample i = first_index + k; whether it is
        dropped depends on key and i alone.
        """
        if not self.droppable:
            return values
        nulls = self._nulls(values)
        keys = sample_keys(key, len(values[min(nulls)]), first_index)
        drop = jax.vmap(partial(jax.random.bernoulli, p=self.dropout))(keys)
        return values | {
            name: jnp.where(expand(drop, values[name]), null, values[name])
            for name, null in nulls.items()
        }

    def unconditional(self, values: Arrays) -> Arrays:
        """The values of the unconditional score: confidences 0, classes and texts null.

        A model with confidences that was trained without dropout has not learned a null class: its
        class stays, at confidence 0 (Dufour et al. 2024).
        """
        n = len(next(iter(values.values())))
        fixed = [member for member in self.members if not member.droppable]
        values = values | _joined(member.null(n) for member in fixed)
        return values | self._nulls(values) if self.dropout or not fixed else values

    def negative(self, values: Arrays) -> Arrays | None:
        """The values to guide away from; None if no negative condition is given.

        The negative class or text takes the place of the wanted one. Other droppable conditions
        become null, confidences stay.
        """
        n = len(next(iter(values.values())))
        negative = _joined(member.negative(n) for member in self.members)
        return values | self._nulls(values) | negative if negative else None

    def asked(
        self, label: int | Sequence[int] | None, prompt: str | Sequence[str] | None
    ) -> "Conditions":
        """A copy that draws these classes or prompts in turn; None leaves them as they are.

        Raises:
            ValueError: the model has no classes, or no prompts.
        """
        wanted = {"label": (ClassLabel, label), "prompt": (Text, prompt)}
        members = list(self.members)
        for name, (kind, value) in wanted.items():
            if value is None:
                continue
            found = [k for k, member in enumerate(members) if isinstance(member, kind)]
            if not found:
                raise ValueError(f"{name} is {value!r}, but this model has no such condition")
            members[found[0]] = members[found[0]].asked(value)  # pyright: ignore
        return dataclasses.replace(self, members=tuple(members))

    def _nulls(self, values: Arrays) -> Arrays:
        n = len(next(iter(values.values())))
        return _joined(member.null(n) for member in self.droppable)


def _joined(each: Any) -> Arrays:
    return {name: value for values in each for name, value in values.items()}
