"""Data, or their latents, and batches that can start anywhere."""

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import grain
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.data import latent
from experiments.data.dataset import Dataset as Dataset
from experiments.data.model_space import data_range as data_range
from experiments.data.model_space import to_grey as to_grey
from experiments.data.model_space import to_model_space as to_model_space
from experiments.data.model_space import to_model_space_each as to_model_space_each
from experiments.data.model_space import to_uint8 as to_uint8
from experiments.data.named import check_labels as check_labels
from experiments.data.named import load_images as load_images
from experiments.runs import sharding
from models.config import Config


def load(config: Config) -> Dataset:
    """The data that a model is of: `load_images`, or their latents by config.data.autoencoder."""
    dataset = load_images(config)
    return latent.load(config, dataset) if config.data.autoencoder else dataset


def batches(
    values: Any, seed: int, shape: tuple[int, ...], start: int, placement: NamedSharding
) -> Iterator[Any]:
    """Endless shuffled batches, from the start-th on: batch k depends on seed and k alone.

    They are global arrays; a host reads the rows of its own devices.

    Args:
        values: sequences of one length N that an array of indices can index; one of them, or a
            pytree, such as (images, labels, confidences): a batch then has the same structure.
        seed: of the order.
        shape: of the samples in a batch, such as (microbatches, samples in each).
        start: the batch to start at.
        placement: where a batch lives.
    """
    lengths = {len(leaf) for leaf in jax.tree.leaves(values)}
    if len(lengths) != 1:
        raise ValueError(f"batches of sequences need one length, these have {sorted(lengths)}")
    (n,), size = lengths, math.prod(shape)

    @lru_cache(4)  # grain's own shuffle takes 20 us for an index, a few percent of a small step
    def order(epoch: int) -> np.ndarray:
        return np.random.RandomState([seed % 2**32, epoch]).permutation(n)

    def place(k: int) -> Any:
        epochs, at = np.divmod(np.arange(k * size, (k + 1) * size), n)
        rows = [order(epoch)[at[epochs == epoch]] for epoch in np.unique(epochs)]
        indices = np.concatenate(rows).reshape(shape)
        return jax.tree.map(lambda leaf: sharding.put(placement, leaf, indices), values)

    batched = grain.MapDataset.range(2**62 // size).map(place)
    # A few batches ahead: grain's 500 would be gigabytes of large images.
    iterator = iter(
        batched.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8))
    )
    iterator.set_state({"next_index": start})
    return iterator


def resident(mesh: Mesh, values: Any, most: int) -> Any | None:
    """A pytree of arrays whole on every device; None for those of more than `most` bytes together.

    And for images that are decoded when a batch asks for them.
    """
    leaves = jax.tree.leaves(values)
    if not all(isinstance(leaf, np.ndarray) for leaf in leaves):
        return None
    if sum(leaf.nbytes for leaf in leaves) > most:
        return None
    everywhere = NamedSharding(mesh, P())
    return jax.tree.map(
        lambda leaf: jax.make_array_from_callback(leaf.shape, everywhere, leaf.__getitem__), values
    )


def fetch(values: Any | None, batch: Any) -> Any:
    """Inside jit: a batch of resident values, from their indices; without such, it is one."""
    return batch if values is None else jax.tree.map(lambda leaf: leaf[batch], values)
