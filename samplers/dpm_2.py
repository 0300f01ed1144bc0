"""DPM-2 of k-diffusion: DPM-Solver-2, a midpoint method in the log-SNR, with churn."""

import dataclasses
from typing import Any, ClassVar

from jaxtyping import Array

from samplers.churn import Churn
from samplers.noise_levels import Levels
from samplers.solver import Model, Plan
from sde_lib.batch import Batch, numpy_of


@dataclasses.dataclass(frozen=True)
class DPM2(Churn):
    """DPM-Solver-2 with churn: each step takes the noise predicted at its midpoint in log-SNR.

    It is Algorithm 2 of Karras et al. 2022 with DPM-Solver-2, r_1 = 1/2 (Lu et al. 2022, arXiv
    2206.00927, Algorithm 1), in place of Heun's method. Fields: see NoiseLevelSolver and Churn.
    """

    evaluations: ClassVar[int] = 2

    def plan(self, now: Levels, then: Levels) -> Plan:
        xp = numpy_of(now, then)
        middle = xp.sqrt(now * then)
        return Plan(xp.column_stack([now, middle]), (middle - now, then - now))

    def step(self, model: Model, y: Batch, c: Any, past: Array, z: Array) -> tuple[Batch, Array]:
        half, whole = c
        middle = y + half * model.noise(y)
        return y + whole * model.noise(middle, 1), past
