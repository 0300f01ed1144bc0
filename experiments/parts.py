"""A long computation in parts: those that are done are not done again."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

Arrays = dict[str, np.ndarray]
Part = Callable[[str, Callable[[], Arrays]], Arrays]
"""part(name, compute) gives what compute() gives, or gave when it was first asked for."""


def always(name: str, compute: Callable[[], Arrays]) -> Arrays:
    """The Part that keeps nothing."""
    return compute()


class Parts:
    """The Part that keeps an .npz file of each, in a folder that belongs to `settings`."""

    def __init__(self, folder: Path, kind: str, settings: Any):
        self._folder = folder / f"{kind}-{digest(settings)}"

    def __call__(self, name: str, compute: Callable[[], Arrays]) -> Arrays:
        path = self._folder / f"{name}.npz"
        if not path.exists():
            arrays = compute()
            self._folder.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".part")
            with temporary.open("wb") as file:
                np.savez(file, **arrays)
            temporary.replace(path)
        with np.load(path) as arrays:
            return dict(arrays)


def digest(settings: Any) -> str:
    """Eight characters that change with the settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def over(
    values: Sequence | np.ndarray,
    batch_size: int,
    fn: Callable[[np.ndarray, int], dict[str, jax.Array]],
    part: Part = always,
    name: str = "part",
) -> Arrays:
    """fn(batch, index of its first value) over all values, each once; results [N, ...] by name.

    All batches have one size: the last is filled up with copies, whose results are dropped.
    """
    n, results = len(values), []
    size = min(batch_size, n)
    for first in range(0, n, size):

        def compute(first=first) -> Arrays:
            indices = np.minimum(np.arange(first, first + size), n - 1)
            result = fn(np.asarray(values[indices]), first)
            return {key: np.asarray(value)[: n - first] for key, value in result.items()}

        results.append(part(f"{name}_{first}", compute))
    return {key: np.concatenate([result[key] for result in results]) for key in results[0]}
