"""A long computation in parts: those that are done are not done again."""

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.runs import hosts
from experiments.runs import sharding
from models.config import Config

Arrays = dict[str, np.ndarray]
Part = Callable[[str, Callable[[], Arrays]], Arrays]
"""part(name, compute) gives what compute() gives, or gave when it was first asked for."""


def always(name: str, compute: Callable[[], Arrays]) -> Arrays:
    """The Part that keeps nothing."""
    return compute()


class Parts:
    """The Part that keeps an .npz file of each, in a folder of its own for what decides on them.

    Args:
        folder: where that folder is.
        kind: the first part of its name.
        inputs: the rest: the digest of this pytree, of settings, weights and data.
    """

    def __init__(self, folder: Path, kind: str, inputs: Any):
        self._folder = folder / f"{kind}-{digest(inputs)}"

    def __call__(self, name: str, compute: Callable[[], Arrays]) -> Arrays:
        path = self._folder / f"{name}.npz"
        if hosts.agree(path.exists()):
            with np.load(path) as arrays:
                return dict(arrays)
        arrays = compute()
        save(path, **arrays)
        return arrays


def save(path: Path, **arrays: np.ndarray | int) -> None:
    """Writes an .npz file in one step: a crash never leaves half of it."""
    if not hosts.is_first():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    with temporary.open("wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
    temporary.replace(path)


def digest(tree: Any) -> str:
    """Twelve characters that change with any leaf of a pytree of arrays, numbers and strings."""
    sha256 = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        sha256.update(jax.tree_util.keystr(path).encode())
        is_array = isinstance(leaf, (np.ndarray, jax.Array))
        sha256.update(sharding.fetch(leaf).tobytes() if is_array else repr(leaf).encode())
    return sha256.hexdigest()[:12]


def over(
    mesh: Mesh,
    values: Any,
    batch_size: int,
    fn: Callable[[Any, int], dict[str, jax.Array]],
    part: Part = always,
    name: str = "part",
) -> Arrays:
    """fn(batch, index of its first value) over all values, each once; results [N, ...] by name.

    The values are a sequence, or a pytree of sequences of one length; a batch is of the same
    structure, split over the mesh's devices. All have one size, which these divide: the last is
    filled up with copies, whose results are dropped.
    """
    n, results = len(jax.tree.leaves(values)[0]), []
    size = sharding.round_up(mesh, min(batch_size, n))
    for first in range(0, n, size):

        def compute(first=first) -> Arrays:
            indices = np.minimum(np.arange(first, first + size), n - 1)
            placement = sharding.of_batch(mesh)
            batch = jax.tree.map(lambda leaf: sharding.put(placement, leaf, indices), values)
            result = sharding.fetch(fn(batch, first))
            return {key: value[: n - first] for key, value in result.items()}

        results.append(part(f"{name}_{first}_{size}", compute))
    return {key: np.concatenate([result[key] for result in results]) for key in results[0]}


def passes(
    config: Config,
    mesh: Mesh,
    values: Any,
    fn: Callable[[jax.Array, Any, int], dict[str, jax.Array]],
    part: Part = always,
) -> Arrays:
    """The mean of fn(key, batch, first index), [N] by name, over config.eval.n_repeats passes."""
    results = []
    for repeat in range(config.eval.n_repeats):
        key = jax.random.fold_in(jax.random.key(config.seed), repeat)
        size = config.eval.batch_size
        results.append(over(mesh, values, size, partial(fn, key), part, f"pass_{repeat}"))
    return {
        name: np.asarray([result[name] for result in results], np.float64).mean(axis=0)
        for name in results[0]
    }
