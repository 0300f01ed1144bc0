"""Ancestral DPM-Solver-2: a deterministic step to a lower noise level, then noise back up."""

import dataclasses
from typing import Any, ClassVar

from jaxtyping import Array

from samplers.noise_levels import Levels
from samplers.solver import Model, Plan
from samplers.stochastic import Ancestral
from sde_lib.batch import Batch, numpy_of


@dataclasses.dataclass(frozen=True)
class DPM2Ancestral(Ancestral):
    """Ancestral sampling with DPM-Solver-2 (Lu et al. 2022, arXiv 2206.00927, Algorithm 1).

    Fields: see NoiseLevelSolver and Ancestral.
    """

    evaluations: ClassVar[int] = 2

    def plan(self, now: Levels, then: Levels) -> Plan:
        down, up = self.split(now, then)
        xp = numpy_of(now, down)
        middle = xp.sqrt(now * down)
        coefficients = middle - now, down - now, up
        return Plan(xp.column_stack([now, middle]), coefficients, then[:, None], self.eta**2)

    def step(self, model: Model, y: Batch, c: Any, past: Array, z: Array) -> tuple[Batch, Array]:
        to_middle, to_down, up = c
        noise = model.noise(y + to_middle * model.noise(y), 1)
        return y + to_down * noise + up * z[0], past
