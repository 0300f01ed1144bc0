"""DPM-Solver++ with two evaluations a step, with noise: ancestral, and of the reverse SDE."""

import dataclasses
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Array

from samplers.noise_levels import Levels
from samplers.solver import Model, Plan
from samplers.stochastic import Ancestral, Stochastic
from sde_lib.batch import Batch


@dataclasses.dataclass(frozen=True)
class DPMppSDE(Stochastic):
    """DPM-Solver++(2S) for the reverse SDE.

    Lu et al. 2022 (arXiv 2211.01095), Algorithm 1, with the SDE's exponentials of Section 5 and, at
    the middle of a step, the noise up to there.

    Attributes:
        r: where the second evaluation is, as a part of the step in log level.

    Raises:
        ValueError: r outside (0, 1).
    """

    r: float = 0.5

    evaluations: ClassVar[int] = 2

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.r < 1:
            raise ValueError(f"r is {self.r}: it must lie between 0 and 1")

    def plan(self, now: Levels, then: Levels) -> Plan:
        middle = now ** (1 - self.r) * then**self.r
        coefficients = *self.exact(now, middle), *self.exact(now, then), np.full_like(now, self.r)
        stops = np.column_stack([middle, then])
        return Plan(np.column_stack([now, middle]), coefficients, stops, self.eta)

    def step(self, model: Model, y: Batch, c: Any, past: Array, z: Array) -> tuple[Batch, Array]:
        middle_decay, middle_std, decay, std, r = c
        first = model.denoised(y)
        middle = first + middle_decay * (y - first) + middle_std * z[0]
        denoised = first + (model.denoised(middle, 1) - first) / (2 * r)
        return denoised + decay * (y - denoised) + std * z[-1], past


@dataclasses.dataclass(frozen=True)
class DPMpp2SAncestral(Ancestral):
    """DPM-Solver++(2S) (Lu et al. 2022, arXiv 2211.01095, Algorithm 1), made ancestral.

    Fields: as of NoiseLevelSolver and Ancestral.
    """

    evaluations: ClassVar[int] = 2

    def plan(self, now: Levels, then: Levels) -> Plan:
        down, up = self.split(now, then)
        middle = np.sqrt(now * down)
        half = np.full_like(now, 0.5)
        coefficients = middle / now, np.zeros_like(now), down / now, up, half
        return Plan(np.column_stack([now, middle]), coefficients, then[:, None], self.eta**2)

    step = DPMppSDE.step
