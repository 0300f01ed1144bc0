"""Starting from data in place of the prior: variations, latents, and ways between them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from samplers.base import Samples, Start
from samplers.euler import Euler
from samplers.noise_levels import levels_at
from sde_lib import SDE, ScoreFn, check_score_fn, solve_ode
from sde_lib.batch import Batch, PerSample, expand, normal, sample_keys


def vary(
    sampler: Callable[..., Samples],
    key: PRNGKeyArray,
    sde: SDE,
    score_fn: ScoreFn,
    x0: Batch,
    strength: float,
    first_index: int | Array = 0,
) -> Batch:
    """Image to image: samples from x0 noised to t = strength * t_max (SDEdit, Meng et al. 2022).

    Args:
        sampler: any sampler.
        key: with first_index + i, decides on sample i.
        sde: the forward SDE.
        score_fn: its score.
        x0: [B, ...] data.
        strength: from 0, which returns x0 (as do times up to t_min), to 1, which keeps no more of
            it than the prior does.
        first_index: index of the first sample in the stream `key`.

    Raises:
        ValueError: a strength outside [0, 1].
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength is {strength}: it must lie in [0, 1]")
    t = strength * sde.t_max
    if t <= sde.t_min:
        return x0
    mean, std = sde.marginal(x0, t)
    x = mean + std * normal(sample_keys(key, len(x0), first_index), x0.shape)
    return sampler(key, sde, score_fn, x0.shape, first_index, start=Start(x, t)).x


def encode(sde: SDE, score_fn: ScoreFn, x0: Batch, rtol: float = 1e-5, atol: float = 1e-5) -> Batch:
    """Where the probability flow takes x0, [B, ...], from t_min to t_max: its latent.

    ProbabilityFlow with start=Start(latent, sde.t_max) takes it back, to solver tolerance.
    """
    check_score_fn(score_fn, x0.shape)

    def velocity(t, x):
        return sde.flow_drift(x, t, score_fn(x, t))

    return solve_ode(velocity, x0, sde.t_min, sde.t_max, rtol, atol).y


def reconstruct(sde: SDE, score_fn: ScoreFn, x0: Batch, n_steps: int) -> Batch:
    """x0, [B, ...], by n_steps of Euler's method from t_min to t_max, and as many back.

    The way there is DDIM's inversion: a step evaluates the score where it begins, and so the two
    ways differ, the more the probability flow bends. Wang et al. 2023 (DIRE, arXiv 2303.09295)
    find it to bend less from a model's own samples.
    """
    check_score_fn(score_fn, x0.shape)
    solver, keys = Euler(n_steps, denoise=False), sample_keys(jax.random.key(0), len(x0))
    low, high = levels_at(sde, [sde.t_min, sde.t_max])
    levels = solver.levels(sde, high, low)
    state = x0 / sde.alpha(sde.t_min), jnp.zeros((0, *x0.shape))
    for way in levels[::-1], levels:
        move, w = solver.mover(sde, score_fn, keys, way, x0.shape)
        *state, _ = jax.lax.fori_loop(0, n_steps, lambda k, c, move=move: move(k, *c), (*state, w))
    return sde.alpha(sde.t_min) * state[0]


def slerp(a: Batch, b: Batch, weight: float | PerSample) -> Batch:
    """Spherical interpolation of latents, [B, ...]: a at weight 0, b at weight 1.

    The direction turns at a constant rate (Shoemake 1985), and the norm goes linearly from one to
    the other: it stays typical of the prior, where the norm of a linear interpolation would dip.
    The directions must not be opposite to each other.
    """
    weight = expand(jnp.asarray(weight), a)
    axes = tuple(range(1, a.ndim))

    def norm(x):
        return jnp.sqrt(jnp.sum(x**2, axis=axes, keepdims=True))

    norm_a, norm_b = norm(a), norm(b)
    u, v = a / norm_a, b / norm_b
    angle = 2 * jnp.arctan2(norm(u - v), norm(u + v))  # accurate at any angle

    def part(w):  # sin(w angle) / sin(angle), at angle 0 too
        return w * jnp.sinc(w * angle / jnp.pi) / jnp.sinc(angle / jnp.pi)

    return ((1 - weight) * norm_a + weight * norm_b) * (part(1 - weight) * u + part(weight) * v)
