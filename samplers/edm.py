"""Heun's method and other second-order Runge-Kutta methods, and the samplers of EDM."""

import dataclasses
from typing import Any, ClassVar

from jaxtyping import Array

from samplers.churn import Churn
from samplers.noise_levels import Levels
from samplers.solver import Model, Plan
from samplers.time_shift import Shifting
from sde_lib.batch import Batch, numpy_of
from sde_lib.checks import known


@dataclasses.dataclass(frozen=True)
class Heun(Shifting):
    """Second-order Runge-Kutta on the probability flow (Karras et al. 2022, Algorithm 3).

    Attributes: those of NoiseLevelSolver and Shifting, and
        alpha: place of the second evaluation, as a fraction of the step: 1 is Heun's method, 1/2
            the midpoint method, 2/3 Ralston's method.

    Raises:
        ValueError: alpha outside (0, 1].
    """

    alpha: float = 1.0

    evaluations: ClassVar[int] = 2

    def __post_init__(self):
        super().__post_init__()
        if known(self.alpha) and not 0 < self.alpha <= 1:
            raise ValueError(f"alpha is {self.alpha}: it must lie in (0, 1]")

    def plan(self, now: Levels, then: Levels) -> Plan:
        length = then - now
        middle = now + self.alpha * length
        return Plan(numpy_of(middle).column_stack([now, middle]), length)

    def step(self, model: Model, y: Batch, c: Any, past: Array, z: Array) -> tuple[Batch, Array]:
        noise = model.noise(y)
        noise_there = model.noise(y + self.alpha * c * noise, 1)
        return y + c * (noise + (noise_there - noise) / (2 * self.alpha)), past


@dataclasses.dataclass(frozen=True)
class EDM(Churn, Heun):
    """The samplers of EDM (Karras et al. 2022): Algorithm 2, or Algorithm 1 with s_churn = 0.

    Fields: see Heun and Churn.
    """
