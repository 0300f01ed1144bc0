"""Pipelines whose score is known: stand-ins for trained networks."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from closed_forms import Gaussian

from experiments.build import pipelines
from experiments.data.dataset import Dataset
from models import NoiseModel, Preconditioning


class Exact:
    """A network whose output is score(x, t, **conditions), under VP or any SDE up to t = 1."""

    def __init__(self, score: Any):
        self.score = score

    def apply(self, variables, x, labels, train, rngs, **conditions):
        return self.score(x, labels / 999, **conditions)


def pipeline(config: Any, score: Any = None, dataset: Dataset | None = None, **fields: Any) -> Any:
    """The pipeline of a config, with the given score in place of the network's.

    Args:
        config: of the model; its SDE is VP, or another with t_max = 1 and labels of 999 t.
        score: score(x, t, **conditions); None: that of Gaussian data.
        dataset: the data, where they matter.
        **fields: of the Pipeline.
    """
    made = guided(config)
    sde = made.sde
    network: Any = Exact(score or Gaussian().score_fn(sde))
    fields = {"model": NoiseModel(network, Preconditioning(sde, "score")), "params": {}} | fields
    if dataset is not None:
        fields["dataset"] = lambda: dataset
    return dataclasses.replace(made, **fields)


def guided(config: Any) -> Any:
    """The untrained pipeline of a config, with its guides and its base."""
    made = pipelines.untrained(config)
    return made.replace(**pipelines.guidance_of(config, None))


def not_a_number(x, t):
    """The score of a model that is broken."""
    return x * jnp.nan


def grey_images(x: Any, levels: int = 256) -> np.ndarray:
    """Grey levels, uint8, of values in [-1, 1]."""
    grey = np.floor((np.asarray(x) + 1) / 2 * levels)
    return np.clip(grey, 0, levels - 1).astype(np.uint8)
