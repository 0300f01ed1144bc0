"""Denoising score matching: noise of a random level, and one loss per sample.

With x_t = alpha x_0 + sigma z, the loss is w |sigma score_fn(x_t, t) + z|^2. Callers average it.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray

from sde_lib import noise_density as noise_densities
from sde_lib.batch import Batch, PerSample, expand, fold_in, normal, sample_keys
from sde_lib.checks import check_positive
from sde_lib.missing import check_mask, count_observed, observed_score
from sde_lib.noise_density import Quantile
from sde_lib.sde import SDE, ScoreFn
from sde_lib.transport.couplings import Coupling
from sde_lib.transport.paths import noise_at
from sde_lib.weighting import Weighting

BATCH_KEY = 2**32 - 1  # folded in instead of a sample's index: for draws that a batch shares


class Noisy(NamedTuple):
    """Perturbed data x = alpha(t) x_0 + std z, its noise, and the weight of its loss.

    With an input perturbation gamma, x = alpha(t) x_0 + std (z + gamma xi).

    Attributes:
        x: [B, ...] perturbed data; under CLD, states with velocities.
        t: [B] times.
        z: noise, of the shape of x.
        std: [B] sigma(t).
        weight: [B] weight of the squared error of the noise.
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
    coupling: Coupling | None = None,
    source: Batch | None = None,
    bridge: bool = False,
) -> Noisy:
    """Adds noise of a random level to data, and weights the squared error of the predicted noise.

    The variance weighting is w = 1; the likelihood weighting w = g^2 / sigma^2 bounds the negative
    log-likelihood (Song et al. 2021b, arXiv 2101.09258); sde_lib.weighting has others.

    Args:
        key: randomness of t and z; sample i's depends on key and i alone unless stratified.
        sde: the forward SDE.
        x0: [B, ...] data.
        noise_density: density of sigma / alpha (sde_lib.noise_density); None draws t uniformly.
        stratified: draw one t in each of B equally probable strata: half the variance.
        n_levels: draw t from the SDE's discrete levels: the objectives of SMLD (VE; Song and Ermon
            2019, Eq. 6) and of DDPM (VP; Ho et al. 2020, Eq. 14).
        first_index: index of the first sample in the stream `key`.
        n_strata: with stratified, the size of the whole batch, if x0 is a part of it. Sample i of
            the stream lies in stratum i % n_strata; default B.
        input_perturbation: gamma of x_t = alpha x_0 + sigma (z + gamma xi), with the target z: the
            inputs have errors like those of sampling (Ning et al. 2023, arXiv 2301.11706: 0.1).
        likelihood_weighting: weight the squared error of the score by g^2 instead of sigma^2.
        importance_sampling: with likelihood_weighting, draw t with density proportional to
            g^2 / sigma^2, uniformly in log-SNR: same expectation, a lower variance.
        weighting: w as a function of the log-SNR (sde_lib.weighting), instead of the two above.
        soft_truncation: exponent k of the density of a random smallest time (smallest_time).
        coupling: pairs data with noise, or the source, within groups of x0, on which sample i's
            noise then depends (sde_lib.transport); None: independently.
        source: the states at t_max, of the shape of x0, in place of those of normal noise.
        bridge: x_t is a draw of the SDE between its ends (sde_lib.transport.bridges), and not the
            point alpha x_0 + sigma z_1 between them. Without source and coupling it is the same.

    Raises:
        ValueError: importance_sampling without likelihood_weighting; two densities of t, or two
            weightings; n_levels for an SDE without discrete levels; a negative input_perturbation
            or soft_truncation; soft_truncation with n_levels, or with train_t_min = 0; a coupling
            or a source under an SDE whose state is more than the data; a source of another shape.
    """
    densities = noise_density, importance_sampling, n_levels, soft_truncation
    _check_options(likelihood_weighting, weighting, *densities)
    check_positive(or_zero=True, input_perturbation=input_perturbation)
    noise_density = noise_densities.log_uniform(sde) if importance_sampling else noise_density
    keys = sample_keys(key, x0.shape[0], first_index)
    u, share = draw_uniform(keys, stratified, first_index, n_strata), 1.0
    if soft_truncation is not None:
        tau = smallest_time(jax.random.fold_in(key, BATCH_KEY), sde, soft_truncation)
        share = 1 - _probability_below(tau, sde, noise_density)
        u = 1 - (1 - u) * share
    t = time_at(u, sde, noise_density, n_levels)
    z = noise = normal(fold_in(keys, 1), sde.state_shape(x0.shape))
    if coupling is not None or source is not None:
        z = noise = noise_at(keys, sde, x0, t, z, coupling, source, bridge)
    if input_perturbation:
        noise = z + input_perturbation * normal(fold_in(keys, 2), z.shape)
    weight = share * _weight(sde, t, likelihood_weighting, importance_sampling, weighting)
    return Noisy(sde.noised(x0, t, noise), t, z, sde.sigma(t), weight)


def time_at(
    u: PerSample, sde: SDE, noise_density: Quantile | None, n_levels: int | None = None
) -> PerSample:
    """The u-quantile of t: of n_levels discrete levels, of a density, or uniform."""
    if n_levels:
        level = jnp.minimum(jnp.floor(u * n_levels), n_levels - 1).astype(int)
        return sde.inverse_log_snr(jnp.asarray(sde.levels(n_levels), float)[level])
    if noise_density:
        return jnp.clip(sde.inverse_log_snr(noise_density(u)), sde.train_t_min, sde.t_max)
    return sde.train_t_min + u * (sde.t_max - sde.train_t_min)


def draw_uniform(
    keys: Key[Array, " batch"],
    stratified: bool = False,
    first_index: int | jax.Array = 0,
    n_strata: int | None = None,
) -> PerSample:
    """One u in [0, 1] per sample; stratified, u lies in stratum (first_index + i) % n_strata."""
    u = jax.vmap(jax.random.uniform)(fold_in(keys, 0))
    if not stratified:
        return u
    n_strata = n_strata or len(u)
    return ((first_index + jnp.arange(len(u))) % n_strata + u) / n_strata


def smallest_time(key: PRNGKeyArray, sde: SDE, k: float) -> Float[Array, ""]:
    """The smallest time tau of soft truncation, shared by a batch (Kim et al., arXiv 2106.05527).

    It is drawn from the density proportional to 1 / tau^k on [train_t_min, t_max]. Then t is drawn
    from its density above tau, and the weight is multiplied by the probability of that part: the
    loss at t has the factor P(tau <= t) in expectation.

    Raises:
        ValueError: a negative k, or an SDE with train_t_min = 0.
    """
    check_positive(or_zero=True, soft_truncation=k)
    if not sde.train_t_min > 0:
        raise ValueError(
            f"train_t_min of {sde} is 0, where 1 / tau^k has no integral: unset soft_truncation, "
            "or give the SDE a positive train_t_min"
        )
    u, width = jax.random.uniform(key), math.log(sde.t_max / sde.train_t_min)
    # The quantile function in log tau, which stays exact for k near 1.
    above = u * width if k == 1 else jnp.log1p(u * math.expm1((1 - k) * width)) / (1 - k)
    return jnp.clip(sde.train_t_min * jnp.exp(above), sde.train_t_min, sde.t_max)


def denoising_score_matching(
    key: PRNGKeyArray,
    sde: SDE,
    score_fn: ScoreFn,
    x0: Batch,
    reduce_mean: bool = False,
    mask: Batch | None = None,
    log_variance: Callable[[PerSample], PerSample] | None = None,
    **options: Any,
) -> tuple[PerSample, dict[str, PerSample]]:
    """Denoising score matching, continuous (Song et al. 2021, Eq. 7) or at discrete levels.

    With x_t = alpha x_0 + sigma z, the loss of a sample is half the sum over its dimensions
    (`reduce_mean`: their mean) of w (sigma score_fn(x_t, t) + z)^2. With a mask, sum and mean are
    over the sample's observed dimensions: in the sum each observed value counts the same, and with
    the likelihood weighting it bounds the likelihood of the observed part; in the mean each sample
    counts the same.

    With a log variance u(t), the loss per dimension w r^2 becomes w r^2 / e^u + u, up to the factor
    of the sum: the negative log-likelihood of the errors as Gaussian of variance e^u (Karras et al.
    2024, arXiv 2312.02696, Eq. 14). A learned u becomes log E[w r^2], and all noise levels have the
    same weight in the network's gradient, whatever w.

    Args:
        key: randomness of t and z; sample i's depends on key and i alone unless stratified.
        sde: the forward SDE.
        score_fn: the model's score.
        x0: [B, ...] data.
        reduce_mean: mean over dimensions instead of half the sum.
        mask: 1 for each value of x0 that is observed, 0 for each that is missing (sde_lib.missing);
            None: all are observed.
        log_variance: u(t), [B] -> [B].
        options: keyword arguments of perturb, which choose the density of t and the weight w.

    Returns:
        The losses [B], and metrics [B]: "t", and "error", the mean square of sigma score + z.

    Raises:
        ValueError: an option that perturb refuses, or a mask that does not go with x0 or the SDE.
    """
    dims: PerSample | int = math.prod(x0.shape[1:])
    if mask is not None:
        check_mask(sde, mask, x0)
        x0, score_fn, dims = mask * x0, observed_score(score_fn, mask), count_observed(mask)
    x, t, z, std, weight = perturb(key, sde, x0, **options)
    residual = sde.noisy(expand(std, x) * score_fn(x, t) + z)
    if mask is not None:
        residual *= mask
    square = jnp.sum(residual**2, axis=tuple(range(1, x.ndim)))
    error = square / dims
    loss = weight * (error if reduce_mean else 0.5 * square)
    if log_variance is not None:
        u = log_variance(t)
        loss = loss * jnp.exp(-u) + u * (1.0 if reduce_mean else 0.5 * dims)
    return loss, {"t": t, "error": error}


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
        raise ValueError(
            "importance_sampling is a noise density of its own: unset noise_density, or unset "
            "importance_sampling"
        )
    if likelihood_weighting and weighting:
        raise ValueError(
            "likelihood_weighting is a weighting of its own: unset weighting, or unset "
            "likelihood_weighting"
        )
    continuous = {
        "importance_sampling": importance_sampling,
        "noise_density": noise_density,
        "soft_truncation": soft_truncation is not None,
    }
    for name, given in continuous.items():
        if n_levels and given:
            raise ValueError(
                f"{name} draws a continuous t: leave it out at n_levels, whose times are discrete"
            )


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
    """Probability that training draws a time below t; for a noise density, by bisection."""
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
