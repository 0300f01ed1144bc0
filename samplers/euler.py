"""First-order steps from noise level to noise level: Euler's, DDIM's and DDPM's.

All are y' = D + c (y - D) / l + s z with the model's D; Euler and DDIM differ in their grids alone.
"""

import dataclasses
from typing import Any, Literal

import numpy as np
from jaxtyping import Array

from samplers.churn import Churn
from samplers.noise_levels import Grid, Levels
from samplers.solver import Model, NoiseLevelSolver, Plan
from samplers.stochastic import Ancestral
from sde_lib.batch import Batch
from sde_lib.checks import check_name


@dataclasses.dataclass(frozen=True)
class Euler(Churn):
    """Euler's method on the probability flow; with `denoise` it ends with D.

    Fields: as of NoiseLevelSolver and Churn.
    """

    def plan(self, now: Levels, then: Levels) -> Plan:
        return Plan(now[:, None], then - now)

    def step(self, model: Model, y: Batch, c: Any, past: Array, z: Array) -> tuple[Batch, Array]:
        return y + c * model.noise(y), past


@dataclasses.dataclass(frozen=True)
class EulerAncestral(Ancestral):
    """Euler's method to a lower level, and noise back up: DDIM's step with eta.

    Fields: as of NoiseLevelSolver and Ancestral.
    """

    def plan(self, now: Levels, then: Levels) -> Plan:
        down, up = self.split(now, then)
        return Plan(now[:, None], (down - now, up), then[:, None], self.eta**2)

    def step(self, model: Model, y: Batch, c: Any, past: Array, z: Array) -> tuple[Batch, Array]:
        length, up = c
        return y + length * model.noise(y) + up * z[0], past


@dataclasses.dataclass(frozen=True)
class DDIM(EulerAncestral):
    """DDIM (Song et al. 2021, arXiv 2010.02502, Eq. 12): EulerAncestral by the strides of a chain.

    Attributes:
        eta: 0 is deterministic, 1 is DDPM with the smaller of its variances.
    """

    grid: Grid = "ddim"
    eta: float = 0.0


@dataclasses.dataclass(frozen=True)
class DDPM(NoiseLevelSolver):
    """DDPM's ancestral sampling on any subset of the levels (Ho et al. 2020, Algorithm 2).

    Attributes:
        variance: "beta", that of the variance-preserving chain's step between the two levels, or
            "posterior", that of q(x_s | x_t, x_0).

    Raises:
        ValueError: another variance.
    """

    n_steps: int = 1000
    grid: Grid = "ddim"
    variance: Literal["beta", "posterior"] = "beta"

    def __post_init__(self):
        super().__post_init__()
        check_name("variance", self.variance, ("beta", "posterior"))

    def plan(self, now: Levels, then: Levels) -> Plan:
        below = np.sqrt((1 + then**2) / (1 + now**2)) if self.variance == "beta" else then / now
        up = below * np.sqrt((now - then) * (now + then))
        return Plan(now[:, None], (then**2 / now - now, up), then[:, None], rate=1.0)

    step = EulerAncestral.step
