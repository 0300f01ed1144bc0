"""Array types of a batch, broadcasting over a batch, and one random key per sample."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Key, PRNGKeyArray

from sde_lib.checks import known

Batch = Float[Array, "batch *shape"]
PerSample = Float[Array, " batch"]


def as_float(a: ArrayLike) -> Float[Array, "..."]:
    """`a` as an array of its own precision, but of float32 at least.

    Python numbers have JAX's default precision: float64 under jax_enable_x64, float32 otherwise.
    """
    return jnp.asarray(a, jnp.promote_types(jnp.result_type(a, float), jnp.float32))


def as_number(a: ArrayLike) -> float:
    """`a` as a Python number; a traced one stays what it is."""
    return float(a) if known(a) else a  # pyright: ignore


def math_of(*values: Any) -> Any:
    """The module whose log, sqrt, ... take these numbers: math, or jax.numpy if one is traced."""
    return math if known(*values) else jnp


def numpy_of(*values: Any) -> Any:
    """numpy, whose float64 is exact, or jax.numpy if a value is traced."""
    return np if known(*values) else jnp


def expand(a: Float[Array, "..."], x: Batch) -> Float[Array, "..."]:
    """Appends axes to `a` until it broadcasts against `x` from the left: [B] -> [B, 1, 1, 1]."""
    a = jnp.asarray(a)
    return a.reshape(a.shape + (1,) * (x.ndim - a.ndim))


def block_means(x: Batch, factor: int) -> Batch:
    """Means over blocks of `factor` a side, of x [B, *sides, C] whose sides it divides."""
    blocks = [(side // factor, factor) for side in x.shape[1:-1]]
    x = x.reshape(len(x), *(n for block in blocks for n in block), x.shape[-1])
    return x.mean(axis=tuple(range(2, x.ndim, 2)))


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
