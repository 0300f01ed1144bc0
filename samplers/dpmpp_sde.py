"""Stochastic DPM-Solver++(2S), with two evaluations a step: reverse SDE and ancestral forms."""

import dataclasses
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Array

from samplers.noise_levels import Levels
from samplers.solver import Model, Plan
from samplers.stochastic import Ancestral, Stochastic
from sde_lib.batch import Batch
from sde_lib.checks import known


@dataclasses.dataclass(frozen=True)
class DPMppSDE(Stochastic):
    """DPM-Solver++(2S) for the reverse SDE.

    Lu et al. 2022 (arXiv 2211.01095), Algorithm 1, with the decay and the noise of the reverse SDE
    of their Section 5. The noise at the second evaluation and that of the whole step are correlated
    like a Brownian motion in the noise level, as in k-diffusion. The reverse SDE's own correlation
    is lower; on long steps it was less accurate.

    Attributes:
        r: place of the second evaluation, as a fraction of the step in the log noise level.

    Raises:
        ValueError: r outside (0, 1).
    """

    r: float = 0.5

    evaluations: ClassVar[int] = 2

    def __post_init__(self):
        super().__post_init__()
        if known(self.r) and not 0 < self.r < 1:
            raise ValueError(f"r is {self.r}: it must lie strictly between 0 and 1")

    def plan(self, now: Levels, then: Levels) -> Plan:
        middle = now ** (1 - self.r) * then**self.r
        decay, std = self.exact(now, middle)
        a, b = self._recorrelate(now, middle, then)
        coefficients = (
            (decay, std * a, std * b),
            self.exact(now, then),
            np.full_like(now, self.r),
        )
        stops = np.column_stack([middle, then])
        return Plan(np.column_stack([now, middle]), coefficients, stops, self.eta)

    def _recorrelate(self, now: Levels, middle: Levels, then: Levels) -> tuple[Levels, Levels]:
        """Weights (a, b) of the noises z_middle up to `middle` and z_whole up to `then`.

        a z_middle + b z_whole has variance 1 and the correlation with z_whole of a Brownian motion
        in the noise level.
        """
        if self.eta == 0:
            return np.zeros_like(now), np.zeros_like(now)
        shorter, longer = (np.expm1(2 * self.eta * np.log(now / end)) for end in (middle, then))
        own, wanted = np.sqrt(shorter / longer), np.sqrt((now - middle) / (now - then))
        a = np.sqrt((1 - wanted**2) / (1 - own**2))
        return a, wanted - a * own

    def step(self, model: Model, y: Batch, c: Any, past: Array, z: Array) -> tuple[Batch, Array]:
        (middle_decay, a, b), (decay, std), r = c
        first = model.denoised(y)
        middle = first + middle_decay * (y - first) + a * z[0] + b * z[-1]
        denoised = first + (model.denoised(middle, 1) - first) / (2 * r)
        return denoised + decay * (y - denoised) + std * z[-1], past


@dataclasses.dataclass(frozen=True)
class DPMpp2SAncestral(Ancestral):
    """Ancestral sampling with DPM-Solver++(2S) (Lu et al. 2022, arXiv 2211.01095, Algorithm 1).

    Fields: see NoiseLevelSolver, Stochastic and Ancestral.
    """

    evaluations: ClassVar[int] = 2

    def plan(self, now: Levels, then: Levels) -> Plan:
        down, up = self.split(now, then)
        middle = np.sqrt(now * down)
        half = np.full_like(now, 0.5)
        none = np.zeros_like(now)
        coefficients = (middle / now, none, none), (down / now, up), half
        return Plan(np.column_stack([now, middle]), coefficients, then[:, None], self.eta**2)

    step = DPMppSDE.step
