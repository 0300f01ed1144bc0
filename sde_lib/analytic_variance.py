"""The best variance of a step of DDPM's chain, for a trained model (Analytic-DPM).

Bao et al. 2022, arXiv 2201.06503. With the level l = sigma / alpha, of y = x / alpha and the noise
eps(y) = -sigma score that the model sees in it, the step from t to s has the variance of
q(y_s | y_t, x_0) and what is left to know of x_0: (1 - l_s^2 / l_t^2)^2 l_t^2 u, where
u = 1 - E|eps|^2 / d lies in [0, 1]. l_t^2 u is also at most the square of half the data's range.
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
    """What a model leaves unknown at levels of noise; between them it is linear in the log-SNR.

    Attributes:
        log_snrs: of the levels, decreasing.
        unknown: u at each, in [0, 1].

    Raises ValueError for levels that do not decrease, or numbers that do not fit them.
    """

    log_snrs: tuple[float, ...]
    unknown: tuple[float, ...]

    def __post_init__(self):
        if len(self.log_snrs) != len(self.unknown) or not (np.diff(self.log_snrs) < 0).all():
            raise ValueError(
                f"there are {len(self.log_snrs)} log_snrs and {len(self.unknown)} numbers: they "
                "must be as many, and the log_snrs decrease"
            )

    def at(self, log_snr: Levels) -> Levels:
        """u at any levels."""
        return np.interp(log_snr, self.log_snrs[::-1], self.unknown[::-1])

    def log_ratio(self, now: Levels, then: Levels) -> Levels:
        """log of the variance of steps from log-SNRs `now` up to `then`, over the posterior's."""
        return np.log1p(np.expm1(then - now) * self.at(now))


def from_squares(
    log_snrs: Levels,
    squares: Float[np.ndarray, " levels"],
    noise: Float[np.ndarray, " levels"] | float = 1.0,
    data_range: tuple[float, float] | None = None,
) -> AnalyticVariance:
    """From E|eps|^2 / d at levels, within its bounds (Bao et al. 2022, Theorem 2).

    Args:
        log_snrs: of the levels, decreasing.
        squares: mean_squares at these, averaged over data,
        noise: and those of the noise itself, a control variate: what they miss of 1, the others
            miss too, where the model sees much of the noise (for Gaussian data E|eps|^4 / d^2 of
            it).
        data_range: that the data lie in, where they are bounded.
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
    """|eps|^2 / d and |z|^2 / d of data with noise z, one draw for each sample and level.

    Args:
        key: randomness of the noise; sample i's depends on key and first_index + i alone.
        sde: the forward SDE.
        score_fn: the model.
        x0: [B, ...] data.
        log_snrs: of the levels.
        first_index: index of x0's first sample in its data set.
    """
    keys, axes = sample_keys(key, len(x0), first_index), tuple(range(1, x0.ndim))
    times = sde.inverse_log_snr(jnp.asarray(log_snrs, jnp.float32))

    def at(k: Array) -> tuple[Array, Array]:
        t, z = jnp.full(len(x0), times[k]), normal(fold_in(keys, k), x0.shape)
        mean, std = (expand(a, x0) for a in sde.marginal(x0, t))
        score = score_fn(mean + std * z, t)
        return jnp.mean((std * score) ** 2, axis=axes), jnp.mean(z**2, axis=axes)

    squares, noise = jax.lax.map(at, jnp.arange(len(log_snrs)))
    return squares.T, noise.T
