"""Brownian paths over noise levels: each sample has one path, whatever the number of steps.

Solutions of the reverse SDE dy = (1 + rate) eps dl + sqrt(2 rate l) dw are driven by a Brownian
motion W with Var(W(b) - W(a)) = b^(-2 rate) - a^(-2 rate) for levels a > b: it is the noise of
y / l^(1 + rate). Noise is taken from W, so a step makes the same noise as its two halves.

W is made by Levy's construction. At the midpoint, in log level, of two known points it is a draw
from the Brownian bridge; every midpoint has a number, which is folded into the sample's key.
Levels closer than 0.26% need more halvings, which moves W between midpoints by up to 3%. So W is a
weighted sum of normal draws. The weights depend on the levels only, and are computed in float64
before any draw is made.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from sde_lib.batch import Batch, fold_in, normal

DEPTH = 12  # halvings of the log level: from 40,000 to 1 they make 4,096 pieces of 0.26%

Draw = Callable[[Array, Batch], tuple[Array, Batch]]


def increments(
    keys: Key[Array, " batch"],
    now: Float[np.ndarray, " steps"],
    stops: Float[np.ndarray, "steps stops"],
    high: float,
    low: float,
    rate: float,
    shape: Sequence[int],
) -> tuple[Draw, Batch]:
    """Increments of W in consecutive steps, from the level now[k] to each level of stops[k].

    Args:
        keys: random keys, one per sample.
        now: level at which each step starts, which is the last stop of the step before.
        stops: decreasing levels below now[k] at which the increments of step k end.
        high: upper bound of the levels, where W = 0. With `low` and `rate` it fixes the path.
        low: lower bound of the levels.
        rate: rate of the SDE above, positive.
        shape: (B, ...).

    Returns:
        (draw, w). draw(k, w) returns the increments of step k divided by their standard
        deviations, [stops, B, ...], and the w of the next step. A step's w is W / level^(-rate) at
        the level where it starts; the w returned is that of the first step.
    """
    log_ratio = np.log(stops / now[:, None])
    gaps = np.diff(-log_ratio, axis=1, prepend=0)  # levels in one piece would share its draw
    depth = max(DEPTH, int(np.ceil(np.log2(np.log(high / low) / gaps.min()))))
    ratio, rest = np.exp(rate * log_ratio), -np.expm1(2 * rate * log_ratio)
    rows = *levy(stops, high, low, rate, depth), ratio / np.sqrt(rest), 1 / np.sqrt(rest)
    places, *floats = jax.tree.map(jnp.asarray, rows)
    weights, scale_now, scale_then = (jnp.asarray(a, float) for a in floats)

    def value(places, weights):
        def add(term, w):
            return w + weights[term] * normal(fold_in(keys, places[term]), shape)

        return jax.lax.fori_loop(0, len(places), add, jnp.zeros(tuple(shape)))

    def draw(k, w):
        then = jax.lax.map(lambda row: value(*row), (places[k], weights[k]))
        by_stop = (-1, *(1,) * len(shape))
        z = scale_then[k].reshape(by_stop) * then - scale_now[k].reshape(by_stop) * w
        return z, then[-1]

    first = levy(now[0], high, low, rate, depth)
    return draw, value(jnp.asarray(first[0]), jnp.asarray(first[1], float))


def levy(
    levels: Float[np.ndarray, "*shape"], high: float, low: float, rate: float, depth: int = DEPTH
) -> tuple[Int[np.ndarray, "*shape terms"], Float[np.ndarray, "*shape terms"]]:
    """Numbers and weights of the normal draws whose sum is W(level) level^rate; W(high) = 0."""

    def gap(a, b):
        """Var(W(b) - W(a)) / b^(-2 rate)."""
        return -np.expm1(2 * rate * np.log(b / a))

    levels = np.asarray(levels, np.float64)
    a, b = np.full_like(levels, high), np.full_like(levels, low)
    w_a = np.zeros((*levels.shape, depth + 2))
    w_b = w_a.copy()
    w_b[..., 0] = np.sqrt(gap(high, low))
    places, place, w = np.zeros(w_a.shape, np.int32), np.ones(levels.shape, np.int32), w_b
    for term in range(1, depth + 2):
        middle = np.sqrt(a * b) if term <= depth else levels
        time_b = (low / b) ** (2 * rate)
        part = gap(middle, a) / gap(b, a)
        w = w_a + part[..., None] * (w_b - w_a)
        w[..., term] = np.sqrt(np.maximum(part * gap(middle, b) * time_b, 0))
        places[..., term] = place
        lower = levels < middle
        a, b = np.where(lower, middle, a), np.where(lower, b, middle)
        w_a, w_b = (np.where(lower[..., None], *pair) for pair in ((w, w_a), (w_b, w)))
        place = 2 * place + lower
    return places, w * (levels / low)[..., None] ** rate
