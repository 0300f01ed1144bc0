"""Variance-preserving SDE through given noise levels, such as DDPM's chain of betas."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sde_lib.batch import Batch, as_float, expand
from sde_lib.checks import check_known
from sde_lib.sde import SDE, Time


@dataclasses.dataclass(frozen=True, repr=False)
class Table(SDE):
    """Variance-preserving SDE whose log-SNR L(t) interpolates a table of noise levels.

    alpha^2 = sigmoid(L) and sigma^2 = sigmoid(-L). Level i of N is at t = i t_max / (N - 1), with a
    monotone cubic between levels (Fritsch & Carlson 1980). Level 0, at t = 0, already has noise, so
    training and sampling include t = 0.

    Attributes:
        log_snrs: log-SNR of each level, decreasing.

    Raises:
        ValueError: fewer than two levels, or log-SNRs that do not decrease.
    """

    log_snrs: tuple[float, ...] = ()
    t_min: float = dataclasses.field(default=0.0, kw_only=True)
    train_t_min: float = dataclasses.field(default=0.0, kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        check_known("the table is interpolated on the host", log_snrs=self.log_snrs)
        if len(self.log_snrs) < 2 or not (np.diff(self.log_snrs) < 0).all():
            raise ValueError(
                f"log_snrs has {len(self.log_snrs)} values: give two numbers at least, each below "
                "the one before"
            )

    def __repr__(self) -> str:
        first, last = self.log_snrs[0], self.log_snrs[-1]
        return f"Table({len(self.log_snrs)} levels, log-SNR from {first:.4g} to {last:.4g})"

    @functools.cached_property
    def _cubics(self) -> Float[np.ndarray, "4 intervals"]:
        """Coefficients of 1, u, u^2, u^3 between a level (u = 0) and the next (u = 1)."""
        from scipy.interpolate import PchipInterpolator  # here, because importing it takes 0.4 s

        return PchipInterpolator(np.arange(len(self.log_snrs)), self.log_snrs).c[::-1]

    def log_snr(self, t: Time) -> Array:
        place = as_float(t) * ((len(self.log_snrs) - 1) / self.t_max)
        interval = jnp.clip(jnp.floor(place), 0, len(self.log_snrs) - 2).astype(int)
        a, b, c, d = jnp.asarray(self._cubics, float)[:, interval]
        u = place - interval
        return a + u * (b + u * (c + u * d))

    def inverse_log_snr(self, log_snr: Float[Array, "..."]) -> Array:
        """The t in [0, t_max] with log_snr(t) = log_snr; outside the table, the nearest end."""
        levels = jnp.asarray(self.log_snrs, float)
        times = jnp.asarray(np.linspace(0, self.t_max, len(self.log_snrs)), float)
        log_snr = jnp.clip(log_snr, levels[-1], levels[0])
        # compare_all, because a binary search would launch a GPU kernel for every halving.
        after = jnp.searchsorted(-levels[1:-1], -log_snr, side="right", method="compare_all")
        _, b, c, d = jnp.asarray(self._cubics, float)[:, after]
        fall = log_snr - levels[after]
        whole = jnp.asarray(np.diff(self.log_snrs), float)[after]
        u = _root(b, c, d, fall, fall / whole)
        return times[after] + u * (times[after + 1] - times[after])

    def _rate(self, t: Time) -> Array:
        """The rate -dL/dt at which the log-SNR falls."""
        t = as_float(t)
        return -jax.jvp(self.log_snr, (t,), (jnp.ones_like(t),))[1]

    def alpha(self, t: Time) -> Array:
        return jnp.sqrt(jax.nn.sigmoid(self.log_snr(t)))

    def sigma(self, t: Time) -> Array:
        return jnp.sqrt(jax.nn.sigmoid(-self.log_snr(t)))

    def drift_coefficient(self, t: Time) -> Array:
        return -0.5 * self._rate(t) * self.sigma(t) ** 2

    def diffusion(self, t: Time) -> Array:
        return jnp.sqrt(self._rate(t)) * self.sigma(t)

    @property
    def prior_std(self) -> float:
        return 1.0

    def discretize(self, x: Batch, t: Time, n_steps: float) -> tuple[Batch, Array]:
        """f(x) and G of the step from t - t_max / n_steps to t: DDPM's if both are levels."""
        a, v, _ = self.ancestral(t, n_steps)
        return expand(a - 1, x) * x, jnp.sqrt(v)

    def ancestral(self, t: Time, n_steps: float) -> tuple[Array, Array, Array]:
        """(a, v, std) of DDPM's step (Ho et al. 2020, Eq. 11), with the larger variance, beta."""
        # Computed from log-SNRs, so that 1 - a^2 is not a difference of nearly equal numbers.
        high, low = self.log_snr(jnp.maximum(t - self.t_max / n_steps, 0.0)), self.log_snr(t)
        log_a2 = jax.nn.log_sigmoid(low) - jax.nn.log_sigmoid(high)
        v = -jnp.expm1(log_a2)
        return jnp.exp(0.5 * log_a2), v, jnp.sqrt(v)

    def levels(self, n_levels: int) -> np.ndarray:
        """log-SNRs of the table.

        Raises:
            ValueError: n_levels is not the length of the table.
        """
        if n_levels != len(self.log_snrs):
            raise ValueError(
                f"there are {len(self.log_snrs)} levels in the table, not {n_levels}: set n_levels "
                f"to {len(self.log_snrs)}"
            )
        return np.asarray(self.log_snrs)


def _root(b: Array, c: Array, d: Array, y: Array, u: Array) -> Array:
    """Solves u (b + u (c + u d)) = y for u in [0, 1], from a guess u; the cubic must be decreasing.

    Laguerre's method, which is fast for flat cubics too, with bisection where it leaves its
    bracket. Five steps reach float32's last bit for every monotone cubic (after four the error is
    1e-3 at worst), and seven float64's.
    """
    low, high = jnp.full_like(u, -0.01), jnp.full_like(u, 1.01)
    for _ in range(5 if u.dtype == jnp.float32 else 7):
        error = u * (b + u * (c + u * d)) - y
        low, high = jnp.where(error > 0, u, low), jnp.where(error < 0, u, high)
        slope, curvature = b + u * (2 * c + u * 3 * d), 2 * c + u * 6 * d
        root = jnp.sqrt(jnp.maximum(4 * slope**2 - 6 * error * curvature, 0.0))
        step = u - 3 * error / (slope - root)
        inside = ((low < step) & (step < high)) | (step == u)
        u = jnp.where(error == 0, u, jnp.where(inside, step, 0.5 * (low + high)))
    return jnp.clip(u, 0.0, 1.0)


def from_betas(betas: Sequence[float] | np.ndarray) -> Table:
    """SDE through the noise levels of DDPM's chain: alpha_i^2 = prod_{k <= i} (1 - beta_k).

    Args:
        betas: [N] variances of the forward steps, from the first step to the last.

    Raises:
        ValueError: fewer than two betas, or one outside (0, 1).
    """
    check_known("the table is interpolated on the host", betas=betas)
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or len(betas) < 2 or not ((betas > 0) & (betas < 1)).all():
        raise ValueError(f"betas is {betas}: give two numbers at least, each in (0, 1)")
    log_alpha2 = np.cumsum(np.log1p(-betas))
    return Table(tuple((log_alpha2 - np.log(-np.expm1(log_alpha2))).tolist()))
