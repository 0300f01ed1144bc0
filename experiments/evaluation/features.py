"""Features by which images are compared.

They are Inception's, as in the published FID and KID, or those of a fixed random network, which
needs no file of weights.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float32, UInt8

from experiments.runs.parts import digest
from models import inception, torch_import

INCEPTION = "inception_v3_2015"
RANDOM_CONV = "random_conv_v1"
PUBLISHED_NAMES = {"frechet_distance": "fid", "kernel_distance": "kid"}
WIDTHS = (8, 8, 16)
SMALLEST = 2 ** len(WIDTHS)  # pixels a side of the images that the random network takes

Features = Float32[Array, "batch dims"]
Logits = Float32[Array, "batch classes"]


@flax.struct.dataclass
class FeatureFunction:
    """A compiled function from images to features: a pytree whose leaves are the weights.

    Attributes:
        name: the network's name, which is recorded beside every figure.
        version: the first digits of the SHA-256 of the weights.
        function: function(params, images) -> (features, logits).
        params: the weights.
    """

    name: str = flax.struct.field(pytree_node=False)
    version: str = flax.struct.field(pytree_node=False)
    function: Callable[..., tuple[Features, Logits | None]] = flax.struct.field(pytree_node=False)
    params: Any

    @jax.jit
    def __call__(
        self, images: UInt8[Array, "batch height width channels"]
    ) -> tuple[Features, Logits | None]:
        """The features of images, and logits for the Inception Score if there are any.

        Raises:
            ValueError: images of another type or shape.
        """
        return self.function(self.params, images)

    def figure(self, statistic: str) -> str:
        """The name of a statistic of these features.

        "fid" and "kid" are names of Inception's statistics; others carry the network's name.
        """
        if self.name == INCEPTION:
            return PUBLISHED_NAMES.get(statistic, statistic)
        return f"{statistic}({self.name})"


def create(weights: str | Path = "") -> FeatureFunction:
    """The features of Inception with weights from a file (see `load`); "": random_conv()."""
    return inception_v3(load(weights)) if weights else random_conv()


def fitted(fn: FeatureFunction, shape: tuple[int, ...]) -> FeatureFunction:
    """The features of images [height, width, channels] of any size and number of channels.

    For the random network, images that are too small are enlarged by an integer factor. Channels
    other than those of grey and RGB images are taken as grey images, one after the other; the
    features of all of them together have another name.
    """
    height, width, channels = shape
    factor = 1 if fn.name == INCEPTION else -(-SMALLEST // min(height, width))
    by_channel = channels not in (1, 3)
    if factor == 1 and not by_channel:
        return fn
    name = f"{fn.name}_by_channel" if by_channel else fn.name
    fitted_function = _Fitted(fn.function, factor, by_channel)
    return dataclasses.replace(fn, name=name, function=fitted_function)


@dataclasses.dataclass(frozen=True)
class _Fitted:
    """The function of `fitted`; equal ones share a compiled program."""

    function: Callable[..., tuple[Features, Logits | None]]
    factor: int
    by_channel: bool

    def __call__(self, params: Any, images: Array) -> tuple[Features, Logits | None]:
        images = jnp.repeat(jnp.repeat(images, self.factor, axis=1), self.factor, axis=2)
        if not self.by_channel:
            return self.function(params, images)
        channels = jnp.split(images, images.shape[-1], axis=-1)
        rows = [self.function(params, channel)[0] for channel in channels]
        return jnp.concatenate(rows, axis=1), None


def inception_v3(state_dict: Mapping[str, np.ndarray]) -> FeatureFunction:
    """The 2048 features of FID (Heusel et al. 2017), and 1008 logits for the Inception Score.

    The logits leave out the layer's bias, as in the published code of Salimans et al. 2016.

    Raises:
        ValueError: weights of another network.
    """
    params = torch_import.inception(state_dict)
    return FeatureFunction(INCEPTION, digest(params), _inception, params)


def random_conv() -> FeatureFunction:
    """128 features of a fixed random network: three convolutions, each followed by a pooling by 2.

    A feature is the mean of a channel's absolute values over a quarter of the image. The features
    respond to blur, noise and missing modes, so they rank samples of the same data set. Figures
    made with them cannot be compared with published ones.
    """
    random, inputs, params = np.random.RandomState(0), 3, []
    for width in WIDTHS:
        kernel = random.standard_normal((3, 3, inputs, width)) / np.sqrt(9 * inputs)
        params.append(kernel.astype(np.float32))
        inputs = width
    return FeatureFunction(RANDOM_CONV, digest(params), _random_conv, params)


def load(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the weights of Inception: a PyTorch file, or an .npz file of the same arrays.

    Raises:
        ValueError: there is no such file, or it holds something else.
    """
    if not Path(path).is_file():
        raise ValueError(
            f"there is no file {str(path)!r}: give one with the weights of FID's Inception, "
            "published as pt_inception-2015-12-05-6726825d.pth"
        )
    return torch_import.load_state_dict(path)


def _inception(params: Any, images: Array) -> tuple[Features, Logits]:
    outputs = inception.apply(params, images)
    return outputs["2048"], outputs["logits"] - params["fc"]["bias"]


def _random_conv(params: Any, images: Array) -> tuple[Features, None]:
    inception.check_images(images, smallest=SMALLEST)
    x = jnp.asarray(images, jnp.float32) / 127.5 - 1
    x = jnp.broadcast_to(x, (*x.shape[:-1], 3))
    features = []
    for kernel in params:
        layout = ("NHWC", "HWIO", "NHWC")
        x = lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=layout, precision=lax.Precision.HIGHEST
        )
        x = jnp.abs(x)
        for half in jnp.array_split(x, 2, axis=1):
            features += [quarter.mean((1, 2)) for quarter in jnp.array_split(half, 2, axis=2)]
        x = nn.avg_pool(x, (2, 2), strides=(2, 2))
    return jnp.concatenate(features, axis=1), None
