"""Training objectives: a loss for each sample, to be averaged by the caller."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from sde_lib import noise_density as noise_densities
from sde_lib.batch import Batch, PerSample, expand, fold_in, normal, sample_keys
from sde_lib.checks import check_positive
from sde_lib.noise_density import Quantile
from sde_lib.sde import SDE, ScoreFn
from sde_lib.weighting import Weighting


class Noisy(NamedTuple):
    """x = alpha(t) x_0 + std z: [B, ...], with t and std = sigma(t) of [B].

    With an input perturbation gamma, x = alpha(t) x_0 + std (z + gamma xi).
    """

    x: Batch
    t: PerSample
    z: Batch
    std: PerSample


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
) -> Noisy:
    """Data with noise of a random level; denoising_score_matching has the arguments.

    Sample i's draws depend on key and i alone unless stratified.
    """
    check_positive(or_zero=True, input_perturbation=input_perturbation)
    keys = sample_keys(key, x0.shape[0], first_index)
    u = jax.vmap(jax.random.uniform)(fold_in(keys, 0))
    if stratified:
        n_strata = n_strata or x0.shape[0]
        u = ((first_index + jnp.arange(x0.shape[0])) % n_strata + u) / n_strata
    if n_levels:
        level = jnp.minimum(jnp.floor(u * n_levels), n_levels - 1).astype(int)
        t = sde.inverse_log_snr(jnp.asarray(sde.levels(n_levels), jnp.float32)[level])
    elif noise_density:
        t = jnp.clip(sde.inverse_log_snr(noise_density(u)), sde.train_t_min, sde.t_max)
    else:
        t = sde.train_t_min + u * (sde.t_max - sde.train_t_min)
    z = normal(fold_in(keys, 1), x0.shape)
    mean, std = sde.marginal(x0, t)
    noise = z
    if input_perturbation:
        noise = z + input_perturbation * normal(fold_in(keys, 2), x0.shape)
    return Noisy(mean + expand(std, x0) * noise, t, z, std)


def denoising_score_matching(
    key: PRNGKeyArray,
    sde: SDE,
    score_fn: ScoreFn,
    x0: Batch,
    likelihood_weighting: bool = False,
    importance_sampling: bool = False,
    reduce_mean: bool = False,
    stratified: bool = False,
    n_levels: int | None = None,
    first_index: int | jax.Array = 0,
    n_strata: int | None = None,
    noise_density: Quantile | None = None,
    weighting: Weighting | None = None,
    input_perturbation: float = 0.0,
) -> tuple[PerSample, dict[str, PerSample]]:
    """Denoising score matching, continuous (Song et al. 2021, Eq. 7) or at discrete levels.

    With x_t = alpha x_0 + sigma z, the loss of a sample is half the sum over its dimensions
    (`reduce_mean`: their mean) of w (sigma score_fn(x_t, t) + z)^2. The variance weighting is
    w = 1; the likelihood weighting w = g^2 / sigma^2 bounds the negative log-likelihood
    (Song et al. 2021b, arXiv 2101.09258); sde_lib.weighting has others.

    Args:
        key: randomness of t and z; sample i's depends on key and i alone unless stratified.
        sde: the forward SDE.
        score_fn: the model.
        x0: [B, ...] data.
        likelihood_weighting: weight by g^2 instead of sigma^2.
        importance_sampling: with likelihood_weighting, draw t with density proportional to
            g^2 / sigma^2, i.e. uniform in log-SNR; same expectation, lower variance (by 70 under
            VP for Gaussian data).
        reduce_mean: mean over dimensions instead of half the sum.
        stratified: one t in each of B equally probable strata; same expectation, lower variance
            (by 2 for Gaussian data and B = 128).
        n_levels: draw t from the SDE's discrete levels: the objectives of SMLD (VE; Song and Ermon
            2019, Eq. 6) and of DDPM (VP; Ho et al. 2020, Eq. 14).
        first_index: index of the first sample in the stream `key`.
        n_strata: with stratified, the size of the batch that x0 is a part of: sample i of the
            stream lies in stratum i % n_strata; default B.
        noise_density: of sigma / alpha (sde_lib.noise_density); None draws t uniformly.
        weighting: w of the log-SNR (sde_lib.weighting), in place of the two above.
        input_perturbation: gamma of x_t = alpha x_0 + sigma (z + gamma xi), where xi is more noise
            that the target z knows nothing of: training on inputs as far off as those of sampling
            (Ning et al. 2023, arXiv 2301.11706; there 0.1).

    Returns:
        The losses [B], and metrics [B]: "t" and "error", the mean square of sigma score + z.

    Raises:
        ValueError: importance_sampling without likelihood_weighting; two densities of t, or two
            weightings; n_levels for an SDE that has none; a negative input_perturbation.
    """
    if importance_sampling and not likelihood_weighting:
        raise ValueError("importance_sampling belongs to likelihood_weighting: set both or neither")
    if importance_sampling and noise_density:
        raise ValueError("importance_sampling is a noise density of its own: leave out the other")
    if likelihood_weighting and weighting:
        raise ValueError("likelihood_weighting is a weighting of its own: leave out the other")
    if importance_sampling:
        noise_density = noise_densities.log_uniform(sde)
    if noise_density and n_levels:
        name = "importance_sampling" if importance_sampling else "noise_density"
        raise ValueError(f"{name} draws a continuous t: leave it out at n_levels")
    draw = noise_density, stratified, n_levels, first_index, n_strata, input_perturbation
    x, t, z, std = perturb(key, sde, x0, *draw)
    weight = jnp.ones_like(t)
    if importance_sampling:
        highest, lowest = noise_densities.log_snrs(sde)
        weight *= (highest - lowest) / (sde.t_max - sde.train_t_min)
    elif likelihood_weighting:
        weight = (sde.diffusion(t) / sde.sigma(t)) ** 2
    elif weighting:
        weight = weighting(sde.log_snr(t))

    residual = expand(std, x0) * score_fn(x, t) + z
    axes = tuple(range(1, x0.ndim))
    error = jnp.mean(residual**2, axis=axes)
    total = error if reduce_mean else 0.5 * jnp.sum(residual**2, axis=axes)
    return weight * total, {"t": t, "error": error}
