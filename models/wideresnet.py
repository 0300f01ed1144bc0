"""A Wide ResNet that classifies noisy images (Song et al. 2021, Appendix I)."""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.nn import initializers
from jaxtyping import Array, Float

from models.checked import CheckedNetwork
from models.layers import (
    Dense,
    Embedding,
    FourierEmbedding,
    Resample,
    check_halvings,
    convolution_of,
    group_norm,
    with_remat,
)
from models.resample import Image, downsample, side_axes

Logits = Float[Array, "batch classes"]


class WideResNet(CheckedNetwork):
    """Wide ResNet (Zagoruyko & Komodakis 2016) with group in place of batch normalisation.

    As published, it is conditioned on Fourier features of the logarithm of the noise label. It
    standardises each image first, so that the scale and the offset of the data do not matter.

    Attributes:
        blocks_per_group: blocks in each of three groups; the depth is 6 blocks_per_group + 4.
        channel_multiplier: factor on the widths 16, 32 and 64 of the groups.
        num_outputs: number of classes.
        fourier_scale: standard deviation of the Fourier frequencies.
        remat: recompute each block's activations in the backward pass, to save memory.
        dtype: dtype of the blocks; parameters, statistics, embedding and logits stay float32.
    """

    blocks_per_group: int = 4
    channel_multiplier: int = 10
    num_outputs: int = 10
    fourier_scale: float = 16.0
    remat: bool = False
    dtype: str = "float32"

    inputs: ClassVar = "unscaled"  # models/parametrization.py

    @nn.compact
    def __call__(
        self,
        x: Image,
        labels: Float[Array, " batch"],
        train: bool = False,
        features: bool = False,
    ) -> Logits | tuple[Image, Embedding]:
        """The logits; labels > 0 grow with the noise level. `train` has no effect.

        With `features=True`: the features before global pooling, and the noise embedding.

        Raises:
            ValueError: a side is not a multiple of 4.
        """
        check_halvings(x, 2)
        temb = FourierEmbedding(128, self.fourier_scale)(jnp.log(labels))
        temb = nn.Dense(512)(nn.swish(nn.Dense(512)(temb))).astype(self.dtype)

        axes = tuple(range(1, x.ndim))
        least = 1 / np.sqrt(np.prod(x.shape[1:]))  # so that a constant image stays finite
        std = jnp.maximum(x.std(axes, keepdims=True), least)
        h = _conv(16)(((x - x.mean(axes, keepdims=True)) / std).astype(self.dtype))
        residual = with_remat(WideBlock, self.remat)
        for group, width in enumerate((16, 32, 64)):
            for block in range(self.blocks_per_group):
                h = residual(
                    width * self.channel_multiplier,
                    shrink=group > 0 and block == 0,
                    activate_skip=group == block == 0,
                )(h, temb)
        h = nn.relu(group_norm(h.shape[-1])(h))
        if features:
            return h, temb
        # Uniform on +- 1 / sqrt(classes), as published.
        kernel_init = initializers.variance_scaling(1 / 3, "fan_out", "uniform")
        h = h.mean(side_axes(h), jnp.float32)
        return nn.Dense(self.num_outputs, kernel_init=kernel_init)(h)


class WideBlock(nn.Module):
    """A residual block whose skip connection is padded with zeros to `features` channels.

    Attributes:
        features: output channels.
        shrink: halve the image.
        activate_skip: the skip connection starts after the first activation, not before it.
    """

    features: int
    shrink: bool
    activate_skip: bool

    @nn.compact
    def __call__(self, x: Image, temb: Embedding) -> Image:
        h = nn.relu(group_norm(x.shape[-1])(x))
        x = h if self.activate_skip else x
        h = _conv(self.features, strides=2 if self.shrink else 1)(h)
        h += jnp.expand_dims(Dense(self.features)(nn.swish(temb)), side_axes(h))
        h = _conv(self.features)(nn.relu(group_norm(self.features)(h)))
        x = downsample(x, (1, 1)) if self.shrink else x
        return h + jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((0, self.features - x.shape[-1]),))


def _conv(features: int, **options) -> Resample:
    kernel_init = initializers.variance_scaling(2.0, "fan_out", "normal")
    return convolution_of(3, features, use_bias=False, kernel_init=kernel_init, **options)
