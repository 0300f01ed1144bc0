"""Corrections of a model's own errors: clipping, epsilon scaling, time shift."""

import math
from collections.abc import Callable, Sequence
from numbers import Real

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from samplers.guidance.base import Both, Weight, at, guided, same
from samplers.time_shift import shifted_time
from sde_lib import SDE, ScoreAndEnergy, ScoreFn
from sde_lib.batch import Batch, PerSample, expand
from sde_lib.checks import check_positive


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

    return guided(score_fn, guide)


def epsilon_scaling(score_fn: ScoreFn, b: Weight) -> ScoreFn:
    """Epsilon scaling: divides the predicted noise by b (Ning et al. 2023, arXiv 2308.15321).

    It corrects a model that predicts b times the noise. The paper takes b > 1, which also makes up
    for exposure bias, the error that accumulates in sampling. The best b, and whether it is above
    1, depends on the solver and its number of steps.

    Raises:
        ValueError: b is not positive, or not finite.
    """
    check_positive(b=b)
    if isinstance(score_fn, ScoreAndEnergy) and not same(b, 1):
        both = score_fn.both
        return ScoreAndEnergy(
            lambda x, t: jax.tree.map(lambda a: a / at(b, t, a), both(x, t))  # score and energy
        )

    def guide(evaluate: Both, x: Array, t: Array) -> tuple[Array, Array | None]:
        score, variance = evaluate(x, t)
        return score / at(b, t, x), variance

    return score_fn if same(b, 1) else guided(score_fn, guide)


def linear(k: float | Array, b0: float | Array) -> Weight:
    """The linear schedule b(t) = k t + b0 of epsilon_scaling; the number b0 if k is 0.

    Raises:
        ValueError: b0 is not positive, or k or b0 is not finite.
    """
    check_positive(b0=b0)
    if isinstance(k, Real) and not math.isfinite(k):
        raise ValueError(f"k is {k}: it must be finite")
    return b0 if same(k, 0) else lambda t: k * t + b0


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
    if same(window, 0):
        return score_fn

    def guide(evaluate: Both, x: Batch, t: PerSample) -> tuple[Array, Array | None]:
        tau = shifted_time(sde, x, t, window, cutoff)
        score, variance = evaluate(x, tau)
        return expand(sde.sigma(tau) / sde.sigma(t), x) * score, variance

    return guided(score_fn, guide)
