"""Weights of guidance, and the wrapping of a score function that may have a variance."""

from collections.abc import Callable
from functools import partial
from numbers import Real
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from sde_lib import ScoreAndVariance, ScoreFn
from sde_lib.batch import Batch, PerSample, expand

Both = Callable[[Array, Array], tuple[Array, Array | None]]
"""(x, t) -> (score, v), with the v of a ScoreAndVariance; None without one."""
Weight = float | Float[Array, ""] | Callable[[PerSample], PerSample]


def guided(score_fn: ScoreFn, guide: Callable[[Both, Array, Array], Any]) -> ScoreFn:
    """The score function of guide(evaluate, x, t), with the variance if score_fn has one."""
    if isinstance(score_fn, ScoreAndVariance):
        return ScoreAndVariance(partial(guide, score_fn.both))
    return lambda x, t: guide(lambda x, t: (score_fn(x, t), None), x, t)[0]


def same(a: Any, b: Any) -> bool:
    """Compares a and b; False unless both are Python numbers."""
    return isinstance(a, Real) and isinstance(b, Real) and bool(a == b)


def at(weight: Weight, t: PerSample, x: Batch) -> Array:
    """The weight at t, with axes appended to broadcast against x."""
    return expand(jnp.asarray(weight(t) if callable(weight) else weight), x)
