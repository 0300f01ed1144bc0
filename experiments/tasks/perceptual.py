"""Perceptual distance: the distance of images in the features of a network (Zhang et al. 2018).

Each layer's features are normalised to length 1 at each position. The distance is their squared
difference, averaged over positions and layers, without weights that were learned for it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.data.scaling import Scaling
from models import NoiseModel, inception
from models.adm_blocks import ADMBlock
from models.resample import side_axes
from models.wideresnet import WideBlock
from sde_lib.batch import Batch, PerSample

Layers = Callable[[Batch], list[jax.Array]]
"""The features of images in model space, a list of [B, *sides, channels]"""
Distance = Callable[[Batch, Batch], PerSample]
SEEN = {"Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5d.branch1x1", "Mixed_6e.branch1x1"}
"""Layers of Inception, from 147 x 147 positions to 17 x 17."""
BLOCKS = (WideBlock, ADMBlock)
"""Classes of the layers of classifiers."""


def distance(layers: Layers) -> Distance:
    """The perceptual distance of two batches of images in model space, [B]."""

    def between(x: Batch, y: Batch) -> PerSample:
        each = [
            jnp.mean(jnp.sum((_unit(a) - _unit(b)) ** 2, axis=-1), axis=side_axes(a))
            for a, b in zip(layers(x), layers(y), strict=True)
        ]
        return jnp.mean(jnp.stack(each), axis=0)

    return between


def inception_layers(params: Any, scaling: Scaling) -> Layers:
    """The features of Inception, from its parameters."""
    low, high = scaling.range

    def layers(x: Batch) -> list[jax.Array]:
        x = inception.resize((x - low) / (high - low) * 255)
        x = (jnp.broadcast_to(x, (*x.shape[:-1], 3)) - 128) / 128
        network = inception.Inception()
        return _seen(network.apply({"params": params}, x, **_watch(lambda m: m.name in SEEN)))

    return layers


def classifier_layers(model: NoiseModel, params: Any) -> Layers:
    """The features of a classifier of noisy images, at its SDE's least noise."""
    sde, watch = model.sde, _watch(lambda m: isinstance(m, BLOCKS))

    def layers(x: Batch) -> list[jax.Array]:
        t = jnp.full(len(x), sde.train_t_min)
        return _seen(model.outputs(params, **watch)(x, t))

    return layers


def _watch(which: Callable[[Any], bool]) -> dict[str, Any]:
    """Options of linen's apply that return the outputs of some layers too."""
    return {"capture_intermediates": lambda m, _: which(m), "mutable": ["intermediates"]}


def _seen(result: Any) -> list[jax.Array]:
    return jax.tree.leaves(result[1])


def _unit(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.sum(x**2, axis=-1, keepdims=True) + 1e-10)
