"""VE, VP and sub-VP SDEs (Song et al. 2021, arXiv 2011.13456, Section 3.4 and Appendix B)."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from sde_lib.batch import Batch, as_float, expand, math_of
from sde_lib.checks import check_at_least, check_in, check_known, known
from sde_lib.sde import SDE, Time
from sde_lib.table import from_betas


@dataclasses.dataclass(frozen=True)
class VE(SDE):
    """Variance exploding SDE: alpha = 1, sigma = sigma_min (sigma_max / sigma_min)^(t / t_max).

    It is the continuous limit of SMLD's noise levels.

    Raises:
        ValueError: unless 0 < sigma_min < sigma_max.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    t_min: float = dataclasses.field(default=1e-5, kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        ends = self.sigma_min, self.sigma_max
        if known(ends) and not 0 < ends[0] < ends[1] < math.inf:
            raise ValueError(
                f"sigma_min = {self.sigma_min}, sigma_max = {self.sigma_max}: VE needs "
                "0 < sigma_min < sigma_max"
            )
        check_in("(0, inf)", sigma_min=self.sigma_min, sigma_max=self.sigma_max)  # as float32

    @property
    def _log_ratio(self) -> float:
        ratio = self.sigma_max / self.sigma_min
        return math_of(ratio).log(ratio)

    def alpha(self, t: Time) -> Array:
        return jnp.ones_like(as_float(t))

    def sigma(self, t: Time) -> Array:
        return self.sigma_min * jnp.exp(self._log_ratio * as_float(t) / self.t_max)

    def drift_coefficient(self, t: Time) -> Array:
        return jnp.zeros_like(as_float(t))

    def diffusion(self, t: Time) -> Array:
        rate = 2 * self._log_ratio / self.t_max
        return self.sigma(t) * math_of(rate).sqrt(rate)

    @property
    def prior_std(self) -> float:
        return self.sigma_max

    def _previous_sigma(self, t: Time, n_steps: float) -> Array:
        """sigma one step earlier on the grid k t_max / (n_steps - 1); 0 before the first point."""
        t = as_float(t)
        step = self.t_max / (n_steps - 1) if n_steps > 1 else self.t_max
        return jnp.where(t < 0.5 * step, 0.0, self.sigma(jnp.maximum(t - step, 0.0)))

    def discretize(self, x: Batch, t: Time, n_steps: float) -> tuple[Batch, Array]:
        """f and G of SMLD's chain of n_steps noise levels, sigma_min to sigma_max (Eq. 44, 45)."""
        variance = self.sigma(t) ** 2 - self._previous_sigma(t, n_steps) ** 2
        return jnp.zeros_like(x), jnp.sqrt(variance)

    def ancestral(self, t: Time, n_steps: float) -> tuple[Array, Array, Array]:
        """(a, v, std) of SMLD's ancestral step (Eq. 47)."""
        sigma, previous = self.sigma(t), self._previous_sigma(t, n_steps)
        variance = sigma**2 - previous**2
        return jnp.ones_like(sigma), variance, jnp.sqrt(variance) * previous / sigma

    def levels(self, n_levels: int) -> np.ndarray:
        """log-SNRs of SMLD's levels: sigma is geometric from sigma_max (label 0) to sigma_min.

        Raises:
            ValueError: fewer than 2 levels.
        """
        check_at_least(2, n_levels=n_levels)
        check_known("discrete levels are computed on the host", **vars(self))
        return -2 * np.linspace(math.log(self.sigma_max), math.log(self.sigma_min), n_levels)

    def log_snr(self, t: Time) -> Array:
        return -2 * jnp.log(self.sigma(t))

    def inverse_log_snr(self, log_snr: Array) -> Array:
        least = math_of(self.sigma_min).log(self.sigma_min)
        return (-0.5 * log_snr - least) * self.t_max / self._log_ratio


@dataclasses.dataclass(frozen=True)
class _LinearBeta(SDE):
    """Base of VP and sub-VP: f = -beta / 2 with beta linear in t, and B(t) its integral from 0."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self):
        super().__post_init__()
        ends = self.beta_min, self.beta_max
        if known(ends) and not 0 < ends[0] < ends[1] < math.inf:
            raise ValueError(
                f"beta_min = {self.beta_min}, beta_max = {self.beta_max}: "
                f"{type(self).__name__} needs 0 < beta_min < beta_max"
            )

    def beta(self, t: Time) -> Array:
        """beta(t), linear from beta_min at 0 to beta_max at t_max."""
        t = as_float(t)
        return self.beta_min + t * ((self.beta_max - self.beta_min) / self.t_max)

    def _integral(self, t: Time) -> Array:
        t = as_float(t)
        return t * (self.beta_min + t * (0.5 * (self.beta_max - self.beta_min) / self.t_max))

    def _inverse_integral(self, b: Array) -> Array:
        slope = (self.beta_max - self.beta_min) / self.t_max
        return 2 * b / (self.beta_min + jnp.sqrt(self.beta_min**2 + 2 * slope * b))

    def alpha(self, t: Time) -> Array:
        return jnp.exp(-0.5 * self._integral(t))

    def drift_coefficient(self, t: Time) -> Array:
        return -0.5 * self.beta(t)

    @property
    def prior_std(self) -> float:
        return 1.0


@dataclasses.dataclass(frozen=True)
class VP(_LinearBeta):
    """Variance preserving SDE, the limit of DDPM's chain: alpha = exp(-B/2), sigma^2 = 1 - exp(-B).

    Raises:
        ValueError: unless 0 < beta_min < beta_max.
    """

    def sigma(self, t: Time) -> Array:
        return jnp.sqrt(-jnp.expm1(-self._integral(t)))

    def diffusion(self, t: Time) -> Array:
        return jnp.sqrt(self.beta(t))

    def _chain_beta(self, t: Time, n_steps: float) -> Array:
        """beta_k = beta(t) dt of DDPM's chain. Raises ValueError if n_steps gives a beta_k >= 1."""
        most = self.beta_max * self.t_max
        if known(n_steps, most) and n_steps <= most:
            raise ValueError(
                f"VP's chain of {n_steps:.0f} steps has beta_k >= 1: take more than "
                f"{most:g} steps, or the predictor 'euler_maruyama'"
            )
        return self.beta(t) * (self.t_max / n_steps)

    def discretize(self, x: Batch, t: Time, n_steps: float) -> tuple[Batch, Array]:
        """f(x) and G of DDPM's chain, x <- sqrt(1 - beta_k) x + sqrt(beta_k) z (Eq. 46).

        Raises:
            ValueError: n_steps so small that a beta_k would reach 1.
        """
        beta = self._chain_beta(t, n_steps)
        return expand(jnp.sqrt(1 - beta), x) * x - x, jnp.sqrt(beta)

    def ancestral(self, t: Time, n_steps: float) -> tuple[Array, Array, Array]:
        """(a, v, std) of DDPM's ancestral step (Eq. 4), with the larger variance, beta_k."""
        beta = self._chain_beta(t, n_steps)
        return jnp.sqrt(1 - beta), beta, jnp.sqrt(beta)

    def levels(self, n_levels: int) -> np.ndarray:
        """log-SNRs of DDPM's levels, alpha^2 = prod (1 - beta_k); label 0 has the least noise.

        Raises:
            ValueError: fewer than 2 levels, or so few that a beta_k would reach 1.
        """
        check_at_least(2, n_levels=n_levels)
        check_known("discrete levels are computed on the host", **vars(self))
        self._chain_beta(self.t_max, n_levels)
        betas = np.linspace(self.beta_min, self.beta_max, n_levels) * (self.t_max / n_levels)
        return from_betas(betas).levels(n_levels)

    def log_snr(self, t: Time) -> Array:
        return -jnp.log(jnp.expm1(self._integral(t)))

    def inverse_log_snr(self, log_snr: Array) -> Array:
        return self._inverse_integral(jnp.logaddexp(0.0, -log_snr))


@dataclasses.dataclass(frozen=True)
class SubVP(_LinearBeta):
    """Sub-variance preserving SDE: alpha = exp(-B/2), sigma = 1 - exp(-B) (Eq. 29).

    Raises:
        ValueError: unless 0 < beta_min < beta_max.
    """

    def sigma(self, t: Time) -> Array:
        return -jnp.expm1(-self._integral(t))

    def diffusion(self, t: Time) -> Array:
        return jnp.sqrt(self.beta(t) * -jnp.expm1(-2 * self._integral(t)))

    def log_snr(self, t: Time) -> Array:
        return -2 * jnp.log(2 * jnp.sinh(0.5 * self._integral(t)))

    def inverse_log_snr(self, log_snr: Array) -> Array:
        return self._inverse_integral(2 * jnp.arcsinh(0.5 * jnp.exp(-0.5 * log_snr)))
