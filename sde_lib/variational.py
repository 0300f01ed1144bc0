"""The variational bound of DDPM's chain, term by term, and training with it.

Ho et al. 2020, Eq. 5; Nichol & Dhariwal 2021 (IDDPM), arXiv 2102.09672. A chain is its levels of
noise, by their log-SNRs L_0 > ... > L_{N-1}; of y = x / alpha it needs no more, whatever the SDE.
From t down to s, with d = L_s - L_t, the posterior q(y_s | y_t, x_0) has beta-tilde's variance
l_s^2 (1 - e^-d), l = sigma / alpha, and means that differ by (1 - e^-d) l_t r, where the residual
r = eps - z is that of the model's noise. With w = log(model's variance / posterior's),

    KL(q(y_s | y_t, x_0) || p(y_s | y_t)) = 1/2 sum [w + e^-w - 1 + (e^d - 1) e^-w r^2].

beta's variance, that of the variance-preserving chain, has w = log(sigma_t^2 / sigma_s^2) there.
Learned variance is v of the way from beta-tilde's to beta's: v times that w (IDDPM, Eq. 15). At
the data's end beta is sigma^2 of the first level, and beta-tilde 0: there "posterior" takes beta,
and a learned variance starts from the next step's beta-tilde.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from sde_lib import noise_density
from sde_lib.analytic_variance import AnalyticVariance
from sde_lib.batch import Batch, PerSample, expand, fold_in, normal, sample_keys
from sde_lib.checks import check_at_least, check_name, check_positive
from sde_lib.likelihood import bits_per_dim
from sde_lib.losses import perturb
from sde_lib.noise_density import Quantile
from sde_lib.sde import SDE, ScoreFn, Time, check_score_fn, score_and_variance
from sde_lib.table import Table

Levels = Float[np.ndarray, " levels"]
Variance = str | AnalyticVariance
OPEN = 1e4  # standard deviations: where a bin without an edge ends


class Bound(NamedTuple):
    """Upper bounds of -log p(x_0), in nats, by their parts.

    prior: [B], KL(q(x_T | x_0) || prior). diffusion: [B, N - 1], the KLs of the steps to the levels
    0 to N - 2. reconstruction: [B], -log p(x_0 | x_1), without grey levels that of a density.
    """

    prior: PerSample
    diffusion: Float[Array, "batch steps"]
    reconstruction: PerSample

    @property
    def total(self) -> PerSample:
        return self.prior + jnp.sum(self.diffusion, axis=1) + self.reconstruction


def chain(sde: SDE, n_steps: int, n_levels: int | None = None) -> Levels:
    """The log-SNRs of a chain of n_steps levels, decreasing.

    Args:
        sde: of a continuous model: they are even in log-SNR from train_t_min to t_max.
        n_steps: how many.
        n_levels: those that a discrete model was trained at: the chain is an even choice of them.

    Raises:
        ValueError: fewer than two steps, more than levels, or an SDE with levels without end.
    """
    check_at_least(2, n_steps=n_steps)
    if n_levels is None and not isinstance(sde, Table):
        with jax.ensure_compile_time_eval():
            high, low = map(float, noise_density.log_snrs(sde))
        if not math.isfinite(high - low):
            raise ValueError(f"{sde} has no end of levels: give it a positive train_t_min")
        return np.linspace(high, low, n_steps)
    levels = sde.log_snrs if isinstance(sde, Table) else sde.levels(n_levels or 0)
    if n_steps > len(levels):
        raise ValueError(
            f"the chain is to have {n_steps} steps, but the model was trained at {len(levels)} "
            "levels: take so many at most"
        )
    chosen = np.linspace(0, len(levels) - 1, n_steps).round().astype(int)
    return np.sort(np.asarray(levels, np.float64))[::-1][chosen]


def variational_bound(
    key: PRNGKeyArray,
    sde: SDE,
    score_fn: ScoreFn,
    x0: Batch,
    log_snrs: Levels,
    variance: Variance = "beta",
    data_range: tuple[float, float] = (-1.0, 1.0),
    levels: int | None = None,
    first_index: int | Array = 0,
) -> Bound:
    """The bound of each sample, from one draw of x_t at each level; N network evaluations.

    Args:
        key: randomness of the draws; sample i's depend on key and first_index + i alone.
        sde: the forward SDE.
        score_fn: the model.
        x0: [B, ...] data.
        log_snrs: of the chain's levels, such as chain(sde, 1000).
        variance: of the model's steps: "beta", right for data of unit variance, or "posterior",
            right for a single point (Ho et al. 2020, Section 3.2); "learned", of a score_fn that
            is a ScoreAndVariance; or Analytic-DPM's.
        data_range: values of the first and the last grey level.
        levels: number of grey levels, which x0 takes; None for continuous data.
        first_index: index of x0's first sample in its data set.

    Raises:
        ValueError: levels that do not decrease, an unknown variance, "learned" of a model without,
            or a score_fn that changes the shape.
    """
    check_score_fn(score_fn, x0.shape)
    steps, keys = _Steps.of(log_snrs), sample_keys(key, len(x0), first_index)
    learned = variance == "learned"
    both = score_and_variance(score_fn) if learned else lambda x, t: (score_fn(x, t), x)
    table = None if learned else jnp.asarray(steps.log_ratio(variance), jnp.float32)
    times = sde.inverse_log_snr(jnp.asarray(log_snrs, jnp.float32))

    def at(k: Array) -> PerSample:
        t, z = jnp.full(len(x0), times[k]), normal(fold_in(keys, k), x0.shape)
        mean, std = (expand(a, x0) for a in sde.marginal(x0, t))
        score, v = both(mean + std * z, t)
        place = jnp.full(len(x0), k)
        ratio = steps.learned(place, v) if table is None else jnp.full_like(x0, table[k])
        return steps.terms(place, x0, -std * score - z, ratio, data_range, levels)

    terms = jax.lax.map(at, jnp.arange(len(log_snrs))).T
    return Bound(prior_kl(sde, x0, times[-1]), terms[:, 1:], terms[:, 0])


def variational_loss(
    key: PRNGKeyArray,
    sde: SDE,
    score_fn: ScoreFn,
    x0: Batch,
    vlb_weight: float | None = 1e-3,
    stratified: bool = False,
    first_index: int | Array = 0,
    n_strata: int | None = None,
    data_range: tuple[float, float] = (-1.0, 1.0),
    levels: int | None = None,
    probabilities: Float[Array, " levels"] | None = None,
) -> tuple[PerSample, dict[str, PerSample]]:
    """L_hybrid, or L_vlb, of a model that learns the variance (IDDPM, Eq. 16 and Section 3.3).

    L_simple is the mean square of the residual. L_vlb is the bound in bits/dim without the prior's
    term, which nothing is to learn in: N times that of a random level. In L_hybrid its gradient
    does not reach the mean.

    Args:
        key: randomness of t and z; sample i's depends on key and i alone unless stratified.
        sde: the levels of the chain.
        score_fn: the model, a ScoreAndVariance.
        x0: [B, ...] data.
        vlb_weight: of L_vlb beside L_simple; None for L_vlb alone.
        stratified: as in denoising_score_matching; so are first_index and n_strata.
        first_index: index of the first sample in the stream `key`.
        n_strata: of the batch.
        data_range: values of the first and the last grey level.
        levels: number of grey levels, which x0 takes; None for continuous data.
        probabilities: of the levels, in place of equal ones; the loss is divided by them (L_vlb's
            importance sampling).

    Returns:
        The losses [B], and metrics [B]: "t", "error", the mean square of the residual, "bits", the
        level's N terms in bits/dim, and "level".

    Raises:
        ValueError: an SDE other than Table, a model without a variance, or a vlb_weight that is
            negative or not finite.
    """
    if not isinstance(sde, Table):
        raise ValueError(f"a variance is learned for the levels of DDPM's chain, not under {sde}")
    check_positive(or_zero=True, vlb_weight=vlb_weight)
    both, steps, n = score_and_variance(score_fn), _Steps.of(sde.log_snrs), len(sde.log_snrs)
    density = None if probabilities is None else _of_levels(sde, probabilities)
    among = n if density is None else None
    x, t, z, std, _ = perturb(key, sde, x0, density, stratified, among, first_index, n_strata)
    level = jnp.round(t * ((n - 1) / sde.t_max)).astype(int)
    score, v = both(x, t)
    residual = -expand(std, x0) * score - z
    error = jnp.mean(residual**2, axis=tuple(range(1, x0.ndim)))
    known = residual if vlb_weight is None else jax.lax.stop_gradient(residual)
    terms = steps.terms(level, x0, known, steps.learned(level, v), data_range, levels)
    bits = n * bits_per_dim(-terms, x0.shape[1:], levels=None)
    loss = bits if vlb_weight is None else error + vlb_weight * bits
    if probabilities is not None:
        loss /= n * probabilities[level]
    return loss, {"t": t, "error": error, "bits": bits, "level": level}


def discretized_gaussian(
    x: Batch,
    mean: Batch,
    log_variance: Batch,
    data_range: tuple[float, float],
    levels: int,
) -> Batch:
    """log of a Gaussian's mass in the bin around each grey level (Ho et al. 2020, Eq. 13).

    The bins meet half-way between the levels; the first and the last have no outer edge.

    Args:
        x: values of the grey levels 0 to levels - 1, which fill data_range evenly.
        mean: of the Gaussian, and log_variance the logarithm of its variance.
        data_range: values of the first and the last level.
        levels: how many.
    """
    low, high = data_range
    half = 0.5 * (high - low) / (levels - 1)
    scale, centred = jnp.exp(-0.5 * log_variance), x - mean
    below = jnp.where(x < low + half, -OPEN, (centred - half) * scale)
    above = jnp.where(x > high - half, OPEN, (centred + half) * scale)
    # Mirrored to where the normal distribution function is small, and its logarithm exact.
    mirrored = below + above > 0
    a, b = jnp.where(mirrored, -above, below), jnp.where(mirrored, -below, above)
    log_a, log_b = log_ndtr(a), log_ndtr(b)
    return log_b + jnp.log(-jnp.expm1(jnp.minimum(log_a - log_b, -1e-30)))


class _Steps(NamedTuple):
    """Of a chain: log-SNRs L; d of the step from each level, and log(sigma_t^2 / sigma_s^2).

    The first of the latter is that of the data's end, log(beta / beta-tilde) of p(x_0 | x_1).
    """

    log_snrs: Levels
    falls: Levels
    ranges: Levels

    @classmethod
    def of(cls, log_snrs: Levels | tuple[float, ...]) -> "_Steps":
        log_snrs = np.asarray(log_snrs, np.float64)
        if len(log_snrs) < 2 or not (np.diff(log_snrs) < 0).all():
            raise ValueError("log_snrs must be two numbers at least, each below the one before")
        falls, log_variance = -np.diff(log_snrs), -np.logaddexp(0, log_snrs)
        first = -np.log(-np.expm1(-falls[0]))
        return cls(log_snrs, np.append(falls[0], falls), np.append(first, np.diff(log_variance)))

    @property
    def first_log_variance(self) -> float:
        """The logarithm of beta-tilde, as p(x_0 | x_1) has it."""
        return float(-np.logaddexp(0, self.log_snrs[0]) - self.ranges[0])

    def log_ratio(self, variance: Variance) -> Levels:
        """w at each level."""
        if isinstance(variance, AnalyticVariance):
            ratio = variance.log_ratio(self.log_snrs[1:], self.log_snrs[:-1])
            first = np.log(max(variance.at(self.log_snrs[:1])[0], 1e-30)) - self.log_snrs[0]
            return np.append(max(first - self.first_log_variance, 0.0), ratio)
        check_name("variance", variance, ("beta", "posterior", "learned"))
        return self.ranges * ((variance == "beta") | (np.arange(len(self.ranges)) == 0))

    def learned(self, level: Int[Array, " batch"], v: Batch) -> Batch:
        """w at these levels, from the v of a model."""
        return v * expand(jnp.asarray(self.ranges, jnp.float32)[level], v)

    def terms(
        self,
        level: Int[Array, " batch"],
        x0: Batch,
        residual: Batch,
        ratio: Batch,
        data_range: tuple[float, float],
        levels: int | None,
    ) -> PerSample:
        """The bound's term of each sample at its level, in nats: at level 0 the reconstruction."""
        fall = expand(jnp.asarray(self.falls, jnp.float32)[level], x0)
        kl = 0.5 * (ratio + jnp.expm1(-ratio) + jnp.expm1(fall) * jnp.exp(-ratio) * residual**2)
        away = residual * np.exp(-0.5 * self.log_snrs[0])  # x_0 less the mean, at level 0
        log_variance = self.first_log_variance + ratio
        if levels is None:
            density = away**2 * jnp.exp(-log_variance) + log_variance + math.log(2 * math.pi)
            first = 0.5 * density
        else:
            first = -discretized_gaussian(x0, x0 - away, log_variance, data_range, levels)
        axes = tuple(range(1, x0.ndim))
        return jnp.sum(jnp.where(expand(level, x0) == 0, first, kl), axis=axes)


def prior_kl(sde: SDE, x0: Batch, t: Time) -> PerSample:
    """KL(q(x_t | x_0) || prior), [B] in nats."""
    axes, prior = tuple(range(1, x0.ndim)), sde.prior_std
    mean, excess = sde.alpha(t) * x0 / prior, (sde.sigma(t) / prior) ** 2 - 1
    return 0.5 * jnp.sum(mean**2 + excess - jnp.log1p(excess), axis=axes)


def _of_levels(sde: Table, probabilities: Float[Array, " levels"]) -> Quantile:
    """The density of noise levels that has these alone."""
    edges, log_snrs = jnp.cumsum(probabilities), jnp.asarray(sde.log_snrs, jnp.float32)

    def quantile(u: PerSample) -> PerSample:
        place = jnp.searchsorted(edges, u * edges[-1], side="right", method="compare_all")
        return log_snrs[jnp.minimum(place, len(log_snrs) - 1)]

    return quantile
