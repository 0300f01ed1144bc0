"""DPM-2: the midpoint method of k-diffusion."""

import dataclasses
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Array

from samplers.churn import Churn
from samplers.noise_levels import Levels
from samplers.solver import Model, Plan
from sde_lib.batch import Batch


@dataclasses.dataclass(frozen=True)
class DPM2(Churn):
    """A step by the noise halfway in the log-SNR, after churn.

    In Algorithm 2 of Karras et al. 2022, in place of Heun's method, DPM-Solver-2 with r_1 = 1/2 (Lu
    et al. 2022, arXiv 2206.00927, Algorithm 1). Fields: as of NoiseLevelSolver and Churn.
    """

    evaluations: ClassVar[int] = 2

    def plan(self, now: Levels, then: Levels) -> Plan:
        middle = np.sqrt(now * then)
        return Plan(np.column_stack([now, middle]), (middle - now, then - now))

    def step(self, model: Model, y: Batch, c: Any, past: Array, z: Array) -> tuple[Batch, Array]:
        half, whole = c
        middle = y + half * model.noise(y)
        return y + whole * model.noise(middle, 1), past
