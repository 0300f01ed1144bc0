"""Array types of a batch, broadcasting over a batch, and one random key per sample."""

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
    """One key for each of the samples first_index, ..., first_index + n - 1 of the stream `key`.

    The key of sample i depends on `key` and i alone, not on the batch in which it is drawn.
    """
    return jax.vmap(jax.random.fold_in, (None, 0))(key, first_index + jnp.arange(n))


def fold_in(keys: Key[Array, " n"], data: int | Array) -> Key[Array, " n"]:
    """Folds the same number, such as a step index, into the key of every sample."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, data)


def normal(keys: Key[Array, " n"], shape: Sequence[int]) -> Batch:
    """Standard normal draws of `shape` = (n, ...), one key per sample."""
    return jax.vmap(lambda key: jax.random.normal(key, tuple(shape[1:])))(keys)
