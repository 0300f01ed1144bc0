"""Brownian motion along the noise levels: a sample's path is one, whatever the steps through it."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from sde_lib.batch import Batch

DEPTH = 12  # halvings of the way in log level: 4,096 pieces, from 40,000 down to 1 each of 0.26%


class BrownianPath(NamedTuple):
    """W with Var(W(b) - W(a)) = b^(-2 rate) - a^(-2 rate) for levels a > b, and W(high) = 0.

    It drives y / l^(1 + rate) where y follows the reverse SDE dy = (1 + rate) eps dl +
    sqrt(2 rate l) dw, so a step makes the very noise that two halves of it make. Halfway (in log
    level) between known points W is a draw of the Brownian bridge, by a key of that place; so on
    for DEPTH times, and once more at the level asked for.
    """

    keys: Key[Array, " batch"]
    high: float
    low: float
    rate: float

    def time(self, level: Array | float) -> Array:
        """What W's variance grows with: 1 at `low`."""
        return jnp.asarray(self.low / level) ** (2 * self.rate)

    def at(self, level: Array, shape: Sequence[int]) -> Batch:
        """W at a level in [low, high], of `shape` = (B, ...)."""
        return jax.vmap(lambda key: self._of_one(key, level, tuple(shape[1:])))(self.keys)

    def _of_one(self, key: Array, level: Array, shape: tuple[int, ...]) -> Array:
        def draw(node):
            return jax.random.normal(jax.random.fold_in(key, node), shape)

        def bridge(a, b, middle, node):
            (level_a, w_a), (level_b, w_b) = a, b
            t_a, t_b, t = self.time(level_a), self.time(level_b), self.time(middle)
            part = jnp.clip((t - t_a) / (t_b - t_a), 0, 1)
            std = jnp.sqrt(part * jnp.maximum(t_b - t, 0))
            return w_a + part * (w_b - w_a) + std * draw(node)

        def halve(_, piece):
            a, b, node = piece
            middle = jnp.sqrt(a[0] * b[0])
            at_middle = middle, bridge(a, b, middle, node)
            lower = level < middle
            a, b = jax.tree.map(
                lambda *three: jnp.where(lower, three[1], three[0]), (a, at_middle), (at_middle, b)
            )
            return a, b, 2 * node + lower

        end = jnp.sqrt(1 - self.time(self.high)) * draw(0)
        first = (jnp.float32(self.high), jnp.zeros(shape)), (jnp.float32(self.low), end), 1
        a, b, node = jax.lax.fori_loop(0, DEPTH, halve, first)
        return bridge(a, b, level, node)
