"""Autoguidance of a trained model by a worse one (Karras et al. 2024, arXiv 2406.02507)."""

import dataclasses
from typing import Any

from models import NoiseModel
from samplers import guidance
from samplers.guidance import Form, Linear
from samplers.guidance_schedules import Schedule
from sde_lib import SDE, ScoreFn
from sde_lib.checks import check_positive

KEY = "guide_model"  # of the guide model's parameters beside those of the model


@dataclasses.dataclass(frozen=True, eq=False)
class Autoguidance:
    """The guide model, the guidance scale and its schedule.

    The guided score takes the place of the model's own, also in classifier-free guidance, where
    both models are evaluated with each condition.

    Attributes:
        model: the guide model, of the same SDE, shape and conditions.
        params: its parameters.
        weight: the guidance scale w in s_g + w (s - s_g): 1 is the model alone.
        schedule: of the weight.
        form: how the two scores are combined.

    Raises:
        ValueError: a negative weight.
    """

    model: NoiseModel
    params: Any
    weight: Any = 2.0
    schedule: Schedule = Schedule()
    form: Form = Linear()

    def __post_init__(self):
        check_positive(or_zero=True, **{"config.guidance.auto.weight": self.weight})

    @property
    def needs_noise_level(self) -> bool:
        """True if the guidance depends on the noise level, which must be one for all dimensions."""
        return self.schedule.varies or not isinstance(self.form, Linear)

    def __str__(self) -> str:
        return f"weight {self.weight}, {self.schedule}, {self.form}"

    def guide(self, score_fn: ScoreFn, guide_fn: ScoreFn, sde: SDE) -> ScoreFn:
        """Inside jit: the score, guided by that of the guide model."""
        weight = self.schedule.weight(self.weight, sde)
        form = guidance.bound(self.form, sde)
        return guidance.autoguidance(score_fn, guide_fn, weight, form)
