"""The Inception-v3 network of 2015 that defines FID and the Inception Score; inference only.

Szegedy et al. 2015 (arXiv:1512.00567). Batch normalisation is folded into the convolutions, and
layers are named as in the published weights. It differs from later versions of the network:
average pooling excludes the padding, the last block uses max pooling, and there are 1008 classes.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from models.resample import Image

SIDE = 299
N_CLASSES = 1008


def apply(
    params: Any, images: UInt8[Array, "batch height width channels"]
) -> dict[str, Float[Array, "batch features"]]:
    """Features of images of any size, keyed by their dimension, or by "logits" (1008 of them).

    "2048" are the features of FID. "64", "192" and "768" are spatial means of the outputs of the
    first two max pools and of block 6e. Matrix products are in full float32 on every device.

    Args:
        params: parameters from models.torch_import.inception.
        images: uint8 [B, H, W, C], with C = 1 (grey) or 3 channels.

    Raises:
        ValueError: images of another type or shape.
    """
    check_images(images)
    with jax.default_matmul_precision("highest"):
        x = resize(jnp.asarray(images, jnp.float32))
        x = jnp.broadcast_to(x, (*x.shape[:-1], 3))
        return _network(params, (x - 128) / 128)


@jax.jit  # without `resize`, so that images of all sizes share one compiled program
def _network(params, x):
    return Inception().apply({"params": params}, x)


def check_images(images: Array, smallest: int = 1) -> None:
    """Raises ValueError unless images are uint8 [B, H, W, 1 or 3] with H, W >= smallest."""
    right = images.dtype == jnp.uint8 and images.ndim == 4 and images.shape[-1] in (1, 3)
    if not right or min(images.shape[1:3]) < smallest:
        raise ValueError(
            "images must be uint8 [batch, height, width, 1 or 3], with height and width at least "
            f"{smallest}, but are {images.dtype} {list(images.shape)}"
        )


def resize(x: Image) -> Image:
    """Resizes to 299 x 299, bilinearly as TensorFlow 1: output i is at i size / 299, no offset."""
    for axis in (1, 2):
        size = x.shape[axis]
        position = np.arange(SIDE) * size / SIDE
        low = position.astype(int)
        weight = np.expand_dims((position - low).astype(np.float32), (0, 2, 3)).swapaxes(1, axis)
        high = np.minimum(low + 1, size - 1)
        x = jnp.take(x, low, axis) * (1 - weight) + jnp.take(x, high, axis) * weight
    return x


class Inception(nn.Module):
    """Maps images [B, 299, 299, 3] in [-1, 1] to the features that `apply` describes."""

    @nn.compact
    def __call__(self, x: Image) -> dict[str, Float[Array, "batch features"]]:
        features = {}
        x = _conv(x, "Conv2d_1a_3x3", 32, 3, 2, "VALID")
        x = _conv(x, "Conv2d_2a_3x3", 32, 3, 1, "VALID")
        x = _max_pool(_conv(x, "Conv2d_2b_3x3", 64, 3))
        features["64"] = _spatial_mean(x)
        x = _conv(x, "Conv2d_3b_1x1", 80)
        x = _max_pool(_conv(x, "Conv2d_4a_3x3", 192, 3, 1, "VALID"))
        features["192"] = _spatial_mean(x)
        for name, width in (("5b", 32), ("5c", 64), ("5d", 64)):
            x = _block_35(x, f"Mixed_{name}", width)
        x = _reduce_to_17(x, "Mixed_6a")
        for name, width in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
            x = _block_17(x, f"Mixed_{name}", width)
        features["768"] = _spatial_mean(x)
        x = _reduce_to_8(x, "Mixed_7a")
        x = _block_8(x, "Mixed_7b", _avg_pool(x))
        x = _block_8(x, "Mixed_7c", nn.max_pool(x, (3, 3), padding="SAME"))
        features["2048"] = _spatial_mean(x)
        features["logits"] = nn.Dense(N_CLASSES, name="fc")(features["2048"])
        return features


def _block_35(x: Image, name: str, pool_width: int) -> Image:
    """Inception block on 35 x 35 positions."""
    branches = [
        _conv(x, f"{name}.branch1x1", 64),
        _chain(x, f"{name}.branch5x5", (48,), (64, 5)),
        _chain(x, f"{name}.branch3x3dbl", (64,), (96, 3), (96, 3)),
        _conv(_avg_pool(x), f"{name}.branch_pool", pool_width),
    ]
    return jnp.concatenate(branches, axis=-1)


def _reduce_to_17(x: Image, name: str) -> Image:
    branches = [
        _conv(x, f"{name}.branch3x3", 384, 3, 2, "VALID"),
        _chain(x, f"{name}.branch3x3dbl", (64,), (96, 3), (96, 3, 2, "VALID")),
        _max_pool(x),
    ]
    return jnp.concatenate(branches, axis=-1)


def _block_17(x: Image, name: str, width: int) -> Image:
    """Inception block on 17 x 17 positions, with convolutions along one axis at a time."""
    along, across = (width, (1, 7)), (width, (7, 1))
    branches = [
        _conv(x, f"{name}.branch1x1", 192),
        _chain(x, f"{name}.branch7x7", (width,), along, (192, (7, 1))),
        _chain(x, f"{name}.branch7x7dbl", (width,), across, along, across, (192, (1, 7))),
        _conv(_avg_pool(x), f"{name}.branch_pool", 192),
    ]
    return jnp.concatenate(branches, axis=-1)


def _reduce_to_8(x: Image, name: str) -> Image:
    last = (3, 2, "VALID")
    branches = [
        _chain(x, f"{name}.branch3x3", (192,), (320, *last)),
        _chain(x, f"{name}.branch7x7x3", (192,), (192, (1, 7)), (192, (7, 1)), (192, *last)),
        _max_pool(x),
    ]
    return jnp.concatenate(branches, axis=-1)


def _block_8(x: Image, name: str, pooled: Image) -> Image:
    """Inception block on 8 x 8 positions; two of its branches fork at their end."""
    y = _conv(x, f"{name}.branch3x3_1", 384)
    z = _chain(x, f"{name}.branch3x3dbl", (448,), (384, 3))
    branches = [
        _conv(x, f"{name}.branch1x1", 320),
        _conv(y, f"{name}.branch3x3_2a", 384, (1, 3)),
        _conv(y, f"{name}.branch3x3_2b", 384, (3, 1)),
        _conv(z, f"{name}.branch3x3dbl_3a", 384, (1, 3)),
        _conv(z, f"{name}.branch3x3dbl_3b", 384, (3, 1)),
        _conv(pooled, f"{name}.branch_pool", 192),
    ]
    return jnp.concatenate(branches, axis=-1)


def _conv(
    x: Image,
    name: str,
    features: int,
    kernel: int | tuple[int, int] = 1,
    stride: int = 1,
    padding: str = "SAME",
) -> Image:
    size = (kernel, kernel) if isinstance(kernel, int) else kernel
    return nn.relu(nn.Conv(features, size, stride, padding, name=name)(x))


def _chain(x: Image, name: str, *convs: tuple) -> Image:
    for i, arguments in enumerate(convs, 1):
        x = _conv(x, f"{name}_{i}", *arguments)
    return x


def _max_pool(x: Image) -> Image:
    return nn.max_pool(x, (3, 3), strides=(2, 2))


def _avg_pool(x: Image) -> Image:
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


def _spatial_mean(x: Image) -> Float[Array, "batch channels"]:
    return jnp.mean(x, axis=(1, 2))
