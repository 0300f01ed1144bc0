"""Batches of samples: their types, broadcasting over them, and randomness per sample."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray

Batch = Float[Array, "batch *shape"]
PerSample = Float[Array, " batch"]


def expand(a: Float[Array, "..."], x: Batch) -> Float[Array, "..."]:
    """Appends axes to `a` until it broadcasts against `x` from the left: [B] -> [B, 1, 1, 1]."""
    a = jnp.asarray(a)
    return a.reshape(a.shape + (1,) * (x.ndim - a.ndim))


def sample_keys(key: PRNGKeyArray, n: int, first_index: int | Array = 0) -> Key[Array, " n"]:
    """Keys of the samples first_index, ..., first_index + n - 1 of the stream `key`.

    Sample i depends on `key` and i alone: not on the batch that it is drawn in.
    """
    return jax.vmap(jax.random.fold_in, (None, 0))(key, first_index + jnp.arange(n))


def fold_in(keys: Key[Array, " n"], data: int | Array) -> Key[Array, " n"]:
    """Folds one number (a step, say) into every sample's key."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, data)


def normal(keys: Key[Array, " n"], shape: Sequence[int]) -> Batch:
    """Standard normal draws of `shape` = (n, ...), each sample's from its own key."""
    return jax.vmap(lambda key: jax.random.normal(key, tuple(shape[1:])))(keys)
