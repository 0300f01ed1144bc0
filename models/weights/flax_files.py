"""Checkpoints of Flax from before orbax, such as those of the JAX version of score_sde."""

from pathlib import Path
from typing import Any

import flax.serialization
import numpy as np


def read(_: Path, data: memoryview) -> Any:
    """The content of a msgpack file. A normalization's scale and bias get the shape [C].

    Flax gave them the shape [1, 1, 1, C] up to version 0.3.
    """
    return _modern(flax.serialization.msgpack_restore(data))  # pyright: ignore


def _modern(tree: Any, name: str = "") -> Any:
    if isinstance(tree, dict):
        return {key: _modern(value, key) for key, value in tree.items()}
    old = name in ("scale", "bias") and isinstance(tree, np.ndarray)
    return tree.reshape(-1) if old and tree.ndim == 4 and tree.shape[:3] == (1, 1, 1) else tree
