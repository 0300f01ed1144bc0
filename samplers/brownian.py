"""Brownian motion along the noise levels: a sample's path is one, whatever the steps through it.

W with Var(W(b) - W(a)) = b^(-2 rate) - a^(-2 rate) for levels a > b drives y / l^(1 + rate) where
y follows the reverse SDE dy = (1 + rate) eps dl + sqrt(2 rate l) dw: a step makes the very noise
that two halves of it make. Halfway (in log level) between known points W is a draw of the Brownian
bridge, numbered by its place, and so on (Levy's construction; levels closer than 0.26% take it
further, which moves W between its places by up to 3%). So W is a weighted sum of draws, and
the weights, which the levels alone decide, are known in float64 before any draw is made.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from sde_lib.batch import Batch, fold_in, normal

DEPTH = 12  # halvings of the way in log level: 4,096 pieces, from 40,000 down to 1 each of 0.26%

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
    """The increments of W from now[k] to each of stops[k], one step after the other.

    Args:
        keys: of the samples' paths.
        now: the levels that steps start at: each the last stop of the step before.
        stops: the levels below, decreasing, that increments reach to.
        high: no level is above it; with `low` and `rate` it decides on the path. W(high) = 0.
        low: no level is below it.
        rate: positive.
        shape: (B, ...).

    Returns:
        draw(k, w), the increments divided by their standard deviations, [stops, B, ...], and the
        next step's w; and the first step's w, which is W / (its level)^(-rate).
    """
    log_ratio = np.log(stops / now[:, None])
    gaps = np.diff(-log_ratio, axis=1, prepend=0)  # two levels in one piece would share its draw
    depth = max(DEPTH, int(np.ceil(np.log2(np.log(high / low) / gaps.min()))))
    ratio, rest = np.exp(rate * log_ratio), -np.expm1(2 * rate * log_ratio)
    rows = *levy(stops, high, low, rate, depth), ratio / np.sqrt(rest), 1 / np.sqrt(rest)
    places, *floats = jax.tree.map(jnp.asarray, rows)
    weights, of_now, of_then = (jnp.asarray(a, jnp.float32) for a in floats)

    def value(places, weights):
        def add(term, w):
            return w + weights[term] * normal(fold_in(keys, places[term]), shape)

        return jax.lax.fori_loop(0, len(places), add, jnp.zeros(tuple(shape)))

    def draw(k, w):
        then = jax.lax.map(lambda row: value(*row), (places[k], weights[k]))
        by_stop = (-1, *(1,) * len(shape))
        z = of_then[k].reshape(by_stop) * then - of_now[k].reshape(by_stop) * w
        return z, then[-1]

    first = levy(now[0], high, low, rate, depth)
    return draw, value(jnp.asarray(first[0]), jnp.asarray(first[1], jnp.float32))


def levy(
    levels: Float[np.ndarray, "*shape"], high: float, low: float, rate: float, depth: int = DEPTH
) -> tuple[Int[np.ndarray, "*shape terms"], Float[np.ndarray, "*shape terms"]]:
    """Places and weights of the draws whose sum is W(level) level^rate, given W(high) = 0."""

    def gap(a, b):
        """The variance of W(b) - W(a), over that of W(b) if W(infinity) were 0."""
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
