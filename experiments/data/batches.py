"""Shuffled batches that can start anywhere, from the host's memory or from the devices'."""

import logging
import math
from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any

import grain
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from experiments.data.lazy_arrays import UnreadableError
from experiments.runs import devices

LOG = logging.getLogger(__name__)


def batches(
    values: Any,
    seed: int,
    shape: tuple[int, ...],
    start: int,
    placement: NamedSharding,
    max_unreadable: float = 0.0,
) -> Iterator[Any]:
    """Endless shuffled batches, from number `start` on: batch k depends on seed and k alone.

    They are global arrays; a host reads the rows of its own devices. A sample that can no longer be
    read, as its file is gone, is replaced by another one, which is warned of.

    Args:
        values: a pytree of sequences of one length N that an index array can index, such as
            (images, conditions). A batch has the same structure.
        seed: of the order.
        shape: of the samples in a batch, such as (microbatches, samples in each).
        start: number of the first batch.
        placement: sharding of a batch.
        max_unreadable: the share of the samples that may be so. With more, the next batch raises
            ValueError.
    """
    lengths = {len(leaf) for leaf in jax.tree.leaves(values)}
    if len(lengths) != 1:
        raise ValueError(f"batches of sequences need one length, these have {sorted(lengths)}")
    (n,), size = lengths, math.prod(shape)
    lost = _Lost(n, max_unreadable)

    @lru_cache(4)  # grain's own shuffle takes 20 us for an index, a few percent of a small step
    def order(epoch: int) -> np.ndarray:
        return np.random.RandomState([seed % 2**32, epoch]).permutation(n)

    def place(k: int) -> Any:
        epochs, at = np.divmod(np.arange(k * size, (k + 1) * size), n)
        rows = [order(epoch)[at[epochs == epoch]] for epoch in np.unique(epochs)]
        indices = np.concatenate(rows).reshape(shape)
        while True:
            readable = lost.replaced(indices)
            try:
                return jax.tree.map(partial(_put, placement, readable), values)
            except UnreadableError as error:
                lost.add(error)

    batched = grain.MapDataset.range(2**62 // size).map(place)
    # A few batches ahead: grain's default of 500 would be gigabytes of large images.
    iterator = iter(
        batched.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8))
    )
    iterator.set_state({"next_index": start})
    return iterator


def _put(placement: NamedSharding, indices: np.ndarray, values: Any) -> jax.Array:
    return devices.put(placement, values, indices)


class _Lost:
    """The samples that can no longer be read, and others in their places.

    Args:
        n: the number of all samples.
        most: the share of them that may be lost.
    """

    def __init__(self, n: int, most: float):
        self._n, self._most, self._rows = n, most, frozenset()
        self._refusal: ValueError | None = None  # of all later batches: threads read ahead

    def add(self, error: UnreadableError) -> None:
        """Counts the samples of an error. Raises ValueError if they are too many."""
        self._rows |= error.rows
        count = f"{len(self._rows)} of {self._n} training samples can no longer be read"
        if len(self._rows) > self._most * self._n:
            share = math.ceil(1000 * len(self._rows) / self._n) / 1000
            advice = f", or set config.data.max_unreadable={share:g} to go on without" * (share < 1)
            self._refusal = ValueError(f"{error}; {count}: restore the files{advice}")
            raise self._refusal from error
        LOG.warning("%s; %s, others take their places", error, count)

    def replaced(self, indices: np.ndarray) -> np.ndarray:
        """The indices, with that of the next readable sample in place of each that is lost."""
        if self._refusal:
            raise self._refusal
        lost, found = [*self._rows], indices
        while lost and (gone := np.isin(found, lost)).any():
            found = np.where(gone, (found + 1) % self._n, found)
        return found


def resident(mesh: Mesh, values: Any, most: int) -> Any | None:
    """The values whole on every device; None if they exceed `most` bytes or are lazy images."""
    leaves = jax.tree.leaves(values)
    if not all(isinstance(leaf, np.ndarray) for leaf in leaves):
        return None
    if sum(leaf.nbytes for leaf in leaves) > most:
        return None
    return devices.everywhere(mesh, values)


def fetch(values: Any | None, batch: Any) -> Any:
    """Inside jit: the batch itself, or the rows of resident values that it indexes."""
    return batch if values is None else jax.tree.map(lambda leaf: leaf[batch], values)
