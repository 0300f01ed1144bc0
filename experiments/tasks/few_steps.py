"""Models that sample in few steps: consistency models and mean flows.

They differ from score models in the loss, and in what the network gives (models/few_steps.py).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from experiments.tasks.base import Description
from experiments.tasks.score_model import ScoreModel
from sde_lib import ScoreFn

Teacher = Callable[[dict[str, Any]], ScoreFn]
"""The score function of a trained model, by the conditions of the samples."""


@dataclasses.dataclass(frozen=True, eq=False)
class Consistency(ScoreModel):
    """The task of a consistency model: training or, with a teacher, distillation.

    Attributes:
        teacher: loads the score of a trained model when training starts; None without one.
    """

    teacher: Callable[[], Teacher] | None = None

    @property
    def reports(self) -> Mapping[str, Any]:
        return {name: each for name, each in super().reports.items() if name != "likelihood"}

    def loss_options(self, keys: Any, conditions: dict[str, Any]) -> dict[str, Any]:
        teacher = {} if self.teacher is None else {"teacher": self.teacher()(conditions)}
        return {"step": keys["step"]} | teacher

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
