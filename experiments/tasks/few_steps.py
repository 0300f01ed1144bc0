"""Models that sample in few steps: consistency models and mean flows.

They differ from score models in the loss, and in what the network gives (models/few_steps.py).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from experiments.tasks.base import Description
from experiments.tasks.score_model import ScoreModel
from sde_lib import ScoreFn

TEACHER = "teacher"
"""The name of the teacher's parameters among the arrays that all samples share."""


class Teacher(NamedTuple):
    """A trained score model.

    Attributes:
        score_fn: its score function, by its parameters and the conditions of the samples.
        params: the parameters.
    """

    score_fn: Callable[[Any, dict[str, Any]], ScoreFn]
    params: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Consistency(ScoreModel):
    """The task of a consistency model: training or, with a teacher, distillation.

    Attributes:
        teacher: loads the teacher when training starts; None without one.
    """

    teacher: Callable[[], Teacher] | None = None

    @property
    def reports(self) -> Mapping[str, Any]:
        return {name: each for name, each in super().reports.items() if name != "likelihood"}

    @property
    def shared(self) -> dict[str, Any]:
        return self.held_out_shared | ({TEACHER: self.teacher().params} if self.teacher else {})

    def loss_options(self, keys: Any, conditions: dict[str, Any]) -> dict[str, Any]:
        options = {"step": keys["step"]}
        if self.teacher is None:
            return options
        params = conditions.pop(TEACHER)
        return options | {"teacher": self.teacher().score_fn(params, conditions)}

    def describe(self) -> Description:
        about = super().describe()
        limits = [*about.limits, "It has no score: likelihoods and guidance need another model."]
        what = "to draw samples like its data in one to four network evaluations"
        return about._replace(kind="consistency model", purpose=what, limits=limits)


@dataclasses.dataclass(frozen=True, eq=False)
class MeanFlow(ScoreModel):
    """The task of a mean flow."""

    def describe(self) -> Description:
        what = "to draw samples like its data in one to four network evaluations"
        return super().describe()._replace(kind="mean flow", purpose=what)
