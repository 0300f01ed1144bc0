"""Classifier-free guidance by the conditions of a model (Ho & Salimans 2022, arXiv 2207.12598)."""

import dataclasses
from collections.abc import Callable
from typing import Any

from experiments.pipeline.conditions import Conditions
from samplers import guidance
from samplers.guidance import Form, Linear
from samplers.guidance_schedules import Schedule
from sde_lib import SDE
from sde_lib.checks import check_at_least, check_positive, known

ConditionalScore = Callable[[Any, Any, dict[str, Any]], Any]
"""(x, t, conditions) -> score; or -> (score, v), of a model with learned variances"""


@dataclasses.dataclass(frozen=True)
class ClassifierFree:
    """The guidance scale and its schedule.

    Attributes:
        weight: the guidance scale w in s_u + w (s_c - s_u): 1 is the conditional score alone.
        negative_terms: with a negative condition, 3: s_u + w (s_c - s_n); 2: s_n + w (s_c - s_n).
        schedule: of the weight.
        channels: number of channels that are guided, the first ones; None: all. (DiT guides three.)
        form: how the scores are combined.

    Raises:
        ValueError: a negative weight, other numbers of terms, or fewer channels than one.
    """

    weight: float = 1.0
    negative_terms: int = 3
    schedule: Schedule = Schedule()
    channels: int | None = None
    form: Form = Linear()

    def __post_init__(self):
        check_positive(or_zero=True, **{"config.guidance.classifier_free.weight": self.weight})
        if self.channels is not None:
            check_at_least(1, **{"config.guidance.classifier_free.channels": self.channels})
        if self.negative_terms not in (2, 3):
            raise ValueError(
                f"config.guidance.classifier_free.negative_terms is {self.negative_terms}: it must "
                "be 3, or 2 to do without the unconditional score"
            )

    @property
    def needs_noise_level(self) -> bool:
        """True if the guidance depends on the noise level, which must be one for all dimensions."""
        return self.schedule.varies or not isinstance(self.form, Linear)

    def changes(self, conditions: Conditions) -> bool:
        """True if the guided score differs from the conditional one.

        A schedule of the weight 1 differs too, unless it is 1 everywhere.
        """
        changes = not self.schedule.keeps_one or not known(self.weight) or self.weight != 1
        return changes or conditions.has_negative

    def check(self, conditions: Conditions) -> None:
        """Raises ValueError for guidance that a model with these conditions cannot have."""
        if not self.changes(conditions):
            return
        if not conditions.droppable:
            raise ValueError(
                "config.guidance.classifier_free needs a model with classes "
                "(config.model.class_conditional) or text (config.model.text); to guide another "
                "one, give config.guidance.classifier.run"
            )
        names = {type(member).__name__ for member in conditions.droppable}
        bounded = getattr(self.form, "threshold", None)
        if bounded and conditions.has_negative and self.negative_terms == 3:
            raise ValueError(
                "config.guidance.form.threshold bounds the difference of two scores, and a "
                "negative condition makes three: set "
                "config.guidance.classifier_free.negative_terms=2"
            )
        two_terms = conditions.has_negative and self.negative_terms == 2 and "Text" not in names
        if not (two_terms or conditions.has_unconditional):
            raise ValueError(
                f"config.guidance.classifier_free.weight = {self.weight} and negative conditions "
                "need the unconditional score, which this model has not learned: train one with "
                "config.model.label_dropout=0.1, or guide by config.guidance.classifier"
            )

    def guide(
        self, score: ConditionalScore, values: dict[str, Any], conditions: Conditions, sde: SDE
    ) -> Callable:
        """Inside jit: `score`, guided, of samples with the conditions `values`, as fn(x, t)."""
        if not self.changes(conditions):
            return lambda x, t: score(x, t, values)
        negative = conditions.negative(values)
        two_terms = negative is not None and self.negative_terms == 2
        return guidance.classifier_free(
            score,
            values,
            self.schedule.weight(self.weight, sde),
            None if two_terms else conditions.unconditional(values),
            negative,
            self.channels,
            guidance.bound(self.form, sde),
        )
