"""Continuous-time variational bound of grey levels (VDM: Kingma et al. 2021, arXiv 2107.00630).

x_0 is the value of a grey level, without dequantisation noise; z_0 is x_t at the lowest noise level
(train_t_min), z_1 at the highest (t_max). Let gamma(u) = -log-SNR increase from the one to the
other as u goes from 0 to 1. Then (Section 5)

    -log P(x_0) <= KL(q(z_1 | x_0) || p(z_1)) + 1/2 E_u[gamma'(u) |eps - eps_hat|^2]
                   - E[log p(x_0 | z_0)].

Only the second term, the diffusion loss, depends on the network. Its expectation depends on gamma
only through gamma(0) and gamma(1); the shape between them changes its variance.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray

from sde_lib import noise_density
from sde_lib.batch import Batch, PerSample, expand, fold_in, normal, sample_keys
from sde_lib.checks import check_at_least
from sde_lib.losses import draw_uniform
from sde_lib.noise_density import Quantile
from sde_lib.sde import SDE, ScoreFn
from sde_lib.variational import prior_kl

ENCODE_KEY = 1 << 24  # folded into a sample's key to draw z_0; no other draw uses this number


class Bound(NamedTuple):
    """The three terms of the bound on -log P(x_0), each [B] in nats; the bound is their sum."""

    prior: PerSample
    diffusion: PerSample
    reconstruction: PerSample


class Encoded(NamedTuple):
    """A draw z_0 of grey levels, with its log densities.

    Attributes:
        z: [B, ...] draw from q(z_0 | x_0).
        log_q: [B] log q(z_0 | x_0), in nats.
        log_p: [B] log p(x_0 | z_0), in nats.
    """

    z: Batch
    log_q: PerSample
    log_p: PerSample


def continuous_bound(
    key: PRNGKeyArray,
    sde: SDE,
    score_fn: ScoreFn,
    x0: Batch,
    values: Float[Array, " levels"],
    n_times: int = 1000,
    first_index: int | Array = 0,
) -> Bound:
    """Unbiased estimate of the bound, from one draw of z_0 and n_times draws of the noise level.

    Args:
        key: randomness; sample i's depends on key and first_index + i alone.
        sde: the forward SDE; the bound is tight if its lowest noise level is small compared with
            the steps between `values`.
        score_fn: the model's score.
        x0: [B, ...] data, each entry one of `values`.
        values: value of each grey level, in the model's scaling.
        n_times: noise levels per sample, one in each of n_times equal intervals of log-SNR.
        first_index: index of x0's first sample in its data set.

    Raises:
        ValueError: n_times < 1, or an SDE whose log-SNR is unbounded in training.
    """
    schedule = noise_density.log_uniform(sde)
    keys = sample_keys(key, len(x0), first_index)
    diffusion = mean_diffusion(keys, sde, score_fn, x0, schedule, n_times)
    encoded = encode_grey_levels(key, sde, x0, values, first_index)
    return Bound(prior_kl(sde, x0, sde.t_max), diffusion, -encoded.log_p)


def diffusion_loss(
    key: PRNGKeyArray,
    sde: SDE,
    score_fn: ScoreFn,
    x0: Batch,
    schedule: Quantile | None = None,
    stratified: bool = False,
    first_index: int | Array = 0,
    n_strata: int | None = None,
) -> tuple[PerSample, dict[str, PerSample]]:
    """VDM's training loss: the diffusion loss in nats, at one random noise level per sample.

    The parameters of the score get the gradient of this loss. Those of the schedule get the
    gradient of its square, in the same backward pass: the mean does not depend on the schedule, so
    this lowers the variance (Appendix I).

    Args:
        key: randomness of u and z; sample i's depends on key and i alone unless stratified.
        sde: the forward SDE.
        score_fn: the model's score.
        x0: [B, ...] data.
        schedule: function from u in [0, 1] to log-SNR, -gamma, that spans the SDE's range; None for
            a linear one. To learn it, use an SDE whose inverse_log_snr is not a bisection.
        stratified: see sde_lib.perturb.
        first_index: index of the first sample in the stream `key`.
        n_strata: see sde_lib.perturb.

    Returns:
        The losses [B] and metrics [B], like denoising_score_matching.

    Raises:
        ValueError: no schedule, for an SDE whose log-SNR is unbounded in training.
    """
    keys = sample_keys(key, len(x0), first_index)
    u = draw_uniform(keys, stratified, first_index, n_strata)
    return diffusion_terms(keys, sde, score_fn, x0, u, schedule or noise_density.log_uniform(sde))


def encode_grey_levels(
    key: PRNGKeyArray,
    sde: SDE,
    x0: Batch,
    values: Float[Array, " levels"],
    first_index: int | Array = 0,
) -> Encoded:
    """Draws z_0 given grey levels; E[log p(z_0) + log_p - log_q] <= log P(x_0) for any density p.

    Each dimension is decoded independently: p(x_0 | z_0) is proportional to q(z_0 | x_0)
    (Section 3).

    Args:
        key: randomness; sample i's depends on key and first_index + i alone.
        sde: the forward SDE.
        x0: [B, ...] data, each entry one of `values`.
        values: value of each grey level, in the model's scaling.
        first_index: index of x0's first sample in its data set.
    """
    axes = tuple(range(1, x0.ndim))
    noise = normal(fold_in(sample_keys(key, len(x0), first_index), ENCODE_KEY), x0.shape)
    mean, std = sde.marginal(x0, jnp.full(len(x0), sde.train_t_min))
    z = mean + expand(std, x0) * noise
    level = sde.noise_level(sde.train_t_min)
    exponents = -0.5 * (noise[..., None] + (x0[..., None] - values) / level) ** 2
    log_p = jnp.sum(-0.5 * noise**2 - jax.nn.logsumexp(exponents, axis=-1), axis=axes)
    log_norm = math.prod(x0.shape[1:]) * (jnp.log(std) + 0.5 * math.log(2 * math.pi))
    return Encoded(z, -0.5 * jnp.sum(noise**2, axis=axes) - log_norm, log_p)


def diffusion_terms(
    keys: Key[Array, " batch"],
    sde: SDE,
    score_fn: ScoreFn,
    x0: Batch,
    u: PerSample,
    schedule: Quantile,
) -> tuple[PerSample, dict[str, PerSample]]:
    """The losses and metrics of diffusion_loss at given u, with noise z from each sample's key."""
    log_snr, slope = jax.jvp(schedule, (u,), (jnp.ones_like(u),))
    log_snr, slope, tag = _open(log_snr, slope)
    t = jnp.clip(sde.inverse_log_snr(log_snr), sde.train_t_min, sde.t_max)
    z = normal(fold_in(keys, 1), x0.shape)
    mean, std = sde.marginal(x0, t)
    residual = expand(std, x0) * score_fn(mean + expand(std, x0) * z, t) + z
    axes = tuple(range(1, x0.ndim))
    loss = -0.5 * slope * jnp.sum(residual**2, axis=axes)
    return _close(loss, tag), {"t": t, "error": jnp.mean(residual**2, axis=axes)}


def mean_diffusion(
    keys: Key[Array, " batch"],
    sde: SDE,
    score_fn: ScoreFn,
    x0: Batch,
    schedule: Quantile,
    n_times: int,
) -> PerSample:
    """The mean of the losses of diffusion_terms, at one u in each of n_times equal intervals.

    Raises:
        ValueError: n_times < 1.
    """
    check_at_least(1, n_times=n_times)

    def add(k, total):
        step_keys = fold_in(keys, k)
        u = (k + draw_uniform(step_keys)) / n_times
        return total + diffusion_terms(step_keys, sde, score_fn, x0, u, schedule)[0]

    return jax.lax.fori_loop(0, n_times, add, jnp.zeros(len(x0))) / n_times


# In the backward pass _close sends each sample's cotangent through the loss and 2 loss through the
# tag. _open multiplies the two, so the schedule receives the gradient of loss^2.
@jax.custom_vjp
def _open(log_snr: PerSample, slope: PerSample) -> tuple[PerSample, PerSample, PerSample]:
    return log_snr, slope, jnp.zeros_like(log_snr)


@jax.custom_vjp
def _close(loss: PerSample, tag: PerSample) -> PerSample:
    return loss


_open.defvjp(lambda *values: (_open(*values), None), lambda _, ct: (ct[0] * ct[2], ct[1] * ct[2]))
_close.defvjp(lambda loss, tag: (loss, loss), lambda loss, ct: (ct, 2 * loss))
