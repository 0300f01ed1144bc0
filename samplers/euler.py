"""First-order solvers: Euler, DDIM, DDPM and fresh noise.

A step is y' = D + c (y - D) / l + s z, with D the denoised data and constants c and s of the step.
DDIM without noise is Euler's method on another grid of noise levels.
"""

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from samplers.churn import Churn
from samplers.noise_levels import Grid, Levels
from samplers.solver import Model, NoiseLevelSolver, Plan
from samplers.stochastic import Ancestral
from samplers.time_shift import Shifting
from sde_lib import AnalyticVariance
from sde_lib.batch import Batch
from sde_lib.checks import check_name, check_positive


@dataclasses.dataclass(frozen=True)
class Euler(Churn, Shifting):
    """Euler's method on the probability flow, with optional churn or time shift.

    Fields: see NoiseLevelSolver, Churn and Shifting.
    """

    def plan(self, now: Levels, then: Levels) -> Plan:
        return Plan(now[:, None], then - now)

    def step(self, model: Model, y: Batch, c: Any, past: Array, z: Array) -> tuple[Batch, Array]:
        return y + c * model.noise(y), past


@dataclasses.dataclass(frozen=True)
class EulerAncestral(Ancestral, Shifting):
    """Ancestral sampling with Euler's method: the step of DDIM with noise eta.

    Fields: see NoiseLevelSolver, Ancestral and Shifting.
    """

    def plan(self, now: Levels, then: Levels) -> Plan:
        down, up = self.split(now, then)
        return Plan(now[:, None], (down - now, up), then[:, None], self.eta**2)

    def step(self, model: Model, y: Batch, c: Any, past: Array, z: Array) -> tuple[Batch, Array]:
        length, up = c
        return y + length * model.noise(y) + up * z[0], past


@dataclasses.dataclass(frozen=True)
class DDIM(EulerAncestral):
    """DDIM (Song et al. 2021, arXiv 2010.02502, Eq. 12): EulerAncestral on even strides in t.

    Attributes:
        eta: amount of noise: 0 is deterministic, 1 is DDPM with its smaller variance, "posterior".
        clip: the largest absolute value of the estimate of x_0 in every step; None: not clipped.
            The predicted noise stays as it was, as in diffusers. samplers.guidance.clip changes
            both.

    Raises:
        ValueError: a clip that is not positive.
    """

    grid: Grid = "ddim"
    eta: float = 0.0
    clip: float | None = None

    def __post_init__(self):
        super().__post_init__()
        check_positive(clip=self.clip)

    def step(self, model: Model, y: Batch, c: Any, past: Array, z: Array) -> tuple[Batch, Array]:
        if self.clip is None:
            return super().step(model, y, c, past, z)
        (length, up), noise = c, model.noise(y)
        now = model.level[0]
        clipped = jnp.clip(y - now * noise, -self.clip, self.clip)
        return clipped + (now + length) * noise + up * z[0], past

    def estimate(self, model: Model, y: Batch) -> Batch:
        estimate = model.denoised(y)
        return estimate if self.clip is None else jnp.clip(estimate, -self.clip, self.clip)


@dataclasses.dataclass(frozen=True)
class DDPM(NoiseLevelSolver):
    """Ancestral sampling of DDPM on any subset of noise levels (Ho et al. 2020, Algorithm 2).

    Attributes:
        variance: variance of a step between two noise levels. "beta" is that of the forward
            variance-preserving chain. "posterior" is that of q(x_s | x_t, x_0). "learned" lies
            between the two, and needs a score_fn that is a sde_lib.ScoreAndVariance (Nichol &
            Dhariwal 2021, arXiv 2102.09672). A sde_lib.AnalyticVariance is optimal (Bao et al.
            2022); in a config its name is "analytic".

    Raises:
        ValueError: an unknown variance; when called, "learned" with a score_fn without variances.
    """

    n_steps: int = 1000
    grid: Grid = "ddim"
    variance: Literal["beta", "posterior", "learned", "analytic"] | AnalyticVariance = "beta"

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.variance, AnalyticVariance):
            names = ("beta", "posterior", "learned", "analytic")
            check_name("variance", self.variance, names)

    @property
    def noise_share(self) -> float | None:
        return 1.0

    def plan(self, now: Levels, then: Levels) -> Plan:
        posterior, most = then / now, np.sqrt((1 + then**2) / (1 + now**2))
        below = most if self.variance == "beta" else posterior
        if isinstance(self.variance, AnalyticVariance):
            ratio = self.variance.log_ratio(-2 * np.log(now), -2 * np.log(then))
            below = posterior * np.exp(0.5 * ratio)
        elif self.variance == "analytic":
            raise ValueError(
                "variance = 'analytic' is a name in configs only: pass the AnalyticVariance of "
                "the model, made by sde_lib.analytic_variance"
            )
        c = then**2 / now - now, below * np.sqrt((now - then) * (now + then))
        if self.variance == "learned":
            c = *c, np.log(most / posterior)
        return Plan(now[:, None], c, then[:, None], rate=1.0)

    def step(self, model: Model, y: Batch, c: Any, past: Array, z: Array) -> tuple[Batch, Array]:
        if self.variance != "learned":
            return EulerAncestral.step(self, model, y, c, past, z)  # pyright: ignore
        length, up, log_ratio = c
        noise, v = model.noise_and_variance(y)
        return y + length * noise + up * jnp.exp(v * log_ratio) * z[0], past


@dataclasses.dataclass(frozen=True)
class FreshNoise(NoiseLevelSolver):
    """Estimate of the data, then noise that is drawn anew: x_s = alpha_s E[x_0 | x_t] + sigma_s z.

    It is DDIM with the largest noise that a step can have (Song et al. 2021, arXiv 2010.02502,
    Eq. 12 with sigma_t = sigma_s), which keeps nothing of x_t but the estimate. It is the sampler
    of consistency models (Song et al. 2023, arXiv 2303.01469, Algorithm 1), whose estimate is a
    sample itself. An estimate that is a mean loses variance in every step: take few steps.

    Fields: see NoiseLevelSolver.
    """

    grid: Grid = "ddim"

    @property
    def noise_share(self) -> float | None:
        return None

    def plan(self, now: Levels, then: Levels) -> Plan:
        return Plan(now[:, None], then, then[:, None], rate=1.0)

    def step(self, model: Model, y: Batch, c: Any, past: Array, z: Array) -> tuple[Batch, Array]:
        return model.denoised(y) + c * z[0], past
