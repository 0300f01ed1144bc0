"""The continuous-time variational bound of grey levels (VDM: Kingma et al. 2021, arXiv 2107.00630).

Grey levels are the model's, and no noise is added to them but the SDE's own: x_0 is the number that
a grey level has in model space, z_0 is x at the least noise level (train_t_min), z_1 at the largest
(t_max). With gamma = -log-SNR rising from the one to the other as u goes from 0 to 1 (Section 5),

    -log P(x_0) <= KL(q(z_1 | x_0) || p(z_1)) + 1/2 E_u[gamma'(u) |eps - eps_hat|^2]
                   - E[log p(x_0 | z_0)].

gamma's interior leaves the diffusion loss in the middle as it is, on average, and decides on its
variance; of the three, it alone depends on the network.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from sde_lib import noise_density
from sde_lib.batch import Batch, PerSample, expand, fold_in, normal, sample_keys
from sde_lib.checks import check_at_least
from sde_lib.losses import draw_uniform
from sde_lib.noise_density import Quantile
from sde_lib.sde import SDE, ScoreFn
from sde_lib.variational import prior_kl

ENCODE = 1 << 24  # folded into a sample's key: no other draw has this number


class Bound(NamedTuple):
    """The terms of a bound on -log P(x_0), [B] in nats; their sum is the bound."""

    prior: PerSample
    diffusion: PerSample
    reconstruction: PerSample


class Encoded(NamedTuple):
    """z_0 [B, ...], a draw from q(z_0 | x_0), and log q(z_0 | x_0) and log p(x_0 | z_0), [B]."""

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
    """An unbiased estimate of the bound, from one draw of z_0 and n_times of the others.

    Args:
        key: randomness; sample i's depends on key and first_index + i alone.
        sde: the forward SDE; its least noise should be small against the steps of `values`.
        score_fn: the model.
        x0: [B, ...] data, all of them among `values`.
        values: of the grey levels, in model space.
        n_times: noise levels of each sample, one in each of as many equal steps of log-SNR.
        first_index: index of x0's first sample in its data set.

    Raises:
        ValueError: n_times < 1, or an SDE with levels down to 0 or up to infinity.
    """
    check_at_least(1, n_times=n_times)
    schedule = noise_density.log_uniform(sde)
    keys = sample_keys(key, len(x0), first_index)

    def add(k, total):
        step_keys = fold_in(keys, k)
        u = (k + draw_uniform(step_keys)) / n_times
        return total + _diffusion(step_keys, sde, score_fn, x0, u, schedule)[0]

    total = jax.lax.fori_loop(0, n_times, add, jnp.zeros(len(x0)))
    encoded = encode_grey_levels(key, sde, x0, values, first_index)
    return Bound(prior_kl(sde, x0, sde.t_max), total / n_times, -encoded.log_p)


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
    """The bound's diffusion loss in nats, at one noise level of each sample: VDM's objective.

    What the score depends on gets this loss's gradient; what the schedule depends on, that of its
    square, in the same backward pass: as its mean stays, its variance is what falls (Appendix I).

    Args:
        schedule: u to log-SNR, -gamma, from one end of the SDE's to the other; None: linear. Its
            gradient is right for an SDE whose inverse_log_snr is no bisection.

    The other arguments are sde_lib.perturb's, the metrics sde_lib.denoising_score_matching's.

    Raises:
        ValueError: no schedule, and an SDE with levels down to 0 or up to infinity.
    """
    keys = sample_keys(key, len(x0), first_index)
    u = draw_uniform(keys, stratified, first_index, n_strata)
    return _diffusion(keys, sde, score_fn, x0, u, schedule or noise_density.log_uniform(sde))


def encode_grey_levels(
    key: PRNGKeyArray,
    sde: SDE,
    x0: Batch,
    values: Float[Array, " levels"],
    first_index: int | Array = 0,
) -> Encoded:
    """z_0 of grey levels: under any density p of z_0, E[log p + log_p - log_q] <= log P(x_0).

    Each dimension is decoded on its own: p(x_0 | z_0) is proportional to q(z_0 | x_0) (Section 3).

    Args:
        key: randomness; sample i's depends on key and first_index + i alone.
        sde: the forward SDE.
        x0: [B, ...] data, all of them among `values`.
        values: of the grey levels, in model space.
        first_index: index of x0's first sample in its data set.
    """
    axes = tuple(range(1, x0.ndim))
    noise = normal(fold_in(sample_keys(key, len(x0), first_index), ENCODE), x0.shape)
    mean, std = sde.marginal(x0, jnp.full(len(x0), sde.train_t_min))
    z = mean + expand(std, x0) * noise
    level = sde.noise_level(sde.train_t_min)
    exponents = -0.5 * (noise[..., None] + (x0[..., None] - values) / level) ** 2
    log_p = jnp.sum(-0.5 * noise**2 - jax.nn.logsumexp(exponents, axis=-1), axis=axes)
    log_norm = math.prod(x0.shape[1:]) * (jnp.log(std) + 0.5 * math.log(2 * math.pi))
    return Encoded(z, -0.5 * jnp.sum(noise**2, axis=axes) - log_norm, log_p)


def _diffusion(keys, sde: SDE, score_fn: ScoreFn, x0: Batch, u: PerSample, schedule: Quantile):
    """diffusion_loss at u, with z of each sample's key."""
    log_snr, slope = jax.jvp(schedule, (u,), (jnp.ones_like(u),))
    log_snr, slope, tag = _open(log_snr, slope)
    t = jnp.clip(sde.inverse_log_snr(log_snr), sde.train_t_min, sde.t_max)
    z = normal(fold_in(keys, 1), x0.shape)
    mean, std = sde.marginal(x0, t)
    residual = expand(std, x0) * score_fn(mean + expand(std, x0) * z, t) + z
    axes = tuple(range(1, x0.ndim))
    loss = -0.5 * slope * jnp.sum(residual**2, axis=axes)
    return _close(loss, tag), {"t": t, "error": jnp.mean(residual**2, axis=axes)}


# What flows back from _close to _open is each sample's d loss; the tag brings 2 loss beside it, and
# the product, d loss^2, flows on.
@jax.custom_vjp
def _open(log_snr: PerSample, slope: PerSample) -> tuple[PerSample, PerSample, PerSample]:
    return log_snr, slope, jnp.zeros_like(log_snr)


@jax.custom_vjp
def _close(loss: PerSample, tag: PerSample) -> PerSample:
    return loss


_open.defvjp(lambda *values: (_open(*values), None), lambda _, ct: (ct[0] * ct[2], ct[1] * ct[2]))
_close.defvjp(lambda loss, tag: (loss, loss), lambda loss, ct: (ct, 2 * loss))
