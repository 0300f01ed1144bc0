"""Weights that a run did not train itself but got from a published model.

They are a file of safetensors, imported/weights.safetensors in the run's folder: written and read
parameter by parameter, so that memory holds a large model once. The optimizer starts anew.
"""

from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from experiments.runs import files
from experiments.training.objective import Objective
from experiments.training.state import TrainState, with_params
from models import weights
from models.weights import safetensors_files

FILE = "imported/weights.safetensors"
CARD = "imported/model_card.md"
AVERAGED, LAST = "ema_params", "params"


def write(
    folder: Path,
    step: int,
    like: Mapping[tuple[str, ...], jax.ShapeDtypeStruct],
    averaged: Iterable[np.ndarray],
    last: Iterable[np.ndarray] | None = None,
) -> None:
    """Writes the weights of a run.

    Args:
        folder: the run's.
        step: of training that they are from.
        like: shapes and types of the parameters by location.
        averaged: the averaged weights in that order.
        last: the weights before averaging; None: the averaged ones are taken for both.
    """
    parts = {AVERAGED: averaged} | ({} if last is None else {LAST: last})
    shapes = {
        "/".join((part, *location)): (leaf.shape, np.dtype(leaf.dtype))
        for part in parts
        for location, leaf in like.items()
    }
    arrays = chain(*parts.values())
    with files.replacing(folder / FILE) as file:
        safetensors_files.write(file, shapes, arrays, {"step": str(step)})


def step_of(folder: Path) -> int | None:
    """The step of a run's imported weights; None if it has none."""
    path = folder / FILE
    return int(safetensors_files.metadata(path)["step"]) if path.exists() else None


def read(folder: Path, like: Any, part: str = AVERAGED) -> Any:
    """The imported weights of a run, on devices.

    Args:
        folder: the run's.
        like: a pytree of shapes and shardings.
        part: AVERAGED or LAST.

    Raises:
        ValueError: the file is damaged, or does not fit.
    """
    arrays = weights.read(folder / FILE)
    params = {}
    flat: Any = flax.traverse_util.flatten_dict(like)
    for location, leaf in flat.items():
        array = arrays.get("/".join((part, *location)), arrays.get("/".join((AVERAGED, *location))))
        if array is None or array.shape != leaf.shape:
            raise ValueError(
                f"{folder / FILE} does not fit the config beside it ({'/'.join(location)}): import "
                "the model again"
            )
        params[location] = jax.device_put(np.array(array), leaf.sharding).block_until_ready()
        weights.release(array)
    return flax.traverse_util.unflatten_dict(params)


def start(objective: Objective, folder: Path, abstract: TrainState) -> TrainState | None:
    """The state in which training goes on from imported weights; None if the run has none."""
    step = step_of(folder)
    if step is None:
        return None
    last, averaged = read(folder, abstract.params, LAST), read(folder, abstract.ema_params)
    made = with_params(objective, step, last, averaged, 1 + len(abstract.averages))
    return jax.device_put(made, jax.tree.map(lambda leaf: leaf.sharding, abstract))
