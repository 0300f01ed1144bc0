"""A long computation in parts: finished parts are kept in files and not computed again."""

import hashlib
import logging
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.runs import devices, files, hosts, progress

LOG = logging.getLogger(__name__)
Arrays = dict[str, np.ndarray]
Part = Callable[[str, Callable[[], Arrays]], Arrays]
"""part(name, compute): the result of compute(), or of an earlier call with the same name."""


def always(name: str, compute: Callable[[], Arrays]) -> Arrays:
    """The Part that keeps nothing."""
    return compute()


class Parts:
    """The Part that keeps an .npz file of each result, in a folder named by a digest of its inputs.

    Args:
        folder: the parent of that folder.
        kind: the first part of the folder's name.
        inputs: a pytree of everything that decides on the results: settings, weights, data.
    """

    def __init__(self, folder: Path, kind: str, inputs: Any):
        self._folder = folder / f"{kind}-{digest(inputs)}"

    def __call__(self, name: str, compute: Callable[[], Arrays]) -> Arrays:
        path = self._folder / f"{name}.npz"
        kept = _read(path)
        if hosts.everyone(kept is not None):
            assert kept is not None
            return kept
        arrays = compute()
        files.write_arrays(path, **arrays)
        return arrays


def _read(path: Path) -> Arrays | None:
    """The arrays of a part; None if it is not there, or damaged: then it is computed again."""
    if not path.exists():
        return None
    try:
        with np.load(path) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        LOG.warning("%s is damaged, and made again: %s", path, error)
        return None


def digest(tree: Any) -> str:
    """Twelve characters that change with any leaf of a pytree of arrays, numbers and strings.

    Under jax_enable_x64 weights are restored in float64: those of float32 have the same digest.
    """
    sha256 = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        sha256.update(jax.tree_util.keystr(path).encode())
        is_array = isinstance(leaf, (np.ndarray, jax.Array))
        sha256.update(_narrow(devices.fetch(leaf)).tobytes() if is_array else repr(leaf).encode())
    return sha256.hexdigest()[:12]


def _narrow(array: np.ndarray) -> np.ndarray:
    """An array of float64 as float32, if that holds all of its values."""
    if array.dtype != np.float64:
        return array
    narrow = array.astype(np.float32)
    return narrow if (narrow == array).all() else array


def over(
    mesh: Mesh,
    values: Any,
    batch_size: int,
    fn: Callable[[Any, int], dict[str, jax.Array]],
    part: Part = always,
    name: str = "part",
    title: str = "",
) -> Arrays:
    """Applies fn(batch, index of its first sample) to all values; the results are [N, ...] by name.

    All batches have one size that the devices divide: the last is filled up with copies, whose
    results are dropped.

    Args:
        mesh: the devices over which a batch is split.
        values: a sequence, or a pytree of sequences of one length.
        batch_size: samples at a time.
        fn: a function of a batch of the structure of values.
        part: keeps the result of each batch.
        name: the first part of the results' names.
        title: shown with the progress, if given.
    """
    n, results = len(jax.tree.leaves(values)[0]), []
    size = devices.round_up(mesh, min(batch_size, n))
    for first in progress.track(range(0, n, size), title):

        def compute(first=first) -> Arrays:
            indices = np.minimum(np.arange(first, first + size), n - 1)
            placement = devices.batch_sharding(mesh)
            batch = jax.tree.map(lambda leaf: devices.put(placement, leaf, indices), values)
            result = devices.fetch(fn(batch, first))
            return {key: value[: n - first] for key, value in result.items()}

        results.append(part(f"{name}_{first}_{size}", compute))
    return {key: np.concatenate([result[key] for result in results]) for key in results[0]}
