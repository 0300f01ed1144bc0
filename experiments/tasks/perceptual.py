"""How different images look to a network: the distance of its features (Zhang et al. 2018).

Each layer's features are brought to length 1 at each position; the distance is their squared
difference, the mean over positions and layers, without weights that were learned for it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import models
from experiments import build
from experiments.data import model_space
from experiments.evaluation import features
from experiments.runs import sharding
from experiments.runs import workdir as workdirs
from experiments.tasks import classifier
from experiments.training import state
from models import inception, torch_import
from models.config import Config
from sde_lib.batch import Batch, PerSample

Layers = Callable[[Batch], list[jax.Array]]
SEEN = {"Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5d.branch1x1", "Mixed_6e.branch1x1"}
"""Of Inception, from 147 x 147 positions to 17 x 17."""


def load(config: Config) -> Callable[[Batch, Batch], PerSample]:
    """distance(x, y) of images in model space, by make_layers(config)."""
    layers = make_layers(config)

    def distance(x: Batch, y: Batch) -> PerSample:
        each = [
            jnp.mean(jnp.sum((_unit(a) - _unit(b)) ** 2, axis=-1), axis=(1, 2))
            for a, b in zip(layers(x), layers(y), strict=True)
        ]
        return jnp.mean(jnp.stack(each), axis=0)

    return distance


def make_layers(config: Config) -> Layers:
    """layers(x): the features of images in model space, by config.autoencoder.perceptual.

    That is a file of Inception's weights (features.load), or the folder of a classifier of these
    images, which sees them at its SDE's least noise.

    Raises:
        ValueError: neither of these, or a classifier of images of another shape or range.
    """
    path = Path(config.autoencoder.perceptual)
    return _of_inception(config, path) if path.is_file() else _of_classifier(config, path)


def _of_inception(config: Config, path: Path) -> Layers:
    params = torch_import.inception(features.load(path))
    low, high = model_space.data_range(config)

    def layers(x: Batch) -> list[jax.Array]:
        x = inception.resize((x - low) / (high - low) * 255)
        x = (jnp.broadcast_to(x, (*x.shape[:-1], 3)) - 128) / 128
        network = inception.Inception()
        return _seen(network.apply({"params": params}, x, **_watch(lambda m: m.name in SEEN)))

    return layers


def _of_classifier(config: Config, folder: Path) -> Layers:
    theirs = workdirs.load_config(folder)
    theirs.mesh = config.mesh
    if not models.is_classifier(theirs) or models.is_discriminator(theirs):
        raise ValueError(
            f"config.autoencoder.perceptual, {folder}, holds the model {theirs.model.name!r}: give "
            "the folder of a classifier, or a file of Inception's weights"
        )
    for what, of in (
        ("shape of data", build.image_shape),
        ("range of data", model_space.data_range),
    ):
        if of(config) != of(theirs):
            raise ValueError(
                f"the {what} of the classifier in {folder} is {of(theirs)}, here {of(config)}"
            )
    model, params, _ = state.load(theirs, folder)
    params = sharding.fetch(params)  # a train step closes over them
    sde, watch = build.make_sde(theirs), _watch(lambda m: type(m).__name__ == "WideBlock")

    def layers(x: Batch) -> list[jax.Array]:
        t = jnp.full(len(x), sde.train_t_min)
        seen: Any = classifier.logits_fn(theirs, sde, model, params, **watch)(x, t)
        return _seen(seen)

    return layers


def _watch(which: Callable[[Any], bool]) -> dict[str, Any]:
    """Options of linen's apply: what these layers give comes out too."""
    return {"capture_intermediates": lambda m, _: which(m), "mutable": ["intermediates"]}


def _seen(result: tuple[Any, Any]) -> list[jax.Array]:
    return jax.tree.leaves(result[1])


def _unit(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.sum(x**2, axis=-1, keepdims=True) + 1e-10)
