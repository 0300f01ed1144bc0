"""Guidance: functions that turn one score function into another, for any sampler.

The guidance scale w follows the convention s + w (s_c - s): w = 1 is the conditional score s_c,
w = 0 the unconditional score s. Ho & Salimans 2022 (arXiv 2207.12598) write w for our w - 1. A
weight is a number, a scalar array (which may be traced), or a function of t, [B] -> [B], such as
the schedules in SCHEDULES. With a number that has no effect, such as w = 0 for a gradient, the
result is the given score function itself. The variance of a ScoreAndVariance stays: that of the
unguided model, of the conditional branch under classifier-free guidance. The energy of a
ScoreAndEnergy goes on under gradient, discriminator and epsilon_scaling, and is lost under others.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from samplers.base import Scores
from samplers.guidance_schedules import SCHEDULES as SCHEDULES
from samplers.noise_levels import SLACK, levels_at
from samplers.time_shift import shifted_time
from sde_lib import SDE, VP, ScoreAndEnergy, ScoreAndVariance, ScoreFn
from sde_lib.batch import Batch, PerSample, expand
from sde_lib.checks import check_at_least, check_positive

Both = Callable[[Array, Array], tuple[Array, Array | None]]
"""(x, t) -> (score, v), with the v of a ScoreAndVariance; None without one."""
Weight = float | Float[Array, ""] | Callable[[PerSample], PerSample]

GUIDED_TIMES = (0.01, 1.0)  # times of VP at which the discriminator of Kim et al. is used


def gradient(
    score_fn: ScoreFn, log_prob: Callable[[Array, Array], PerSample], weight: Weight = 1.0
) -> ScoreFn:
    """Classifier guidance: score_fn + weight grad_x log_prob.

    With weight = 1 and log_prob(x, t) = log p(y | x_t = x) it is the conditional score given y
    (Song et al. 2021, Eq. 14; larger weights: Dhariwal & Nichol 2021). If weight is a function of
    t, log_prob is not evaluated where the weight is 0 for the whole batch.

    Args:
        score_fn: the unguided score.
        log_prob: (x, t) -> [B] in nats. Value i must depend on x[i] and t[i] alone.
        weight: guidance scale, which multiplies the gradient.

    Raises:
        ValueError: a weight that is negative or not finite; when the result is called, a log_prob
            that does not return one number per sample.
    """
    check_positive(or_zero=True, weight=weight)
    if _same(weight, 0):
        return score_fn
    if isinstance(score_fn, ScoreAndEnergy):
        own = ScoreAndEnergy.of(lambda x, t: _at(weight, t, t) * _each(log_prob, x, t))
        return ScoreAndEnergy(
            lambda x, t: jax.tree.map(jnp.add, score_fn.both(x, t), own.both(x, t))
        )

    def guide(evaluate: Both, x: Array, t: Array) -> tuple[Array, Array | None]:
        score, variance = evaluate(x, t)

        def total(x):
            return jnp.sum(_each(log_prob, x, t))

        w = _at(weight, t, x)

        def add() -> Array:
            return jnp.where(w != 0, score + w * jax.grad(total)(x), score)

        if callable(weight):
            return jax.lax.cond(jnp.any(w != 0), add, lambda: score), variance
        return add(), variance

    return _guided(score_fn, guide)


def _each(log_prob: Callable[[Array, Array], PerSample], x: Array, t: Array) -> PerSample:
    """log_prob(x, t), [B]. Raises ValueError for another shape."""
    values = log_prob(x, t)
    if values.shape != t.shape:
        raise ValueError(
            f"log_prob returned {values.shape} for x of shape {x.shape}: it must return one number "
            f"a sample, {t.shape}"
        )
    return values


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
    """Discriminator guidance (Kim et al. 2023, arXiv 2211.17091): classifier guidance by a logit.

    The score becomes score_fn + weight grad_x log d / (1 - d). d(x, t) is the probability that x
    is noised data rather than a noised sample of the model. With the optimal d and weight 1 the
    model's score becomes that of the data. Heun's step averages its two evaluations. So weights 2
    and 0 have nearly the effect of 1 and 1, with half the evaluations of the discriminator.

    Args:
        score_fn: the model's score.
        sde: the forward SDE, for the noise level at t.
        log_ratio: (x, t) -> [B], log d / (1 - d). Value i must depend on x[i] and t[i] alone.
        weight: guidance scale in the first evaluation of a solver's step.
        later_weight: guidance scale in the later evaluations, such as the second of Heun's method.
        sigma_min: lowest guided noise level sigma / alpha; None for the published one, that of VP
            at t = 0.01.
        sigma_max: highest guided noise level; None for the published one, that of VP at t = 1.
        boost: double the gradient where log_ratio < 0, that is for samples classified as fake. It
            is the gradient of min(r, 2 r) in place of r = log_ratio. (The published code does so
            in every other step, and also adds noise to such samples.)

    Returns:
        With equal weights one score function, for any sampler. Otherwise (first, later), two score
        functions for the samplers that step between noise levels (NoiseLevelSolver).

    Raises:
        ValueError: a weight or sigma_min that is negative or not finite, or sigma_min >= sigma_max.
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


def clip(score_fn: ScoreFn, sde: SDE, limit: float) -> ScoreFn:
    """The score whose estimate of x_0, (x + sigma^2 score) / alpha, is clipped to [-limit, limit].

    Data in [-limit, limit] have their mean there, so the exact score does not change. DDPM's
    published samplers clip so (Ho et al. 2020).

    Raises:
        ValueError: a limit that is not positive; when the result is called, an SDE whose state has
            no single noise level.
    """
    check_positive(limit=limit)

    def guide(evaluate: Both, x: Array, t: Array) -> tuple[Array, Array | None]:
        score, v = evaluate(x, t)
        alpha, variance = expand(sde.alpha(t), x), expand(sde.sigma(t) ** 2, x)
        estimate = (x + variance * score) / alpha
        clipped = (alpha * jnp.clip(estimate, -limit, limit) - x) / variance
        return jnp.where(jnp.abs(estimate) <= limit, score, clipped), v

    return _guided(score_fn, guide)


def classifier_free(
    conditional_score_fn: Callable[[Array, Array, Any], Array],
    condition: PyTree,
    weight: Weight,
    null: PyTree = None,
    negative: PyTree = None,
    channels: int | None = None,
) -> ScoreFn:
    """Classifier-free guidance, s_u + weight (s_y - s_u) (Ho & Salimans 2022, arXiv 2207.12598).

    s_y is the conditional score and s_u the unconditional score of one model, trained with dropout
    of the condition. Both come from one call, with the two batches concatenated. With a negative
    condition (a negative prompt) the score is s_neg + weight (s_y - s_neg), and s_u is not
    evaluated. With both `negative` and `null` it is
    s_u + weight (s_y - s_u) - weight (s_neg - s_u), from one call with three batches.

    Args:
        conditional_score_fn: (x, t, condition) -> score; or -> (score, v) of a ScoreAndVariance.
            Then the result gives a pair too, with the v of the conditional score.
        condition: conditioning, a pytree of arrays [B, ...].
        weight: guidance scale: 1 is s_y, 0 is s_u.
        null: conditioning of s_u: a pytree like `condition`, whose leaves broadcast to its arrays.
            None is -1, no class, and needs a condition of integers.
        negative: negative conditioning, a pytree like `null`; None for no negative condition.
        channels: number of channels that are guided, the first ones. The others keep the
            conditional score. None: all are guided.

    Raises:
        ValueError: channels below 1; an empty condition; neither null nor negative with a
            condition that is not of integers; a weight that is negative or not finite; when the
            result is called, a condition and an x of different batch sizes, or an x of fewer
            channels.
    """
    check_positive(or_zero=True, weight=weight)
    if channels is not None:
        check_at_least(1, channels=channels)
    leaves, parts = jax.tree.leaves(condition), _conditions(condition, null, negative)
    unconditional = _same(weight, 0) and channels is None
    if unconditional:
        parts = parts[-1:]
    elif _same(weight, 1) and len(parts) == 2:
        parts = parts[:1]

    def guided(x: Array, t: Array) -> Any:
        if channels is not None and x.shape[-1] < channels:
            raise ValueError(f"channels is {channels}, but x has {x.shape[-1]} of them")
        for leaf in leaves:
            if jnp.shape(leaf)[:1] != t.shape:
                raise ValueError(
                    f"the condition has the shape {jnp.shape(leaf)}, x {x.shape}: give one "
                    f"condition per sample, [{len(x)}, ...]"
                )
        n, w = len(parts), _at(weight, t, x)
        together = jax.tree.map(lambda *part: jnp.concatenate(part), *parts)
        score = conditional_score_fn(jnp.concatenate([x] * n), jnp.concatenate([t] * n), together)
        score, *variance = score if isinstance(score, tuple) else (score,)
        result = _combined(w, channels, *jnp.split(score, n))
        if variance and unconditional:
            variance = conditional_score_fn(x, t, condition)[1:]
        return (result, variance[0][: len(x)]) if variance else result

    return guided


def _combined(weight: Array, channels: int | None, own: Array, *others: Array) -> Array:
    """The guided score, from the conditional one and those that it is compared with."""
    result = own
    if len(others) == 1:
        result = weight * own + (1 - weight) * others[0]
    elif others:
        result = others[1] + weight * (own - others[0])
    if channels is None:
        return result
    return jnp.concatenate([result[..., :channels], own[..., channels:]], -1)


def _conditions(condition: PyTree, null: PyTree, negative: PyTree) -> list[PyTree]:
    """The condition, the negative one and the null one, of those that there are."""
    if not jax.tree.leaves(condition):
        raise ValueError("classifier-free guidance needs a condition: give class labels, [B], say")
    if null is None and negative is None:
        null = jax.tree.map(_no_class, condition)
    others = [other for other in (negative, null) if other is not None]
    return [condition, *(jax.tree.map(_like, condition, other) for other in others)]


def _no_class(leaf: Array) -> int:
    """The null of classes, -1. Raises ValueError for a condition that is not of integers."""
    if not jnp.issubdtype(jnp.result_type(leaf), jnp.integer):
        raise ValueError(
            "null is None, which is -1 for classes, but the condition is not of integers: set null "
            "to the unconditional input that the model was trained with"
        )
    return -1


def epsilon_scaling(score_fn: ScoreFn, b: Weight) -> ScoreFn:
    """Epsilon scaling: divides the predicted noise by b (Ning et al. 2023, arXiv 2308.15321).

    It corrects a model that predicts b times the noise. The paper takes b > 1, which also makes up
    for exposure bias, the error that accumulates in sampling. The best b, and whether it is above
    1, depends on the solver and its number of steps.

    Raises:
        ValueError: b is not positive, or not finite.
    """
    check_positive(b=b)
    if isinstance(score_fn, ScoreAndEnergy) and not _same(b, 1):
        both = score_fn.both
        return ScoreAndEnergy(
            lambda x, t: jax.tree.map(lambda a: a / _at(b, t, a), both(x, t))  # score and energy
        )

    def guide(evaluate: Both, x: Array, t: Array) -> tuple[Array, Array | None]:
        score, variance = evaluate(x, t)
        return score / _at(b, t, x), variance

    return score_fn if _same(b, 1) else _guided(score_fn, guide)


def linear(k: float | Array, b0: float | Array) -> Weight:
    """The linear schedule b(t) = k t + b0 of epsilon_scaling; the number b0 if k is 0.

    Raises:
        ValueError: b0 is not positive, or k or b0 is not finite.
    """
    check_positive(b0=b0)
    if isinstance(k, Real) and not math.isfinite(k):
        raise ValueError(f"k is {k}: it must be finite")
    return b0 if _same(k, 0) else lambda t: k * t + b0


def step_number(sde: SDE, levels: Sequence[float]) -> Callable[[PerSample], PerSample]:
    """The number of a sampler's step as a function of t: 0 at its first noise level, 1 at the next.

    Between two levels it is interpolated in log sigma / alpha. So lambda_i = k i + b of Ning et al.
    2023 is epsilon_scaling with lambda t: k * step_number(sde, levels)(t) + b.

    Args:
        sde: the forward SDE.
        levels: the sampler's own (NoiseLevelSolver.own_levels), from high to low.
    """
    given = np.asarray(levels, np.float64)
    given = given[np.append(True, np.diff(given) < 0) & (given > 0)]
    places, numbers = jnp.asarray(-np.log(given), float), jnp.arange(len(given), dtype=float)
    return lambda t: jnp.interp(-jnp.log(sde.noise_level(t)), places, numbers)


def time_shift(score_fn: ScoreFn, sde: SDE, window: float, cutoff: float) -> ScoreFn:
    """Time-shift sampler: evaluates the model at the time that fits the variance of x.

    -sigma(t) score is the noise that the model predicts at (x, tau) (Li et al. 2023, arXiv
    2305.15583), where tau is samplers.time_shift.shifted_time. The step stays where it was: with
    the solvers' own shift_window it begins at tau too.

    Args:
        score_fn: the model's score.
        sde: the forward SDE; its sigma must increase with t.
        window: width of the interval of times.
        cutoff: time up to which nothing is shifted.

    Raises:
        ValueError: window or cutoff is negative or not finite.
    """
    check_positive(or_zero=True, window=window, cutoff=cutoff)
    if _same(window, 0):
        return score_fn

    def guide(evaluate: Both, x: Batch, t: PerSample) -> tuple[Array, Array | None]:
        tau = shifted_time(sde, x, t, window, cutoff)
        score, variance = evaluate(x, tau)
        return expand(sde.sigma(tau) / sde.sigma(t), x) * score, variance

    return _guided(score_fn, guide)


def _guided(score_fn: ScoreFn, guide: Callable[[Both, Array, Array], Any]) -> ScoreFn:
    """The score function of guide(evaluate, x, t), with the variance if score_fn has one."""
    if isinstance(score_fn, ScoreAndVariance):
        return ScoreAndVariance(partial(guide, score_fn.both))
    return lambda x, t: guide(lambda x, t: (score_fn(x, t), None), x, t)[0]


def _same(a: Any, b: Any) -> bool:
    """Compares a and b; False unless both are Python numbers."""
    return isinstance(a, Real) and isinstance(b, Real) and bool(a == b)


def _at(weight: Weight, t: PerSample, x: Batch) -> Array:
    """The weight at t, with axes appended to broadcast against x."""
    return expand(jnp.asarray(weight(t) if callable(weight) else weight), x)


def _like(condition: Array, other: Any) -> Array:
    """`other` with the shape and the dtype of `condition`."""
    return jnp.broadcast_to(jnp.asarray(other, jnp.result_type(condition)), jnp.shape(condition))
