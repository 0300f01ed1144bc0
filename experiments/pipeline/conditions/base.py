"""The protocol of one kind of condition."""

from collections.abc import Callable
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import jax
import numpy as np

from experiments.data.dataset import Dataset, Split

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


@runtime_checkable
class Given(Protocol):
    """A condition whose values a user can give.

    Attributes:
        kind: its name in files and in Python, such as "vector".
        keywords: its arrays in the network.
    """

    kind: ClassVar[str]
    keywords: ClassVar[tuple[str, ...]]

    @property
    def is_asked(self) -> bool:
        """True if samples are drawn for values that a user has given."""
        ...

    def given(self, values: Any) -> Arrays:
        """The network's arrays of values as users have them, [N, ...].

        Raises:
            ValueError: values that are no such condition of this model.
        """
        ...

    def asked(self, values: Any) -> Self:
        """A copy with which samples are drawn for these values in turn."""
        ...


@runtime_checkable
class Recorded(Protocol):
    """A condition with facts of the training data that samples need too, such as their moments.

    Attributes:
        kind: the name of its facts in the run's record.
    """

    kind: ClassVar[str]

    def record(self, dataset: Dataset) -> dict[str, Any]:
        """The facts, as JSON can hold them."""
        ...

    def with_record(self, about: dict[str, Any]) -> Self:
        """The condition with these facts."""
        ...


@runtime_checkable
class Completed(Protocol):
    """A condition whose arrays are made in the compiled step, of the samples or of stored values.

    `null`, `for_samples` and `given` have the network's arrays; `from_data` has the stored values.
    """

    def complete(self, values: Arrays, keys: jax.Array, x: jax.Array) -> Arrays:
        """Inside jit: the network's arrays in place of the stored ones.

        Args:
            values: the conditions of the samples.
            keys: [B], of each sample.
            x: the samples in model space.
        """
        ...


def in_turn(rows: Any, indices: np.ndarray) -> Any:
    """The rows of samples of these indices, in turn."""
    return rows[indices % len(rows)]
