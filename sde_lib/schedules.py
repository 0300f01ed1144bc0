"""Noise schedules given by alpha and sigma: EDM, cosine, sigmoid, linear, log-linear, linear flow.

float32 rounds t near 1 by up to 3e-8. Where alpha vanishes at t = 1, this changes the noise level
by the fraction 3e-8 / (1 - t). So t_max is below 1 there, and inverse functions compute 1 - t
instead of t at large noise levels.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sde_lib.batch import Batch, as_float, expand, math_of, numpy_of
from sde_lib.chains import clipped_betas
from sde_lib.checks import check_at_least, check_known, known
from sde_lib.sde import SDE, Time
from sde_lib.table import from_betas

RHO = 7.0  # of EDM's steps


@dataclasses.dataclass(frozen=True)
class Schedule(SDE):
    """Base of the schedules, which have closed forms of noise_level and its inverse."""

    def log_snr(self, t: Time) -> Array:
        return -2 * jnp.log(self.noise_level(t))

    def inverse_log_snr(self, log_snr: Float[Array, "..."]) -> Array:
        return self.inverse_noise_level(jnp.exp(-0.5 * log_snr))

    def discretize(self, x: Batch, t: Time, n_steps: float) -> tuple[Batch, Array]:
        """f(x) and G of the exact transition from t - t_max / n_steps to t.

        An Euler step would be unstable near t = 1.
        """
        a, v, _ = self.ancestral(t, n_steps)
        return expand(a - 1, x) * x, jnp.sqrt(v)


@dataclasses.dataclass(frozen=True)
class EDM(Schedule):
    """EDM's SDE, alpha = 1 and sigma = t (Karras et al. 2022, arXiv 2206.00364).

    Samplers that step in t take even steps in t^(1/7) (Eq. 5): even ones in t, which is the noise
    level, would leave a handful for all that happens at the scale of the data.
    """

    t_max: float = dataclasses.field(default=80.0, kw_only=True)
    t_min: float = dataclasses.field(default=0.002, kw_only=True)
    train_t_min: float = dataclasses.field(default=0.002, kw_only=True)

    def alpha(self, t: Time) -> Array:
        return jnp.ones_like(as_float(t))

    def sigma(self, t: Time) -> Array:
        return as_float(t)

    def drift_coefficient(self, t: Time) -> Array:
        return jnp.zeros_like(as_float(t))

    def diffusion(self, t: Time) -> Array:
        return jnp.sqrt(2 * as_float(t))

    @property
    def prior_std(self) -> float:
        return self.t_max

    def inverse_noise_level(self, level: Float[Array, "..."]) -> Array:
        return as_float(level)

    def times(self, start: float, end: float, n_steps: int) -> Float[np.ndarray, " times"]:
        xp = numpy_of(start, end)
        return xp.linspace(start ** (1 / RHO), end ** (1 / RHO), n_steps + 1) ** RHO


@dataclasses.dataclass(frozen=True)
class _VanishingAlpha(Schedule):
    """Base of the schedules with alpha(1) = 0. Raises ValueError unless t_max < 1."""

    def __post_init__(self):
        super().__post_init__()
        if known(self.t_max) and not self.t_max < 1:
            raise ValueError(
                f"t_max is {self.t_max}: {type(self).__name__} needs t_max < 1, as alpha(1) is 0"
            )

    @property
    def prior_std(self) -> float:
        return 1.0


@dataclasses.dataclass(frozen=True)
class _VariancePreserving(_VanishingAlpha):
    """Base of the schedules with alpha^2 + sigma^2 = 1, for which g^2 = -2 f."""

    def diffusion(self, t: Time) -> Array:
        return jnp.sqrt(-2 * self.drift_coefficient(t))

    def levels(self, n_levels: int) -> Float[np.ndarray, " n_levels"]:
        """log-SNRs of DDPM's chain with alpha^2 at i / N, i = 1, ..., N, and clipped betas."""
        return _chain_levels(self, 1.0, n_levels)


@dataclasses.dataclass(frozen=True)
class Cosine(_VariancePreserving):
    """Cosine schedule (Nichol & Dhariwal 2021, arXiv 2102.09672, Eq. 17).

    alpha = cos theta(t) / cos theta(0) with theta(t) = (t + s) / (1 + s) pi / 2. The default t_max,
    a noise level of 119, is from Lu et al. 2022 (DPM-Solver, arXiv 2206.00927).

    Raises:
        ValueError: unless s >= 0 and t_max < 1.
    """

    s: float = 0.008
    t_max: float = dataclasses.field(default=0.9946, kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        if known(self.s) and not 0 <= self.s < math.inf:
            raise ValueError(f"s is {self.s}: Cosine needs s >= 0")

    @property
    def _rate(self) -> float:
        """The derivative of theta."""
        return 0.5 * math.pi / (1 + self.s)

    @property
    def _start(self) -> tuple[float, float]:
        """sin and cos of theta(0)."""
        theta = self._rate * self.s
        return math_of(theta).sin(theta), math_of(theta).cos(theta)

    def _sin(self, t: Time) -> Array:
        return jnp.sin(self._rate * as_float(t))

    def alpha(self, t: Time) -> Array:
        return self._sin(1 - as_float(t)) / self._start[1]

    def sigma(self, t: Time) -> Array:
        # sin^2 theta(t) - sin^2 theta(0) as a product, which keeps its digits near t = 0.
        t = as_float(t)
        product = self._sin(t) * self._sin(t + 2 * self.s)
        return jnp.sqrt(product) / self._start[1]

    def drift_coefficient(self, t: Time) -> Array:
        t = as_float(t)
        return -self._rate * self._sin(t + self.s) / self._sin(1 - t)

    def inverse_noise_level(self, level: Float[Array, "..."]) -> Array:
        sin, cos = self._start
        r = jnp.hypot(level, sin)  # = cos theta(0) tan theta(t)
        t = jnp.arctan2(cos * level**2, (r + sin) * (cos**2 + r * sin)) / self._rate
        return jnp.where(level < 1, t, 1 - jnp.arctan2(cos, r) / self._rate)


@dataclasses.dataclass(frozen=True)
class Sigmoid(_VariancePreserving):
    """Sigmoid schedule (Chen 2023, arXiv 2301.10972): alpha^2 is a sigmoid of t, rescaled.

    alpha^2 = (S(1) - S(t)) / (S(1) - S(0)) with S(t) = sigmoid((start + t (end - start)) / tau).
    The code uses a = start / (2 tau), b = end / (2 tau), w = b - a, and S(t) - S(0) =
    sinh(w t) / (2 cosh(a + w t) cosh(a)). At the default t_max the noise level is 183: only 3e-5
    of the data's variance is left, and float32 still resolves t.

    Raises:
        ValueError: unless -80 tau <= start < end <= 80 tau (float32's range) and t_max < 1.
    """

    start: float = -3.0
    end: float = 3.0
    tau: float = 1.0
    t_max: float = dataclasses.field(default=0.9999, kw_only=True)
    t_min: float = dataclasses.field(default=1e-4, kw_only=True)
    train_t_min: float = dataclasses.field(default=1e-6, kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        most = 80 * self.tau
        given = known(most, self.start, self.end)
        if given and not -most <= self.start < self.end <= most < math.inf:
            raise ValueError(
                f"start = {self.start}, end = {self.end}, tau = {self.tau}: Sigmoid needs "
                "-80 tau <= start < end <= 80 tau"
            )

    @property
    def _halves(self) -> tuple[float, float, float]:
        """The constants a, b and w of the class's docstring."""
        return (
            self.start / (2 * self.tau),
            self.end / (2 * self.tau),
            (self.end - self.start) / (2 * self.tau),
        )

    def alpha(self, t: Time) -> Array:
        (a, _, w), t = self._halves, as_float(t)
        scale = math_of(a).cosh(a) / math_of(w).sinh(w)
        return jnp.sqrt(scale * jnp.sinh(w * (1 - t)) / jnp.cosh(a + w * t))

    def sigma(self, t: Time) -> Array:
        (a, b, w), t = self._halves, as_float(t)
        scale = math_of(b).cosh(b) / math_of(w).sinh(w)
        return jnp.sqrt(scale * jnp.sinh(w * t) / jnp.cosh(a + w * t))

    def drift_coefficient(self, t: Time) -> Array:
        (a, b, w), t = self._halves, as_float(t)
        return -0.5 * w * math_of(b).cosh(b) / jnp.sinh(w * (1 - t)) / jnp.cosh(a + w * t)

    def inverse_noise_level(self, level: Float[Array, "..."]) -> Array:
        a, b, w = self._halves
        m = math_of(a, b)
        q = m.cosh(a) / m.cosh(b) * level**2  # sinh(w t) / sinh(w (1 - t))
        least = jnp.minimum(q, 1 / q)
        t = jnp.log1p(2 * m.sinh(w) * least / (1 + m.exp(-w) * least)) / (2 * w)
        return jnp.where(q < 1, t, 1 - t)


@dataclasses.dataclass(frozen=True)
class Linear(_VariancePreserving):
    """Linear schedule, alpha^2 = 1 - t and sigma^2 = t (Chen 2023, arXiv 2301.10972).

    At the default t_max the noise level is 100: only 1e-4 of the data's variance is left, and
    float32 still resolves t.

    Raises:
        ValueError: unless t_max < 1.
    """

    t_max: float = dataclasses.field(default=0.9999, kw_only=True)
    t_min: float = dataclasses.field(default=1e-4, kw_only=True)
    train_t_min: float = dataclasses.field(default=1e-6, kw_only=True)

    def alpha(self, t: Time) -> Array:
        return jnp.sqrt(1 - as_float(t))

    def sigma(self, t: Time) -> Array:
        return jnp.sqrt(as_float(t))

    def drift_coefficient(self, t: Time) -> Array:
        return -0.5 / (1 - as_float(t))

    def inverse_noise_level(self, level: Float[Array, "..."]) -> Array:
        return _probability(level**2)


@dataclasses.dataclass(frozen=True)
class LinearFlow(_VanishingAlpha):
    """Linear flow, alpha = 1 - t and sigma = t: rectified flow, stochastic interpolants.

    Liu et al. 2023 (arXiv 2209.03003); Albergo & Vanden-Eijnden 2023 (arXiv 2209.15571). The
    velocity, eps - x_0, is finite everywhere, but the drift of the SDE is singular at t = 1.

    Raises:
        ValueError: unless t_max < 1.
    """

    t_max: float = dataclasses.field(default=0.999, kw_only=True)

    def alpha(self, t: Time) -> Array:
        return 1 - as_float(t)

    def sigma(self, t: Time) -> Array:
        return as_float(t)

    def drift_coefficient(self, t: Time) -> Array:
        return -1 / (1 - as_float(t))

    def diffusion(self, t: Time) -> Array:
        return jnp.sqrt(2 * self.noise_level(t))

    def inverse_noise_level(self, level: Float[Array, "..."]) -> Array:
        return _probability(level)


@dataclasses.dataclass(frozen=True)
class LogLinear(Schedule):
    """Log-linear schedule: log-SNR linear in t (Kingma et al. 2021, VDM, arXiv 2107.00630).

    alpha^2 = sigmoid(-gamma) and sigma^2 = sigmoid(gamma), where gamma = -log-SNR goes from
    gamma_min at t = 0 to gamma_max at t_max. Some noise is left at t = 0, so nothing is singular
    there: sampling ends and likelihoods start at t = 0.

    Raises:
        ValueError: unless -80 <= gamma_min < gamma_max <= 80 (float32's range).
    """

    gamma_min: float = -13.3
    gamma_max: float = 5.0
    t_min: float = dataclasses.field(default=0.0, kw_only=True)
    train_t_min: float = dataclasses.field(default=0.0, kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        ends = self.gamma_min, self.gamma_max
        if known(ends) and not -80 <= ends[0] < ends[1] <= 80:
            raise ValueError(
                f"gamma_min = {self.gamma_min}, gamma_max = {self.gamma_max}: LogLinear needs "
                "-80 <= gamma_min < gamma_max <= 80"
            )

    @property
    def _rate(self) -> float:
        """The derivative of gamma."""
        return (self.gamma_max - self.gamma_min) / self.t_max

    def log_snr(self, t: Time) -> Array:
        return -self.gamma_min - self._rate * as_float(t)

    def inverse_log_snr(self, log_snr: Float[Array, "..."]) -> Array:
        return (-self.gamma_min - log_snr) / self._rate

    def alpha(self, t: Time) -> Array:
        return jnp.sqrt(jax.nn.sigmoid(self.log_snr(t)))

    def sigma(self, t: Time) -> Array:
        return jnp.sqrt(jax.nn.sigmoid(-self.log_snr(t)))

    def noise_level(self, t: Time) -> Array:
        return jnp.exp(-0.5 * self.log_snr(t))

    def drift_coefficient(self, t: Time) -> Array:
        return -0.5 * self._rate * jax.nn.sigmoid(-self.log_snr(t))

    def diffusion(self, t: Time) -> Array:
        return math_of(self._rate).sqrt(self._rate) * self.sigma(t)

    @property
    def prior_std(self) -> float:
        return 1.0

    def inverse_noise_level(self, level: Float[Array, "..."]) -> Array:
        return self.inverse_log_snr(-2 * jnp.log(level))

    def levels(self, n_levels: int) -> Float[np.ndarray, " n_levels"]:
        """log-SNRs of DDPM's chain with alpha^2 at i t_max / N, i = 1, ..., N: VDM's of N steps."""
        return _chain_levels(self, self.t_max, n_levels)


def _chain_levels(sde: SDE, end: float, n_levels: int) -> Float[np.ndarray, " n_levels"]:
    """log-SNRs of the chain of betas with the SDE's alpha^2 at even times up to `end`.

    Raises:
        ValueError: fewer than 2 levels.
    """
    check_at_least(2, n_levels=n_levels)
    check_known("discrete levels are computed on the host", **vars(sde))
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        times = jnp.arange(1, n_levels + 1) / n_levels * end
        alpha2 = np.asarray(sde.alpha(times)) ** 2
    return from_betas(clipped_betas(np.append(1.0, alpha2))).levels(n_levels)


def _probability(odds: Float[Array, "..."]) -> Array:
    """The probability odds / (1 + odds), which keeps its digits for large odds."""
    return jnp.where(odds < 1, odds / (1 + odds), 1 - 1 / (1 + odds))
