"""Analytic-DPM: the optimal variance of DDPM's reverse step, estimated for a trained model.

Bao et al. 2022, arXiv 2201.06503. With the noise level l = sigma / alpha, y = x / alpha and the
predicted noise eps(y) = -sigma score, the optimal variance of the step from t to s is that of
q(y_s | y_t, x_0) plus (1 - l_s^2 / l_t^2)^2 l_t^2 u. Here u = 1 - E|eps|^2 / d, in [0, 1], is the
mean squared error of the predicted noise, and l_t^2 u the posterior variance of x_0 a dimension.
For bounded data, l_t^2 u is at most (half the width of the data's range)^2.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from sde_lib.batch import Batch, expand, fold_in, normal, sample_keys
from sde_lib.sde import SDE, ScoreFn

Levels = Float[np.ndarray, " levels"]


@dataclasses.dataclass(frozen=True)
class AnalyticVariance:
    """The error u of the predicted noise at given noise levels, which fixes a step's variance.

    Between the levels, u is linear in the log-SNR; beyond them it is constant.

    Attributes:
        log_snrs: log-SNR of each level, decreasing.
        unknown: u at each level, in [0, 1].

    Raises:
        ValueError: log_snrs that do not decrease, or another number of values in `unknown`.
    """

    log_snrs: tuple[float, ...]
    unknown: tuple[float, ...]

    def __post_init__(self):
        if len(self.log_snrs) != len(self.unknown) or not (np.diff(self.log_snrs) < 0).all():
            raise ValueError(
                f"log_snrs has {len(self.log_snrs)} values and unknown {len(self.unknown)}: give "
                "as many of each, with log_snrs decreasing"
            )

    def at(self, log_snr: Levels) -> Levels:
        """The error u at the given log-SNRs, by linear interpolation."""
        return np.interp(log_snr, self.log_snrs[::-1], self.unknown[::-1])

    def log_ratio(self, now: Levels, then: Levels) -> Levels:
        """log(optimal / posterior variance) of the steps from log-SNRs `now` up to `then`."""
        return np.log1p(np.expm1(then - now) * self.at(now))


def from_squares(
    log_snrs: Levels,
    squares: Float[np.ndarray, " levels"],
    noise: Float[np.ndarray, " levels"] | float = 1.0,
    data_range: tuple[float, float] | None = None,
) -> AnalyticVariance:
    """Estimates u from E|eps|^2 / d at each level, within its bounds (Bao et al. 2022, Theorem 2).

    Args:
        log_snrs: log-SNR of each level, decreasing.
        squares: |eps|^2 / d of the predicted noise, averaged over the data; see mean_squares.
        noise: |z|^2 / d of the true noise, averaged over the same draws: a control variate. Its
            deviation from 1, times (E|eps|^2 / d)^2 (the optimum for Gaussian data), is subtracted.
        data_range: (low, high) of bounded data; None for unbounded data.
    """
    most = np.ones(len(log_snrs))
    if data_range is not None:
        half = 0.5 * (data_range[1] - data_range[0])
        most = np.minimum(most, half**2 * np.exp(log_snrs))
    squares = np.asarray(squares, np.float64)
    squares = squares - np.clip(squares, 0, 1) ** 2 * (np.asarray(noise, np.float64) - 1)
    unknown = np.clip(1 - squares, 0, most)
    return AnalyticVariance(tuple(map(float, log_snrs)), tuple(unknown.tolist()))


def mean_squares(
    key: PRNGKeyArray,
    sde: SDE,
    score_fn: ScoreFn,
    x0: Batch,
    log_snrs: Levels,
    first_index: int | Array = 0,
) -> tuple[Float[Array, "batch levels"], Float[Array, "batch levels"]]:
    """|eps|^2 / d and |z|^2 / d, each [B, levels], from one draw of z per sample and level.

    Args:
        key: randomness of the noise; sample i's depends on key and first_index + i alone.
        sde: the forward SDE.
        score_fn: the model's score.
        x0: [B, ...] data.
        log_snrs: log-SNR of each level.
        first_index: index of x0's first sample in its data set.
    """
    keys, axes = sample_keys(key, len(x0), first_index), tuple(range(1, x0.ndim))
    times = sde.inverse_log_snr(jnp.asarray(log_snrs, float))

    def at(k: Array) -> tuple[Array, Array]:
        t, z = jnp.full(len(x0), times[k]), normal(fold_in(keys, k), x0.shape)
        mean, std = (expand(a, x0) for a in sde.marginal(x0, t))
        score = score_fn(mean + std * z, t)
        return jnp.mean((std * score) ** 2, axis=axes), jnp.mean(z**2, axis=axes)

    squares, noise = jax.lax.map(at, jnp.arange(len(log_snrs)))
    return squares.T, noise.T
