"""The protocol of a task: everything that training needs from the model that it trains.

    door (experiments/build)  ->  Task  ->  training/step.py    loss, optimizer, carry
                                        ->  training/loop.py    held_out, pictures
                                        ->  commands/train.py   prepare, start, reports, describe

A new task is a new file with a class like those beside this one, and a line in
experiments/build/tasks.py.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import jax

from experiments.data.dataset import Dataset
from experiments.data.scaling import Scaling
from experiments.training.objective import Objective
from experiments.training.state import TrainState

Records = Mapping[str, tuple[dict[str, Any], str]]
"""What a run depends on, by the name of its file: values, and the error if they have changed."""
Values = tuple[Any, dict[str, Any]]
"""Samples [N, ...] as the data set has them, and their conditions [N, ...] by keyword."""


class Report(NamedTuple):
    """The result of a report at the end of training.

    lines: to be printed. figures: texts by name, for the model card. pictures: paths.
    """

    lines: list[str]
    figures: dict[str, str]
    pictures: list[Path]


class Description(NamedTuple):
    """The part of a model card that depends on the kind of model.

    kind: such as "diffusion model". purpose: completes "It is made ...". use: flags of the command
    that uses it. limits: sentences.
    """

    kind: str
    purpose: str
    use: str
    limits: list[str]


class Task(Objective, Protocol):
    """A trainable network with its loss, its held-out metrics and its reports.

    Attributes:
        shape: of one sample in model space.
        reports: functions (params, step, dataset, folder) -> Report by name;
            config.training.at_end chooses among them.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def reports(self) -> Mapping[str, Callable[[Any, int, Dataset, Path], Report]]: ...

    @property
    def held_out_shared(self) -> dict[str, Any]:
        """The shared arrays that `metrics` takes too."""
        ...

    def values(self, dataset: Dataset, split: Any) -> Values:
        """The samples of one split of the data set, and their conditions."""
        ...

    def example_conditions(self) -> dict[str, Any]:
        """Conditions of one sample, [1, ...] by keyword, which show their shapes and types."""
        ...

    def with_scaling(self, scaling: Scaling) -> Self:
        """The task with the moments of standardised data."""
        ...

    def prepare(self, dataset: Dataset, folder: Path) -> Self | None:
        """Records in the run's folder what the run depends on.

        Returns the task with what it needs to know of its data; None if that is nothing new.

        Raises:
            ValueError: it is not what the run began with.
        """
        ...

    def start(self, state: TrainState) -> TrainState:
        """The state of the first step: `state`, or the same with weights of another run."""
        ...

    def metrics(
        self, params: Any, key: jax.Array, batch: Values, first_index: Any
    ) -> dict[str, jax.Array]:
        """Held-out metrics of each sample, [B] by name; sample i depends on key and i alone."""
        ...

    def held_out(self, result: Mapping[str, Any]) -> dict[str, float]:
        """The means of the metrics of some test samples, for metrics.jsonl."""
        ...

    def pictures(self, params: Any, step: int, dataset: Dataset, folder: Path) -> list[Path]:
        """Saves pictures during training; [] for a task without any."""
        ...

    def describe(self) -> Description:
        """The task's part of the model card."""
        ...
