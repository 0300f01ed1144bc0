"""Variational bound (ELBO) of DDPM's chain, term by term, and training with it.

Ho et al. 2020, Eq. 5; Nichol & Dhariwal 2021 (IDDPM), arXiv 2102.09672. In y = x / alpha a chain is
given by the log-SNRs L_0 > ... > L_{N-1} of its noise levels l = sigma / alpha, whatever the SDE.
For the step from t down to s let d = L_s - L_t. The posterior q(y_s | y_t, x_0) has the variance
beta-tilde, l_s^2 (1 - e^-d). The model's mean differs from its mean by (1 - e^-d) l_t r, where
r = eps - z is the error of the predicted noise. With w = log(model's variance / beta-tilde),

    KL(q(y_s | y_t, x_0) || p(y_s | y_t)) = 1/2 sum [w + e^-w - 1 + (e^d - 1) e^-w r^2].

The variance beta of the variance-preserving chain has w = log(sigma_t^2 / sigma_s^2). A learned
variance interpolates in log between beta-tilde (v = 0) and beta (v = 1): v times this w (IDDPM,
Eq. 15). In the last step, p(x_0 | x_1), beta is sigma^2 of the first level and beta-tilde is 0:
there "posterior" uses beta, and a learned variance the beta-tilde of the step from level 1 to 0.
"""

import math
from collections.abc import Sequence
from functools import partial
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
from sde_lib.weighting import Weighting

Levels = Float[np.ndarray, " levels"]
Variance = str | AnalyticVariance
INFINITE_EDGE = 1e4  # standard deviations; stands for the open edge of the first and last bin


class Bound(NamedTuple):
    """The terms of an upper bound of -log p(x_0), in nats.

    Attributes:
        prior: [B], KL(q(x_T | x_0) || prior).
        diffusion: [B, N - 1], the KLs of the steps to the levels 0 to N - 2.
        reconstruction: [B], -log p(x_0 | x_1); of a density for continuous data.
    """

    prior: PerSample
    diffusion: Float[Array, "batch steps"]
    reconstruction: PerSample

    @property
    def total(self) -> PerSample:
        """The bound: the sum of all terms, [B]."""
        return self.prior + jnp.sum(self.diffusion, axis=1) + self.reconstruction


def chain(sde: SDE, n_steps: int, n_levels: int | None = None) -> Levels:
    """Log-SNRs of a chain of n_steps noise levels, decreasing.

    For a continuous SDE they are evenly spaced in log-SNR from train_t_min to t_max. For a Table or
    a model trained at discrete levels they are an evenly spaced subset of its levels.

    Args:
        sde: the forward SDE.
        n_steps: number of levels in the chain.
        n_levels: number of discrete levels the model was trained at; None for a continuous model.

    Raises:
        ValueError: fewer than two steps, more steps than levels, or an SDE with unbounded log-SNR.
    """
    check_at_least(2, n_steps=n_steps)
    if n_levels is None and not isinstance(sde, Table):
        with jax.ensure_compile_time_eval():
            high, low = map(float, noise_density.log_snrs(sde))
        if not math.isfinite(high - low):
            raise ValueError(
                f"the log-SNR of {sde} is unbounded in training: give it a positive train_t_min"
            )
        return np.linspace(high, low, n_steps)
    levels = sde.log_snrs if isinstance(sde, Table) else sde.levels(n_levels or 0)
    if n_steps > len(levels):
        raise ValueError(
            f"the chain has {n_steps} steps, but the model was trained at {len(levels)} levels: "
            f"take at most {len(levels)} steps"
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
    """The bound of each sample, from one draw of x_t at each level; costs N network evaluations.

    Args:
        key: randomness of the draws; sample i's depend on key and first_index + i alone.
        sde: the forward SDE.
        score_fn: the model's score.
        x0: [B, ...] data.
        log_snrs: log-SNRs of the chain's levels, such as chain(sde, 1000).
        variance: variance of the model's steps. "beta" is optimal for data of unit variance,
            "posterior" for a single point (Ho et al. 2020, Section 3.2). "learned" needs a
            ScoreAndVariance. An AnalyticVariance is optimal for the data it was estimated from.
        data_range: values of the first and the last grey level.
        levels: number of grey levels of x0; None for continuous data.
        first_index: index of x0's first sample in its data set.

    Raises:
        ValueError: log_snrs that do not decrease, an unknown variance, "learned" for a model
            without one, or a score_fn that changes the shape.
    """
    check_score_fn(score_fn, x0.shape)
    steps, keys = _Steps.of(log_snrs), sample_keys(key, len(x0), first_index)
    learned = variance == "learned"
    both = score_and_variance(score_fn) if learned else lambda x, t: (score_fn(x, t), x)
    table = None if learned else jnp.asarray(steps.log_ratio(variance), float)
    times = sde.inverse_log_snr(jnp.asarray(log_snrs, float))

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
    """Training loss of a learned variance: L_hybrid, or L_vlb (IDDPM, Eq. 16 and Section 3.3).

    L_simple is the mean square of r. L_vlb is the bound in bits/dim without the prior's term, which
    has no parameters: N times the term of one random level. L_hybrid = L_simple + vlb_weight L_vlb,
    where the gradient of L_vlb reaches the variance but not the mean.

    Args:
        key: randomness of t and z; sample i's depends on key and i alone unless stratified.
        sde: a Table with the levels of the chain.
        score_fn: the model, a ScoreAndVariance.
        x0: [B, ...] data.
        vlb_weight: weight of L_vlb in L_hybrid; None for L_vlb alone.
        stratified: see sde_lib.perturb; likewise n_strata.
        first_index: index of the first sample in the stream `key`.
        data_range: values of the first and the last grey level.
        levels: number of grey levels of x0; None for continuous data.
        probabilities: probability of drawing each level, None for equal ones. The loss is divided
            by them, so its expectation stays (importance sampling of L_vlb).

    Returns:
        The losses [B], and metrics [B]: "t"; "error", the mean square of r; "bits", N times the
        level's term in bits/dim; and "level".

    Raises:
        ValueError: an SDE other than a Table, a model without a learned variance, or a vlb_weight
            that is negative or not finite.
    """
    if not isinstance(sde, Table):
        raise ValueError(
            f"a learned variance needs the levels of DDPM's chain (sde_lib.from_betas), not {sde}"
        )
    check_positive(or_zero=True, vlb_weight=vlb_weight)
    both, steps, n = score_and_variance(score_fn), _Steps.of(sde.log_snrs), len(sde.log_snrs)
    density = None if probabilities is None else _discrete_density(sde, probabilities)
    n_levels = n if density is None else None
    x, t, z, std, _ = perturb(key, sde, x0, density, stratified, n_levels, first_index, n_strata)
    level = jnp.round(t * ((n - 1) / sde.t_max)).astype(int)
    score, v = both(x, t)
    residual = -expand(std, x0) * score - z
    error = jnp.mean(residual**2, axis=tuple(range(1, x0.ndim)))
    fixed = residual if vlb_weight is None else jax.lax.stop_gradient(residual)
    terms = steps.terms(level, x0, fixed, steps.learned(level, v), data_range, levels)
    bits = n * bits_per_dim(-terms, x0.shape[1:], levels=None)
    loss = bits if vlb_weight is None else error + vlb_weight * bits
    if probabilities is not None:
        loss /= n * probabilities[level]
    return loss, {"t": t, "error": error, "bits": bits, "level": level}


def elbo_weighting(log_snrs: Levels | Sequence[float], variance: str = "beta") -> Weighting:
    """The weighting with which score matching at a chain's levels is the bound (Ho et al., Eq. 12).

    With w = N (e^d - 1) e^-w of the module's docstring, and N / alpha_0^2 at level 0, the mean over
    the levels of 1/2 sum w r^2 is the bound of continuous data in nats, up to a constant.

    Args:
        log_snrs: log-SNRs of the N levels, in any order, such as sde.levels(n_levels).
        variance: variance of the model's steps, "beta" or "posterior".

    Raises:
        ValueError: fewer than two levels, two equal ones, or another variance.
    """
    check_name("variance", variance, ("beta", "posterior"))
    steps = _Steps.of(np.sort(np.asarray(log_snrs, np.float64))[::-1])
    weights = len(log_snrs) * np.expm1(steps.falls) * np.exp(-steps.log_ratio(variance))
    weights[0] = len(log_snrs) * (1 + np.exp(-steps.log_snrs[0]))
    knots = (jnp.asarray(values[::-1], float) for values in (steps.log_snrs, weights))
    return partial(jnp.interp, **dict(zip(("xp", "fp"), knots, strict=True)))


def discretized_gaussian(
    x: Batch,
    mean: Batch,
    log_variance: Batch,
    data_range: tuple[float, float],
    levels: int,
) -> Batch:
    """Log probability of grey levels under a Gaussian, by integrals over bins (Ho et al., Eq. 13).

    The bins meet half-way between the levels; the first and the last have no outer edge.

    Args:
        x: values of the data, among `levels` evenly spaced grey levels that span data_range.
        mean: mean of the Gaussian, of x's shape.
        log_variance: logarithm of its variance, of x's shape.
        data_range: values of the first and the last level.
        levels: number of grey levels.
    """
    low, high = data_range
    half = 0.5 * (high - low) / (levels - 1)
    scale, centred = jnp.exp(-0.5 * log_variance), x - mean
    below = jnp.where(x < low + half, -INFINITE_EDGE, (centred - half) * scale)
    above = jnp.where(x > high - half, INFINITE_EDGE, (centred + half) * scale)
    # Bins above the mean are mirrored to below it, where the log of the normal CDF is exact.
    mirrored = below + above > 0
    a, b = jnp.where(mirrored, -above, below), jnp.where(mirrored, -below, above)
    log_a, log_b = log_ndtr(a), log_ndtr(b)
    return log_b + jnp.log(-jnp.expm1(jnp.minimum(log_a - log_b, -1e-30)))


class _Steps(NamedTuple):
    """The steps of a chain, one per level.

    Attributes:
        log_snrs: log-SNR of each level.
        falls: d, the fall of the log-SNR over the step that starts from each level.
        ranges: log(beta / beta-tilde) = log(sigma_t^2 / sigma_s^2) of each of these steps; at
            level 0, with the beta-tilde of the step from level 1.
    """

    log_snrs: Levels
    falls: Levels
    ranges: Levels

    @classmethod
    def of(cls, log_snrs: Levels | tuple[float, ...]) -> "_Steps":
        log_snrs = np.asarray(log_snrs, np.float64)
        if len(log_snrs) < 2 or not (np.diff(log_snrs) < 0).all():
            raise ValueError(
                f"log_snrs has {len(log_snrs)} values: give two numbers at least, each below the "
                "one before"
            )
        falls, log_variance = -np.diff(log_snrs), -np.logaddexp(0, log_snrs)
        first = -np.log(-np.expm1(-falls[0]))
        return cls(log_snrs, np.append(falls[0], falls), np.append(first, np.diff(log_variance)))

    @property
    def first_log_variance(self) -> float:
        """The log of the beta-tilde that p(x_0 | x_1) uses."""
        return float(-np.logaddexp(0, self.log_snrs[0]) - self.ranges[0])

    def log_ratio(self, variance: Variance) -> Levels:
        """The log ratio w of the model's variance to beta-tilde, at each level."""
        if isinstance(variance, AnalyticVariance):
            ratio = variance.log_ratio(self.log_snrs[1:], self.log_snrs[:-1])
            first = np.log(max(variance.at(self.log_snrs[:1])[0], 1e-30)) - self.log_snrs[0]
            return np.append(max(first - self.first_log_variance, 0.0), ratio)
        check_name("variance", variance, ("beta", "posterior", "learned"))
        return self.ranges * ((variance == "beta") | (np.arange(len(self.ranges)) == 0))

    def learned(self, level: Int[Array, " batch"], v: Batch) -> Batch:
        """The log ratio w at each sample's level, from the network's output v."""
        return v * expand(jnp.asarray(self.ranges, float)[level], v)

    def terms(
        self,
        level: Int[Array, " batch"],
        x0: Batch,
        residual: Batch,
        ratio: Batch,
        data_range: tuple[float, float],
        levels: int | None,
    ) -> PerSample:
        """The term of the bound of each sample at its level, in nats; level 0: reconstruction."""
        fall = expand(jnp.asarray(self.falls, float)[level], x0)
        kl = 0.5 * (ratio + jnp.expm1(-ratio) + jnp.expm1(fall) * jnp.exp(-ratio) * residual**2)
        away = residual * np.exp(-0.5 * self.log_snrs[0])  # x_0 minus the mean, at level 0
        log_variance = self.first_log_variance + ratio
        if levels is None:
            density = away**2 * jnp.exp(-log_variance) + log_variance + math.log(2 * math.pi)
            first = 0.5 * density
        else:
            first = -discretized_gaussian(x0, x0 - away, log_variance, data_range, levels)
        axes = tuple(range(1, x0.ndim))
        return jnp.sum(jnp.where(expand(level, x0) == 0, first, kl), axis=axes)


def prior_kl(sde: SDE, x0: Batch, t: Time) -> PerSample:
    """The prior's term, KL(q(x_t | x_0) || prior), [B] in nats."""
    axes, prior = tuple(range(1, x0.ndim)), sde.prior_std
    mean, excess = sde.alpha(t) * x0 / prior, (sde.sigma(t) / prior) ** 2 - 1
    return 0.5 * jnp.sum(mean**2 + excess - jnp.log1p(excess), axis=axes)


def _discrete_density(sde: Table, probabilities: Float[Array, " levels"]) -> Quantile:
    """Quantile function of the density on the table's levels with these probabilities."""
    edges, log_snrs = jnp.cumsum(probabilities), jnp.asarray(sde.log_snrs, float)

    def quantile(u: PerSample) -> PerSample:
        place = jnp.searchsorted(edges, u * edges[-1], side="right", method="compare_all")
        return log_snrs[jnp.minimum(place, len(log_snrs) - 1)]

    return quantile
