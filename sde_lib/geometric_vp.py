"""The geometric variance-preserving SDE of LSGM (Vahdat et al. 2021, arXiv 2106.05931).

With sigma^2 = variance_min (variance_max / variance_min)^(t / t_max) and alpha^2 = 1 - sigma^2,
log sigma^2 is linear in t: uniform t is importance sampling (sde_lib.cross_entropy).
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from sde_lib.batch import as_float, math_of
from sde_lib.checks import known
from sde_lib.schedules import Schedule
from sde_lib.sde import Time


@dataclasses.dataclass(frozen=True)
class GeometricVP(Schedule):
    """Variance-preserving SDE whose variance is geometric in t, with some noise left at t = 0.

    Attributes:
        variance_min: sigma^2 at t = 0.
        variance_max: sigma^2 at t_max.

    Raises:
        ValueError: unless 0 < variance_min < variance_max < 1.
    """

    variance_min: float = 3e-5
    variance_max: float = 0.999
    t_min: float = dataclasses.field(default=0.0, kw_only=True)
    train_t_min: float = dataclasses.field(default=0.0, kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        ends = self.variance_min, self.variance_max
        if known(ends) and not 1e-30 <= ends[0] < ends[1] <= 1 - 2**-24:  # float32's range
            raise ValueError(
                f"variance_min = {self.variance_min}, variance_max = {self.variance_max}: "
                "GeometricVP needs 1e-30 <= variance_min < variance_max < 1"
            )

    @property
    def _end(self) -> float:
        """log sigma^2 at t_max."""
        return math_of(self.variance_max).log(self.variance_max)

    @property
    def _rate(self) -> float:
        """The derivative of log sigma^2."""
        ratio = self.variance_max / self.variance_min
        return math_of(ratio).log(ratio) / self.t_max

    def _log_variance(self, t: Time) -> Array:
        return self._end - self._rate * (self.t_max - as_float(t))

    def alpha(self, t: Time) -> Array:
        return jnp.sqrt(-jnp.expm1(self._log_variance(t)))

    def sigma(self, t: Time) -> Array:
        return jnp.exp(0.5 * self._log_variance(t))

    def drift_coefficient(self, t: Time) -> Array:
        return -0.5 * self._rate / jnp.expm1(-self._log_variance(t))

    def diffusion(self, t: Time) -> Array:
        return jnp.sqrt(-2 * self.drift_coefficient(t))

    @property
    def prior_std(self) -> float:
        return 1.0

    def log_snr(self, t: Time) -> Array:
        return jnp.log(jnp.expm1(-self._log_variance(t)))

    def noise_level(self, t: Time) -> Array:
        return jnp.exp(-0.5 * self.log_snr(t))

    def inverse_noise_level(self, level: Float[Array, "..."]) -> Array:
        variance = 1 / (1 + 1 / level**2)
        below = jnp.log(variance / self.variance_min) / self._rate
        above = self.t_max - jnp.log(self.variance_max / variance) / self._rate
        return jnp.where(below < 0.5 * self.t_max, below, above)
