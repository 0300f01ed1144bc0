"""Training objectives: a loss for each sample, to be averaged by the caller."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray

from sde_lib import noise_density as noise_densities
from sde_lib.batch import Batch, PerSample, expand, fold_in, normal, sample_keys
from sde_lib.checks import check_positive
from sde_lib.noise_density import Quantile
from sde_lib.sde import SDE, ScoreFn
from sde_lib.weighting import Weighting

BATCH = 2**32 - 1  # in the place of a sample's index: of what a batch has in common


class Noisy(NamedTuple):
    """x = alpha(t) x_0 + std z: [B, ...], with t, std = sigma(t) and the loss's weight of [B].

    Of a state that is more than its data, they are its own.

    With an input perturbation gamma, x = alpha(t) x_0 + std (z + gamma xi).
    """

    x: Batch
    t: PerSample
    z: Batch
    std: PerSample
    weight: PerSample


def perturb(
    key: PRNGKeyArray,
    sde: SDE,
    x0: Batch,
    noise_density: Quantile | None = None,
    stratified: bool = False,
    n_levels: int | None = None,
    first_index: int | jax.Array = 0,
    n_strata: int | None = None,
    input_perturbation: float = 0.0,
    likelihood_weighting: bool = False,
    importance_sampling: bool = False,
    weighting: Weighting | None = None,
    soft_truncation: float | None = None,
) -> Noisy:
    """Data with noise of a random level, and w, the weight of the squared error of that noise.

    The variance weighting is w = 1; the likelihood weighting w = g^2 / sigma^2 bounds the negative
    log-likelihood (Song et al. 2021b, arXiv 2101.09258); sde_lib.weighting has others.

    Args:
        key: randomness of t and z; sample i's depends on key and i alone unless stratified.
        sde: the forward SDE.
        x0: [B, ...] data.
        noise_density: of sigma / alpha (sde_lib.noise_density); None draws t uniformly.
        stratified: one t in each of B equally probable strata; same expectation, lower variance
            (by 2 for Gaussian data and B = 128).
        n_levels: draw t from the SDE's discrete levels: the objectives of SMLD (VE; Song and Ermon
            2019, Eq. 6) and of DDPM (VP; Ho et al. 2020, Eq. 14).
        first_index: index of the first sample in the stream `key`.
        n_strata: with stratified, the size of the batch that x0 is a part of: sample i of the
            stream lies in stratum i % n_strata; default B.
        input_perturbation: gamma of x_t = alpha x_0 + sigma (z + gamma xi), where xi is more noise
            that the target z knows nothing of: training on inputs as far off as those of sampling
            (Ning et al. 2023, arXiv 2301.11706; there 0.1).
        likelihood_weighting: weight by g^2 instead of sigma^2.
        importance_sampling: with likelihood_weighting, draw t with density proportional to
            g^2 / sigma^2, i.e. uniform in log-SNR; same expectation, lower variance (by 70 under
            VP for Gaussian data).
        weighting: w of the log-SNR (sde_lib.weighting), in place of the two above.
        soft_truncation: k of a smallest time tau that all of `key` has in common, of density
            proportional to 1 / tau^k on [train_t_min, t_max] (Kim et al. 2022, arXiv 2106.05527).
            t has its density's part above tau, and w that part's probability as a factor: so the
            loss is the integral over [tau, t_max], in expectation that of the loss at t times
            P(tau <= t).

    Raises:
        ValueError: importance_sampling without likelihood_weighting; two densities of t, or two
            weightings; n_levels for an SDE that has none; a negative input_perturbation or
            soft_truncation; soft_truncation of levels, or of an SDE with train_t_min = 0.
    """
    densities = noise_density, importance_sampling, n_levels, soft_truncation
    _check_options(likelihood_weighting, weighting, *densities)
    check_positive(or_zero=True, input_perturbation=input_perturbation)
    if importance_sampling:
        noise_density = noise_densities.log_uniform(sde)
    keys = sample_keys(key, x0.shape[0], first_index)
    u = draw_uniform(keys, stratified, first_index, n_strata)
    share = 1.0
    if soft_truncation is not None:
        tau = smallest_time(jax.random.fold_in(key, BATCH), sde, soft_truncation)
        below = _probability_below(tau, sde, noise_density)
        share = 1 - below
        u = below + u * share
    if n_levels:
        level = jnp.minimum(jnp.floor(u * n_levels), n_levels - 1).astype(int)
        t = sde.inverse_log_snr(jnp.asarray(sde.levels(n_levels), jnp.float32)[level])
    elif noise_density:
        t = jnp.clip(sde.inverse_log_snr(noise_density(u)), sde.train_t_min, sde.t_max)
    else:
        t = sde.train_t_min + u * (sde.t_max - sde.train_t_min)
    z = noise = normal(fold_in(keys, 1), sde.state_shape(x0.shape))
    if input_perturbation:
        noise = z + input_perturbation * normal(fold_in(keys, 2), z.shape)
    weight = share * _weight(sde, t, likelihood_weighting, importance_sampling, weighting)
    return Noisy(sde.noised(x0, t, noise), t, z, sde.sigma(t), weight)


def draw_uniform(
    keys: Key[Array, " batch"],
    stratified: bool = False,
    first_index: int | jax.Array = 0,
    n_strata: int | None = None,
) -> PerSample:
    """u in [0, 1] for each sample's key; stratified, in stratum (first_index + i) % n_strata."""
    u = jax.vmap(jax.random.uniform)(fold_in(keys, 0))
    if not stratified:
        return u
    n_strata = n_strata or len(u)
    return ((first_index + jnp.arange(len(u))) % n_strata + u) / n_strata


def smallest_time(key: PRNGKeyArray, sde: SDE, k: float) -> Float[Array, ""]:
    """A draw from the density proportional to 1 / tau^k on [sde.train_t_min, sde.t_max].

    Raises:
        ValueError: a negative k, or an SDE with train_t_min = 0.
    """
    check_positive(or_zero=True, soft_truncation=k)
    if not sde.train_t_min > 0:
        raise ValueError(
            f"train_t_min of {sde} is 0, where 1 / tau^k has no integral: leave out "
            "soft_truncation, or train from a positive time on"
        )
    u, width = jax.random.uniform(key), math.log(sde.t_max / sde.train_t_min)
    # The inverse of the integral, in log tau: exact for k near 1 too.
    above = u * width if k == 1 else jnp.log1p(u * math.expm1((1 - k) * width)) / (1 - k)
    return jnp.clip(sde.train_t_min * jnp.exp(above), sde.train_t_min, sde.t_max)


def denoising_score_matching(
    key: PRNGKeyArray,
    sde: SDE,
    score_fn: ScoreFn,
    x0: Batch,
    reduce_mean: bool = False,
    **options: Any,
) -> tuple[PerSample, dict[str, PerSample]]:
    """Denoising score matching, continuous (Song et al. 2021, Eq. 7) or at discrete levels.

    With x_t = alpha x_0 + sigma z, the loss of a sample is half the sum over its dimensions
    (`reduce_mean`: their mean) of w (sigma score_fn(x_t, t) + z)^2.

    Args:
        key: randomness of t and z; sample i's depends on key and i alone unless stratified.
        sde: the forward SDE.
        score_fn: the model.
        x0: [B, ...] data.
        reduce_mean: mean over dimensions instead of half the sum.
        options: of perturb: how t is drawn, and w.

    Returns:
        The losses [B], and metrics [B]: "t" and "error", the mean square of sigma score + z.

    Raises:
        ValueError: options that perturb refuses.
    """
    x, t, z, std, weight = perturb(key, sde, x0, **options)
    residual = sde.noisy(expand(std, x) * score_fn(x, t) + z)
    square = jnp.sum(residual**2, axis=tuple(range(1, x.ndim)))
    error = square / math.prod(x0.shape[1:])
    total = error if reduce_mean else 0.5 * square
    return weight * total, {"t": t, "error": error}


def _check_options(
    likelihood_weighting: bool,
    weighting: Weighting | None,
    noise_density: Quantile | None,
    importance_sampling: bool,
    n_levels: int | None,
    soft_truncation: float | None,
) -> None:
    if importance_sampling and not likelihood_weighting:
        raise ValueError("importance_sampling belongs to likelihood_weighting: set both or neither")
    if importance_sampling and noise_density:
        raise ValueError("importance_sampling is a noise density of its own: leave out the other")
    if likelihood_weighting and weighting:
        raise ValueError("likelihood_weighting is a weighting of its own: leave out the other")
    continuous = {
        "importance_sampling": importance_sampling,
        "noise_density": noise_density,
        "soft_truncation": soft_truncation is not None,
    }
    for name, given in continuous.items():
        if n_levels and given:
            raise ValueError(f"{name} draws a continuous t: leave it out at n_levels")


def _weight(
    sde: SDE,
    t: PerSample,
    likelihood_weighting: bool,
    importance_sampling: bool,
    weighting: Weighting | None,
) -> PerSample:
    weight = jnp.ones_like(t)
    if importance_sampling:
        highest, lowest = noise_densities.log_snrs(sde)
        weight *= (highest - lowest) / (sde.t_max - sde.train_t_min)
    elif likelihood_weighting:
        weight = (sde.diffusion(t) / sde.sigma(t)) ** 2
    elif weighting:
        weight = weighting(sde.log_snr(t))
    return weight


def _probability_below(
    t: Float[Array, ""], sde: SDE, noise_density: Quantile | None
) -> Float[Array, ""]:
    """Of times below t in training: uniform ones, or those of a density, by bisection."""
    if not noise_density:
        return (t - sde.train_t_min) / (sde.t_max - sde.train_t_min)
    log_snr = sde.log_snr(t)

    def halve(_, bracket):
        low, high = bracket
        middle = 0.5 * (low + high)
        before = noise_density(middle) > log_snr
        return jnp.where(before, middle, low), jnp.where(before, high, middle)

    low, high = jax.lax.fori_loop(0, 24, halve, (jnp.zeros(()), jnp.ones(())))
    return 0.5 * (low + high)
