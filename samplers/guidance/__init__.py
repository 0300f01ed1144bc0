"""Guidance: functions that turn one score function into another, for any sampler.

The guidance scale w follows the convention s + w (s_c - s): w = 1 is the conditional score s_c,
w = 0 the unconditional score s. Ho & Salimans 2022 (arXiv 2207.12598) write w for our w - 1. A
weight is a number, a scalar array (which may be traced), or a function of t, [B] -> [B], such as
the schedules in SCHEDULES. With a number that has no effect, such as w = 0 for a gradient, the
result is the given score function itself. The variance of a ScoreAndVariance stays: that of the
unguided model, of the conditional branch under classifier-free guidance. The energy of a
ScoreAndEnergy goes on under gradient, discriminator and epsilon_scaling, and is lost under others.
The forms in FORMS change how classifier_free and autoguidance combine their two scores.
"""

from samplers.guidance.base import Weight
from samplers.guidance.corrections import clip, epsilon_scaling, linear, step_number, time_shift
from samplers.guidance.forms import FORMS, Form, Linear, bound
from samplers.guidance.gradients import GUIDED_TIMES, discriminator, gradient
from samplers.guidance.pairs import autoguidance, classifier_free
from samplers.guidance.projection import Projected
from samplers.guidance.rescale import Rescale
from samplers.guidance_schedules import SCHEDULES

__all__ = [
    "FORMS",
    "GUIDED_TIMES",
    "SCHEDULES",
    "Form",
    "Linear",
    "Projected",
    "Rescale",
    "Weight",
    "autoguidance",
    "bound",
    "classifier_free",
    "clip",
    "discriminator",
    "epsilon_scaling",
    "gradient",
    "linear",
    "step_number",
    "time_shift",
]
