"""Importance sampling of noise levels by their recent losses (Nichol & Dhariwal 2021, Section 3.3).

Estimating sum_k L_k from one level drawn with probability p_k has the least variance if p_k is
proportional to sqrt(E L_k^2). Levels are drawn uniformly until each has a full history.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sde_lib.batch import PerSample
from sde_lib.checks import check_at_least

UNIFORM_SHARE = 1e-3  # part of the probability spread uniformly, so that every level is drawn


class LossHistory(NamedTuple):
    """Ring buffer of the last n losses of each level, and the number of losses ever added."""

    terms: Float[Array, "levels n"]
    counts: Int[Array, " levels"]


def empty(n_levels: int, n: int) -> LossHistory:
    """An empty history of n losses per level. Raises ValueError if a size is below 1."""
    check_at_least(1, n_levels=n_levels, n=n)
    return LossHistory(jnp.zeros((n_levels, n)), jnp.zeros(n_levels, jnp.int32))


def probabilities(history: LossHistory) -> Float[Array, " levels"]:
    """Probability of drawing each level; they sum to 1."""
    terms, counts = history
    size = jnp.sqrt(jnp.mean(terms**2, axis=1))
    uneven = (1 - UNIFORM_SHARE) * size / jnp.sum(size) + UNIFORM_SHARE / len(size)
    return jnp.where(jnp.all(counts >= terms.shape[1]), uneven, 1 / len(size))


def add(history: LossHistory, level: Int[Array, " batch"], terms: PerSample) -> LossHistory:
    """Replaces the oldest losses of each level by those of a batch, in the order of the batch.

    Args:
        history: the losses so far.
        level: [B] level of each sample.
        terms: [B] loss of each sample; no gradient flows into the history.
    """
    n = history.terms.shape[1]
    same = level[:, None] == level[None]
    before, after = jnp.sum(jnp.tril(same, -1), axis=1), jnp.sum(jnp.triu(same, 1), axis=1)
    place = (history.counts[level] + before) % n
    place = jnp.where(after < n, place, n)  # dropped if n more of its level follow
    return LossHistory(
        history.terms.at[level, place].set(jax.lax.stop_gradient(terms), mode="drop"),
        history.counts.at[level].add(1),
    )
