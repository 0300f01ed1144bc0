"""The way from grey levels to what models see, and back."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from models.config import Config
from sde_lib.batch import fold_in, sample_keys

DEQUANTIZE = 1 << 20  # folded into a sample's key: no draw of a loss has this number


def to_model_space(
    config: Config,
    levels: int | None,
    key: PRNGKeyArray,
    batch: Array,
    dequantize: bool,
) -> Float[Array, "batch *shape"]:
    """Grey levels to [0, 1], or to [-1, 1] if config.data.centered; points stay as they are.

    `dequantize` adds a uniform draw to each grey level first, so that the density of the result
    gives the probability of the grey levels (sde_lib.bits_per_dim with data_range(config)).
    """
    if levels is None:
        return batch
    grey = batch.astype(jnp.float32)
    if dequantize:
        unit = (grey + jax.random.uniform(key, batch.shape)) / levels
    else:
        unit = grey / (levels - 1)
    low, high = data_range(config)
    return low + (high - low) * unit


def to_model_space_each(
    config: Config,
    levels: int | None,
    key: PRNGKeyArray,
    batch: Array,
    first_index: int | Array,
    dequantize: bool,
) -> Float[Array, "batch *shape"]:
    """to_model_space by a key of each sample's own: the same in any batch."""
    keys = fold_in(sample_keys(key, batch.shape[0], first_index), DEQUANTIZE)
    return jax.vmap(lambda key, x: to_model_space(config, levels, key, x, dequantize))(keys, batch)


def to_grey(config: Config, levels: int | None, x: np.ndarray) -> np.ndarray:
    """The nearest grey level, uint8: the inverse of to_model_space; points stay as they are."""
    if levels is None:
        return x
    low, high = data_range(config)
    unit = (x - low) / (high - low)
    dequantized = config.data.uniform_dequantization and not config.data.autoencoder
    grey = np.floor(unit * levels) if dequantized else np.round(unit * (levels - 1))
    return np.clip(grey, 0, levels - 1).astype(np.uint8)


def data_range(config: Config) -> tuple[float, float]:
    """The interval that images fill in model space."""
    return (-1.0, 1.0) if config.data.centered else (0.0, 1.0)


def to_uint8(config: Config, x: np.ndarray) -> UInt8[np.ndarray, "..."]:
    """Images in model space to 0, ..., 255, rounded."""
    low, high = data_range(config)
    return np.round(np.clip((x - low) / (high - low), 0, 1) * 255).astype(np.uint8)
