"""Guidance by gradients: of a classifier's log probability, of a discriminator's log ratio."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from samplers.base import Scores
from samplers.guidance.base import Both, Weight, at, guided, same
from samplers.noise_levels import SLACK, levels_at
from sde_lib import SDE, VP, ScoreAndEnergy, ScoreFn
from sde_lib.batch import PerSample
from sde_lib.checks import check_positive

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
    if same(weight, 0):
        return score_fn
    if isinstance(score_fn, ScoreAndEnergy):
        own = ScoreAndEnergy.of(lambda x, t: at(weight, t, t) * _each(log_prob, x, t))
        return ScoreAndEnergy(
            lambda x, t: jax.tree.map(jnp.add, score_fn.both(x, t), own.both(x, t))
        )

    def guide(evaluate: Both, x: Array, t: Array) -> tuple[Array, Array | None]:
        score, variance = evaluate(x, t)

        def total(x):
            return jnp.sum(_each(log_prob, x, t))

        w = at(weight, t, x)

        def add() -> Array:
            return jnp.where(w != 0, score + w * jax.grad(total)(x), score)

        if callable(weight):
            return jax.lax.cond(jnp.any(w != 0), add, lambda: score), variance
        return add(), variance

    return guided(score_fn, guide)


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
            return jnp.where(inside, at(weight, t, t), 0.0)

        return score_fn if same(weight, 0) else gradient(score_fn, log_prob, within)

    first = guided(weight)
    return first if same(weight, later_weight) else (first, guided(later_weight))
