"""All conditions of a model as one object."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.dataset import Dataset, Split
from experiments.data.scaling import DEQUANTIZE, Scaling
from experiments.pipeline.conditions.base import (
    Arrays,
    Completed,
    Condition,
    Given,
    Load,
    Recorded,
)
from experiments.pipeline.conditions.image import Image
from experiments.pipeline.conditions.labels import ClassLabel
from experiments.pipeline.conditions.source import Source
from experiments.pipeline.conditions.text import Text
from experiments.runs import files
from experiments.runs import folder as folders
from sde_lib.batch import expand, fold_in, sample_keys

RECORD = "conditions.json"
COMPLETE = DEQUANTIZE + 3  # folded into a sample's key: no other draw has this number


@dataclasses.dataclass(frozen=True)
class Conditions:
    """All conditions of a model.

    Attributes:
        members: one for each kind.
        dropout: probability, in training, that a sample's droppable conditions are null.

    Raises:
        ValueError: a dropout outside [0, 1], or a positive one without a condition to drop.
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
                "config.model.label_dropout needs config.model.class_conditional=True, or another "
                "condition to drop, such as config.model.text or vector_dim"
            )

    @property
    def droppable(self) -> tuple[Condition, ...]:
        """The members that training replaces by their null at random."""
        return tuple(member for member in self.members if member.droppable)

    @property
    def _fixed(self) -> list[Condition]:
        """The members that the network always sees."""
        return [each for each in self.members if not (each.droppable or isinstance(each, Source))]

    @property
    def has_unconditional(self) -> bool:
        """True if the model can give an unconditional score.

        It was trained with dropout, or it has classes or texts with confidences alone. In the
        second case the score of the same class or text at confidence 0 stands for the unconditional
        one.
        """
        named = all(isinstance(member, ClassLabel | Text) for member in self.droppable)
        return bool(self.dropout) or (bool(self._fixed) and named)

    @property
    def has_classes(self) -> bool:
        """True if the model is conditioned on classes."""
        return any(isinstance(member, ClassLabel) for member in self.members)

    @property
    def has_source(self) -> bool:
        """True if samples start from those of a source, and not from noise."""
        return self.source is not None and self.source.origin != "reflow"

    @property
    def source(self) -> Source | None:
        """The member that is a source."""
        return next((member for member in self.members if isinstance(member, Source)), None)

    @property
    def shared(self) -> Arrays:
        """Arrays that the training loss of every sample takes whole, beside its own values.

        Raises:
            ValueError: a source whose data set cannot be loaded.
        """
        return self.source.shared if self.source else {}

    def start(self, values: Arrays) -> Any | None:
        """The states that samples with these values start from; None: those of the prior."""
        return self.source and self.source.start(values)

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

    def for_edits(self, n: int, rows: np.ndarray | None, dataset: Load) -> Arrays:
        """The values for edits of n samples; images that are made of them are left to `complete`.

        Values that a user asked for are taken in turn. Without them, samples of the test set have
        their own, and others have none, if the model has learned what that is.

        Args:
            n: the number of samples.
            rows: their numbers in the test set; None: they are others.
            dataset: loads the model's data.
        """
        values: Arrays = {}
        for member in self.members:
            asked = not isinstance(member, Given) or member.is_asked
            if not asked and _need_not_be_given(member):
                continue
            if not asked and rows is not None:
                own = member.from_data(dataset(), "test")
                values |= {name: each[rows] for name, each in own.items()}
            elif not asked and self.dropout and member.droppable:
                values |= member.null(n)
            else:
                values |= member.for_samples(np.arange(n), dataset)
        return values

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
        class or text stays, at confidence 0 (Dufour et al. 2024).
        """
        n = len(next(iter(values.values())))
        values = values | _joined(member.null(n) for member in self._fixed)
        return values | self._nulls(values) if self.dropout or not self._fixed else values

    def negative(self, values: Arrays) -> Arrays | None:
        """The values to guide away from; None if no negative condition is given.

        The negative class or text takes the place of the wanted one. Other droppable conditions
        become null, confidences stay.
        """
        n = len(next(iter(values.values())))
        negative = _joined(member.negative(n) for member in self.members)
        return values | self._nulls(values) | negative if negative else None

    def asked(
        self,
        label: int | Sequence[int] | None,
        prompt: str | Sequence[str] | None,
        condition: Any = None,
    ) -> "Conditions":
        """A copy that draws these classes, prompts or other values in turn.

        Args:
            label: the class, or several; None leaves them as they are.
            prompt: the text, or several; None likewise.
            condition: values of other kinds, as of `named`; None likewise.

        Raises:
            ValueError: the model has no such condition, or a value does not fit.
        """
        wanted = self.named(condition)
        for name, kind, value in (("label", "class", label), ("prompt", "text", prompt)):
            if value is None:
                continue
            if kind not in self.kinds:
                known = ", ".join(map(repr, self.kinds)) or "none"
                raise ValueError(
                    f"{name} is {value!r}, but this model has no such condition (it has {known}): "
                    "leave it out"
                )
            if kind in wanted:
                raise ValueError(f"{name} is given, and condition has {kind!r} too: leave one out")
            wanted[kind] = value
        members: list[Any] = list(self.members)
        for k, member in enumerate(members):
            if getattr(member, "kind", "") in wanted:
                members[k] = member.asked(wanted[member.kind])
        return dataclasses.replace(self, members=tuple(members))

    @property
    def kinds(self) -> dict[str, Given]:
        """The members whose values a user can give, by kind."""
        return {member.kind: member for member in self.members if isinstance(member, Given)}

    def named(self, condition: Any) -> dict[str, Any]:
        """The values of a user's condition by kind; {} for None.

        Args:
            condition: a mapping by kind; or the values themselves, of a model with one kind.

        Raises:
            ValueError: the model has no such kind, or several and no names.
        """
        if condition is None:
            return {}
        known = ", ".join(map(repr, self.kinds))
        if not known:
            raise ValueError("condition is given, but this model has no conditions: leave it out")
        if not isinstance(condition, Mapping):
            if len(self.kinds) > 1:
                raise ValueError(
                    f"condition is one array, but this model has the conditions {known}: give them "
                    "by these names"
                )
            return {next(iter(self.kinds)): condition}
        for kind in condition:
            if kind not in self.kinds:
                raise ValueError(
                    f"condition has {kind!r}, but this model has only {known}: leave it out"
                )
        return dict(condition)

    def given(self, condition: Any, n: int | None = None) -> Arrays:
        """The network's arrays of values that a user gives, a row for each sample; {} for None.

        Images that are made of the samples need not be given: `complete` makes them. The network
        does not see a source.

        Args:
            condition: values as of `named`, of one row, which holds for all samples, or n.
            n: the number of samples; None: that of the kind with most rows.

        Raises:
            ValueError: a kind is missing or does not fit, or has neither one row nor n.
        """
        wanted = self.named(condition)
        if not wanted:
            return {}
        made = {kind for kind, member in self.kinds.items() if _need_not_be_given(member)}
        for kind in self.kinds.keys() - wanted.keys() - made:
            raise ValueError(f"condition has no {kind!r}, which this model needs: give it too")
        values = _joined(member.given(wanted[k]) for k, member in self.kinds.items() if k in wanted)
        n = n or max(map(len, values.values()))
        for name, rows in values.items():
            if len(rows) not in (1, n):
                raise ValueError(
                    f"condition has {len(rows)} rows of {name} for {n} samples: give one for each "
                    "sample, or one for all"
                )
            values[name] = np.broadcast_to(rows, (n, *rows.shape[1:]))
        others = [member for member in self.members if not isinstance(member, Given)]
        return values | _joined(member.for_samples(np.arange(n), _no_data) for member in others)

    def complete(
        self, values: Arrays, key: jax.Array, x: jax.Array, first_index: int | jax.Array
    ) -> Arrays:
        """Inside jit: the network's arrays of stored values and of samples x in model space.

        What is random of sample i = first_index + k depends on key and i alone.
        """
        members = [member for member in self.members if isinstance(member, Completed)]
        keys = fold_in(sample_keys(key, len(x), first_index), COMPLETE) if members else key
        for member in members:
            values = member.complete(values, keys, x)
        return values

    def claim(self, dataset: Dataset, run: Path) -> "Conditions":
        """The conditions with the facts of the training data, which the run's folder records."""
        recorded = [member for member in self.members if isinstance(member, Recorded)]
        if not recorded:
            return self
        path = run / RECORD
        if not (path.exists() and folders.has_run(run)):
            files.write_json(path, {member.kind: member.record(dataset) for member in recorded})
        return self.of_run(run)

    def of_run(self, run: Path) -> "Conditions":
        """The conditions with the facts that a run has recorded, if they need some."""
        if not any(isinstance(member, Recorded) for member in self.members):
            return self
        return self.with_records(folders.read_record(run / RECORD))

    def with_scaling(self, scaling: Scaling) -> "Conditions":
        """The conditions of data with this scaling."""
        members: Any = (
            member.with_scaling(scaling) if isinstance(member, Image | Source) else member
            for member in self.members
        )
        return dataclasses.replace(self, members=tuple(members))

    def with_records(self, about: dict[str, dict[str, Any]]) -> "Conditions":
        """The conditions with the facts of each kind."""
        members = (
            member.with_record(about[member.kind]) if isinstance(member, Recorded) else member
            for member in self.members
        )
        return dataclasses.replace(self, members=tuple(members))

    def _nulls(self, values: Arrays) -> Arrays:
        n = len(next(iter(values.values())))
        return _joined(member.null(n) for member in self.droppable)


def _need_not_be_given(member: Any) -> bool:
    return isinstance(member, Source) or bool(getattr(member, "operator", None))


def _no_data() -> Dataset:
    raise ValueError("this condition is not given, and there are no data to take it from")


def _joined(each: Any) -> Arrays:
    return {name: value for values in each for name, value in values.items()}
