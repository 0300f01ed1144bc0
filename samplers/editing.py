"""Sampling from data in place of the prior: SDEdit, DDIM inversion, latents, interpolation."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from samplers.base import Samples, Scores, Start
from samplers.euler import Euler
from samplers.noise_levels import levels_at
from samplers.strength import part
from sde_lib import SDE, ScoreFn, check_score_fn, loops, solve_ode
from sde_lib.batch import Batch, PerSample, expand, normal, numpy_of, sample_keys


def vary(
    sampler: Callable[..., Samples],
    key: PRNGKeyArray,
    sde: SDE,
    score_fn: Scores,
    x0: Batch,
    strength: float = 1.0,
    first_index: int | Array = 0,
    noise_level: float | None = None,
) -> Batch:
    """Image to image: samples from noised x0 (SDEdit, Meng et al. 2022).

    Args:
        sampler: any sampler.
        key: sampling key; sample i depends on `key` and first_index + i.
        sde: the forward SDE.
        score_fn: score of the noised data, (x, t) -> score.
        x0: [B, ...] data.
        strength: the share of the sampler's own steps that are made, in [0, 1]: 0 returns x0, and 1
            is a plain sample, which keeps nothing of x0 (samplers.strength).
        first_index: index of the first sample in the stream `key`.
        noise_level: sigma / alpha of the start, in place of a strength.

    Returns:
        [B, ...] samples.

    Raises:
        ValueError: a strength outside [0, 1], or a noise level that the SDE does not have.
    """
    rest, t = part(sampler, sde, strength, noise_level)
    if rest is None:
        return x0
    begin = start(key, sde, x0, t, first_index)
    return rest(key, sde, score_fn, x0.shape, first_index, start=begin).x


def start(
    key: PRNGKeyArray, sde: SDE, x0: Batch, t: float | None, first_index: int | Array = 0
) -> Start | None:
    """The start of a sampler at x0 with the noise of time t; None, for the prior, if t is None."""
    if t is None:
        return None
    mean, std = sde.marginal(x0, t)
    return Start(mean + std * normal(sample_keys(key, len(x0), first_index), x0.shape), t)


def encode(sde: SDE, score_fn: ScoreFn, x0: Batch, rtol: float = 1e-5, atol: float = 1e-5) -> Batch:
    """Latents of x0, [B, ...]: the solution of the probability flow from t_min to t_max.

    ProbabilityFlow with start=Start(latent, sde.t_max) decodes a latent, to solver tolerance.
    """
    check_score_fn(score_fn, x0.shape)

    def velocity(t, x):
        return sde.flow_drift(x, t, score_fn(x, t))

    return solve_ode(velocity, x0, sde.t_min, sde.t_max, rtol, atol).y


def reconstruct(sde: SDE, score_fn: ScoreFn, x0: Batch, n_steps: int) -> Batch:
    """Reconstruction of x0, [B, ...]: n_steps of DDIM inversion to t_max, then n_steps back.

    Both ways are Euler's method on the probability flow. A step evaluates the score where it
    begins, so the way back differs from the inversion, the more the flow is curved. Wang et al.
    2023 (DIRE, arXiv 2303.09295) find that it is less curved from a model's own samples.
    """
    check_score_fn(score_fn, x0.shape)
    solver, keys = Euler(n_steps, denoise=False), sample_keys(jax.random.key(0), len(x0))
    low, high = levels_at(sde, [sde.t_min, sde.t_max])
    levels = solver.levels(sde, high, low)
    way = numpy_of(levels).concatenate([levels[::-1], levels[1:]])
    move, w = solver.mover(sde, score_fn, keys, way, x0.shape)
    state = x0 / sde.alpha(sde.t_min), jnp.zeros((0, *x0.shape)), w
    y, *_ = loops.fori_loop(2 * n_steps, lambda k, state: move(k, *state), state)
    return sde.alpha(sde.t_min) * y


def slerp(a: Batch, b: Batch, weight: float | PerSample) -> Batch:
    """Spherical interpolation of latents, [B, ...]: a at weight 0, b at weight 1.

    The direction turns at a constant rate (Shoemake 1985), and the norm changes linearly. So the
    norm stays typical of the prior; that of a linear interpolation would dip. `a` and `b` must not
    have opposite directions.
    """
    weight = expand(jnp.asarray(weight), a)
    axes = tuple(range(1, a.ndim))

    def norm(x):
        return jnp.sqrt(jnp.sum(x**2, axis=axes, keepdims=True))

    norm_a, norm_b = norm(a), norm(b)
    u, v = a / norm_a, b / norm_b
    angle = 2 * jnp.arctan2(norm(u - v), norm(u + v))  # accurate at any angle

    def part(w):  # sin(w angle) / sin(angle), and its limit at angle 0
        return w * jnp.sinc(w * angle / jnp.pi) / jnp.sinc(angle / jnp.pi)

    return ((1 - weight) * norm_a + weight * norm_b) * (part(1 - weight) * u + part(weight) * v)
