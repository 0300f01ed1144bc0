"""Levels drawn by what the bound's terms there were lately (Nichol & Dhariwal 2021, Section 3.3).

The variance of sum_k L_k, estimated from one level of probability p_k, is least where p_k goes as
sqrt(E L_k^2). All levels are equally probable until each has its whole history.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sde_lib.batch import PerSample
from sde_lib.checks import check_at_least

EQUAL = 1e-3  # of the probability is shared equally, so that no level is forgotten


class LossHistory(NamedTuple):
    """The last n terms of each level, in a ring, and how many there have been."""

    terms: Float[Array, "levels n"]
    counts: Int[Array, " levels"]


def empty(n_levels: int, n: int) -> LossHistory:
    """Without terms. Raises ValueError unless it is to hold one of each level."""
    check_at_least(1, n_levels=n_levels, n=n)
    return LossHistory(jnp.zeros((n_levels, n)), jnp.zeros(n_levels, jnp.int32))


def probabilities(history: LossHistory) -> Float[Array, " levels"]:
    """Of the levels."""
    terms, counts = history
    size = jnp.sqrt(jnp.mean(terms**2, axis=1))
    uneven = (1 - EQUAL) * size / jnp.sum(size) + EQUAL / len(size)
    return jnp.where(jnp.all(counts >= terms.shape[1]), uneven, 1 / len(size))


def add(history: LossHistory, level: Int[Array, " batch"], terms: PerSample) -> LossHistory:
    """With the terms of a batch, in its order, in place of the oldest."""
    n = history.terms.shape[1]
    same = level[:, None] == level[None]
    before, after = jnp.sum(jnp.tril(same, -1), axis=1), jnp.sum(jnp.triu(same, 1), axis=1)
    place = (history.counts[level] + before) % n
    place = jnp.where(after < n, place, n)  # outside: more of this level follow than there is room
    return LossHistory(
        history.terms.at[level, place].set(jax.lax.stop_gradient(terms), mode="drop"),
        history.counts.at[level].add(1),
    )
