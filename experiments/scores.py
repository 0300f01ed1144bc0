"""A trained model as a score function, evaluated on all devices."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

import models
from experiments import sharding
from models.config import Config
from sde_lib import SDE, ScoreFn


def score_fn(
    config: Config,
    sde: SDE,
    model: nn.Module,
    mesh: Mesh,
    params: Any,
    class_labels: jax.Array | None = None,
) -> ScoreFn:
    """Inside jit: models.score_fn, without dropout; class_labels, [B], for a model with classes."""
    params = sharding.gather(mesh, params)
    labels = class_labels if config.model.class_conditional else None
    return sharding.spread(mesh, models.score_fn(config, sde, model, params, class_labels=labels))


def sampled_classes(config: Config, n_classes: int, indices: jax.Array) -> jax.Array:
    """The classes of samples: config.sampling.label, or with -1 all n_classes in turn."""
    label = config.sampling.label
    return indices % n_classes if label < 0 else jnp.full_like(indices, label)


def check_label(config: Config, n_classes: int) -> None:
    """Raises ValueError for a config.sampling.label that is none of n_classes."""
    label = config.sampling.label
    if not -1 <= label < n_classes:
        raise ValueError(
            f"config.sampling.label is {label}: it must be a class, 0 to {n_classes - 1}, or -1 for"
            " all in turn"
        )
