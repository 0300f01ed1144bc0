"""Guidance: functions from a score function to a score function, that no sampler knows of.

Weights follow the convention s + w (s_c - s): w = 1 is the conditional score alone, w = 0 leaves
the condition out. What Ho & Salimans 2022 (arXiv 2207.12598) call w is w - 1 here. A weight is a
number, a scalar array, which may be traced, or a function of t, [B] -> [B], such as those of
SCHEDULES. Where a number changes nothing, the result is the given score function itself.
"""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from samplers.base import Scores
from samplers.guidance_schedules import SCHEDULES as SCHEDULES
from samplers.noise_levels import SLACK, levels_at
from sde_lib import SDE, VP, ScoreFn
from sde_lib.batch import Batch, PerSample, expand
from sde_lib.checks import check_positive

Weight = float | Float[Array, ""] | Callable[[PerSample], PerSample]

GUIDED_TIMES = (0.01, 1.0)  # of VP: where Kim et al.'s discriminator guides


def gradient(
    score_fn: ScoreFn, log_prob: Callable[[Array, Array], PerSample], weight: Weight = 1.0
) -> ScoreFn:
    """score_fn + weight grad_x log_prob: guidance by a classifier or a discriminator.

    With weight = 1 and log_prob(x, t) = log p(y | x_t = x), the score given y (Song et al. 2021,
    Eq. 14; larger weights: Dhariwal & Nichol 2021). Where a function of t is 0 for the whole batch,
    log_prob is not evaluated.

    Args:
        score_fn: the score to be guided.
        log_prob: (x, t) -> [B] in nats; sample i's must depend on x[i] and t[i] alone.
        weight: of the gradient.

    Raises:
        ValueError: a weight that is negative or not finite; in the result, a log_prob that is not
            one number a sample.
    """
    check_positive(or_zero=True, weight=weight)
    if _same(weight, 0):
        return score_fn

    def guided(x: Array, t: Array) -> Array:
        def total(x):
            values = log_prob(x, t)
            if values.shape != t.shape:
                raise ValueError(
                    f"log_prob returned {values.shape} for x of shape {x.shape}: it must return "
                    f"one number a sample, {t.shape}"
                )
            return jnp.sum(values)

        score, w = score_fn(x, t), _at(weight, t, x)

        def add() -> Array:
            return jnp.where(w != 0, score + w * jax.grad(total)(x), score)

        return jax.lax.cond(jnp.any(w != 0), add, lambda: score) if callable(weight) else add()

    return guided


def discriminator(
    score_fn: ScoreFn,
    sde: SDE,
    log_ratio: Callable[[Array, Array], PerSample],
    weight: Weight = 1.0,
    later_weight: Weight = 0.0,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    boost: bool = False,
) -> Scores:
    """score_fn + weight grad_x log d / (1 - d) (Kim et al. 2023, arXiv 2211.17091).

    d(x, t) is the probability that x is noised data, and not a noised sample of the model. The
    best d turns the model's score into that of the data at weight 1. It is classifier guidance by
    the discriminator's logit. Heun's step averages its two evaluations: weights of 2 and 0 guide
    nearly as 1 and 1 do, with half the discriminator's evaluations.

    Args:
        score_fn: the model's score.
        sde: gives t its noise level.
        log_ratio: (x, t) -> [B], log d / (1 - d); sample i's must depend on x[i] and t[i] alone.
        weight: of the gradient, in the first evaluation of a solver's step.
        later_weight: in the others, such as Heun's second.
        sigma_min: the lowest noise level sigma / alpha where a sample is guided; None for the
            published, VP's at t = 0.01.
        sigma_max: the highest; None for the published, VP's at t = 1.
        boost: double the gradient where log_ratio < 0, for what is taken for a fake. That is the
            gradient of min(r, 2 r) in place of r = log_ratio. (The published code does so in every
            other step, and also adds noise to such samples.)

    Returns:
        (first, later), score functions for samplers of noise levels; with equal weights one score
        function, for any sampler.

    Raises:
        ValueError: weights or a sigma_min that are negative or not finite, sigma_min >= sigma_max.
    """
    published = levels_at(VP(), list(GUIDED_TIMES))
    low = published[0] if sigma_min is None else sigma_min
    high = published[1] if sigma_max is None else sigma_max
    check_positive(or_zero=True, weight=weight, later_weight=later_weight, sigma_min=low)
    if not low < high:
        raise ValueError(f"sigma_min is {low:g}: it must be below sigma_max, {high:g}")

    def log_prob(x: Array, t: Array) -> PerSample:
        r = log_ratio(x, t)
        return jnp.minimum(r, 2 * r) if boost else r

    def guided(weight: Weight) -> ScoreFn:
        def within(t: PerSample) -> PerSample:
            level = sde.noise_level(t)
            inside = (low * (1 - SLACK) <= level) & (level <= high * (1 + SLACK))
            return jnp.where(inside, _at(weight, t, t), 0.0)

        return score_fn if _same(weight, 0) else gradient(score_fn, log_prob, within)

    first = guided(weight)
    return first if _same(weight, later_weight) else (first, guided(later_weight))


def classifier_free(
    conditional_score_fn: Callable[[Array, Array, Any], Array],
    condition: PyTree,
    weight: Weight,
    null: PyTree = None,
    negative: PyTree = None,
) -> ScoreFn:
    """s_u + weight (s_y - s_u), with one call for both (Ho & Salimans 2022, arXiv 2207.12598).

    s_y is the score given the condition, s_u without one, of a model that was trained with the
    condition left out at random. A negative condition is one to keep away from:
    s_u + weight (s_y - s_u) - weight (s_neg - s_u) where null is given too, and otherwise
    s_neg + weight (s_y - s_neg), with no score without a condition.

    Args:
        conditional_score_fn: (x, t, condition) -> score, called with two or three batches in one.
        condition: arrays [B, ...], in any container.
        weight: 1 is s_y alone, 0 is s_u.
        null: the condition of s_u, in the same container: arrays that broadcast to those of
            condition. None is -1, no class, for conditions that are integers.
        negative: likewise.

    Raises:
        ValueError: no condition; no null, though the condition is no class; a weight that is
            negative or not finite; in the result, a condition of another batch than x.
    """
    check_positive(or_zero=True, weight=weight)
    leaves = jax.tree.leaves(condition)
    if not leaves:
        raise ValueError("classifier-free guidance needs a condition: give the classes, [B], say")
    if null is None and negative is None:
        if not all(jnp.issubdtype(jnp.result_type(leaf), jnp.integer) for leaf in leaves):
            raise ValueError(
                "null is None, which is -1 for classes, but the condition is not of integers: give "
                "what the model was trained with where the condition was left out"
            )
        null = jax.tree.map(lambda _: -1, condition)
    others = [other for other in (negative, null) if other is not None]
    parts = [condition, *(jax.tree.map(_like, condition, other) for other in others)]
    if _same(weight, 0):
        parts = parts[-1:]
    elif _same(weight, 1) and len(parts) == 2:
        parts = parts[:1]

    def guided(x: Array, t: Array) -> Array:
        for leaf in leaves:
            if jnp.shape(leaf)[:1] != t.shape:
                raise ValueError(
                    f"the condition has the shape {jnp.shape(leaf)}, x {x.shape}: a condition for "
                    "each sample is needed"
                )
        n, w = len(parts), _at(weight, t, x)
        together = jax.tree.map(lambda *part: jnp.concatenate(part), *parts)
        score = conditional_score_fn(jnp.concatenate([x] * n), jnp.concatenate([t] * n), together)
        first, *rest = jnp.split(score, n)
        if not rest:
            return first
        if n == 2:
            return w * first + (1 - w) * rest[0]
        return rest[1] + w * (first - rest[0])

    return guided


def epsilon_scaling(score_fn: ScoreFn, b: Weight) -> ScoreFn:
    """score_fn / b: the predicted noise divided by b (Ning et al. 2023, arXiv 2308.15321).

    It makes up for a model that predicts b times the noise, and, as published with b > 1, for the
    errors of sampling; what b that takes, and of which sign, depends on solver and steps.

    Raises:
        ValueError: a b that is not positive, or not finite.
    """
    check_positive(b=b)
    return score_fn if _same(b, 1) else lambda x, t: score_fn(x, t) / _at(b, t, x)


def linear(k: float | Array, b0: float | Array) -> Weight:
    """b(t) = k t + b0, for epsilon_scaling; b0 itself where k is 0.

    Raises:
        ValueError: a b0 that is not positive, or a number that is not finite.
    """
    check_positive(b0=b0)
    if isinstance(k, Real) and not math.isfinite(k):
        raise ValueError(f"k is {k}: it must be finite")
    return b0 if _same(k, 0) else lambda t: k * t + b0


def time_shift(score_fn: ScoreFn, sde: SDE, window: float, cutoff: float) -> ScoreFn:
    """The noise predicted as of the time that x looks like (Li et al. 2023, arXiv 2305.15583).

    At t > cutoff, -sigma(t) score is the noise that the model predicts at (x, tau). tau is the time
    within window / 2 of t, and not below both t and t_min, whose noise variance sigma(tau)^2 is
    nearest to the variance of a sample over its dimensions. That variance also has the data's part,
    alpha^2 Var x_0, which the noise must outweigh: hence the cutoff.

    Args:
        score_fn: the model's score.
        sde: gives sigma, which must increase with t.
        window: of times.
        cutoff: t up to which nothing is shifted.

    Raises:
        ValueError: numbers that are negative or not finite.
    """
    check_positive(or_zero=True, window=window, cutoff=cutoff)
    if _same(window, 0):
        return score_fn

    def shifted(x: Batch, t: PerSample) -> Batch:
        std = jnp.std(x, axis=tuple(range(1, x.ndim)))

        def halve(_, bracket):
            low, high = bracket
            middle = 0.5 * (low + high)
            above = sde.sigma(middle) > std
            return jnp.where(above, low, middle), jnp.where(above, middle, high)

        least = jnp.minimum(t, sde.t_min)
        ends = [jnp.clip(t + way * window, least, sde.t_max) for way in (-0.5, 0.5)]
        low, high = jax.lax.fori_loop(0, 24, halve, tuple(ends))  # float32's digits
        tau = jnp.where(t > cutoff, 0.5 * (low + high), t)
        return expand(sde.sigma(tau) / sde.sigma(t), x) * score_fn(x, tau)

    return shifted


def _same(a: Any, b: Any) -> bool:
    """Whether both are Python numbers, and equal."""
    return isinstance(a, Real) and isinstance(b, Real) and bool(a == b)


def _at(weight: Weight, t: PerSample, x: Batch) -> Array:
    """The weight at t, with the axes of x."""
    return expand(jnp.asarray(weight(t) if callable(weight) else weight), x)


def _like(condition: Array, other: Any) -> Array:
    return jnp.broadcast_to(jnp.asarray(other, jnp.result_type(condition)), jnp.shape(condition))
