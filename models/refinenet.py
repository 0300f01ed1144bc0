"""Layers of NCSN and NCSNv2 (Song & Ermon 2019, 2020), after RefineNet (Lin et al. 2017)."""

import functools
import operator
from collections.abc import Callable, Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn import initializers
from jaxtyping import Array, Float, PRNGKeyArray

from models.convolution import Conv
from models.layers import Activation
from models.resample import Image, downsample

Layer = Callable[[Image], Image]

POOLS: dict[str, Layer] = {  # 5 x 5; the mean counts the zero padding, the maximum ignores it
    "max": partial(nn.max_pool, window_shape=(5, 5), padding="SAME"),
    "mean": partial(nn.avg_pool, window_shape=(5, 5), padding="SAME"),
}


def conv(features: int, size: int = 3, **options) -> nn.Conv:
    """A size x size convolution with weights uniform on +- 1 / sqrt(inputs), PyTorch's default."""
    kernel_init = initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    return Conv(features, (size, size), kernel_init=kernel_init, **options)


class InstanceNormPlus(nn.Module):
    """InstanceNorm++ (Song & Ermon 2019, Appendix A.1), conditional on the noise level.

    gamma ((x - mean) / std + alpha m) + beta. Here m are the means of the channels, normalised over
    the channels, which plain instance normalisation loses. As in the published code, gamma scales m
    too.

    Attributes:
        num_scales: number of noise levels, each with its own parameters, which are interpolated
            between levels; 1: unconditional.
    """

    num_scales: int = 1

    @nn.compact
    def __call__(self, x: Image, labels: Float[Array, " batch"]) -> Image:
        """Normalises x with the parameters of noise level `labels`, from 0 to num_scales - 1."""
        labels = jnp.clip(labels, 0, self.num_scales - 1)
        low = jnp.floor(labels).astype(jnp.int32)
        high = jnp.minimum(low + 1, self.num_scales - 1)
        weight = (labels - low)[:, None]

        def parameter(name, init):
            table = self.param(name, init, (self.num_scales, x.shape[-1]))
            return ((1 - weight) * table[low] + weight * table[high])[:, None, None]

        gamma, alpha = parameter("gamma", _near_one), parameter("alpha", _near_one)
        mean = x.mean((1, 2), keepdims=True)
        y = _over_std(x - mean, x.var((1, 2), keepdims=True))
        m = _over_std(mean - mean.mean(-1, keepdims=True), mean.var(-1, keepdims=True))
        return gamma * (y + alpha * m) + parameter("beta", initializers.zeros)


def _near_one(key: PRNGKeyArray, shape: Sequence[int]) -> Array:
    return 1 + 0.02 * jax.random.normal(key, shape)


def _over_std(x: Array, variance: Array) -> Array:
    return x * jax.lax.rsqrt(variance + 1e-5)


class ResidualBlock(nn.Module):
    """A residual block: twice normalisation, activation and convolution, plus a skip connection.

    Attributes:
        features: output channels.
        act: the activation function.
        dilation: dilation of the convolutions.
        shrink: for the first block of a stage: convolve the skip connection, and if dilation is 1,
            halve the image by mean pooling.
    """

    features: int
    act: Activation
    dilation: int = 1
    shrink: bool = False

    @nn.compact
    def __call__(self, x: Image, norm: Layer) -> Image:
        dilated = partial(conv, kernel_dilation=self.dilation)
        h = dilated(x.shape[-1] if self.shrink else self.features)(self.act(norm(x)))
        h = dilated(self.features)(self.act(norm(h)))
        if not self.shrink:
            return x + h
        if self.dilation > 1:
            return dilated(self.features)(x) + h
        return downsample(conv(self.features, size=1)(x) + h, (1, 1))


class ConvUnits(nn.Module):
    """RefineNet's residual convolution units (RCU): `blocks` of two convolutions each."""

    blocks: int
    act: Activation

    @nn.compact
    def __call__(self, x: Image, norm: Layer) -> Image:
        for _ in range(self.blocks):
            h = x
            for _ in range(2):
                h = conv(x.shape[-1], use_bias=False)(self.act(norm(h)))
            x += h
        return x


class ChainedPooling(nn.Module):
    """RefineNet's chained residual pooling (CRP): sums x pooled and convolved 0, 1 and 2 times."""

    act: Activation
    pool: Layer

    @nn.compact
    def __call__(self, x: Image, norm: Layer) -> Image:
        x = h = self.act(x)
        for _ in range(2):
            h = conv(x.shape[-1], use_bias=False)(self.pool(norm(h)))
            x += h
        return x


class RefineBlock(nn.Module):
    """RefineNet's block: fuses feature maps at the resolution of the first map.

    Coarser maps are resized bilinearly, aligned by pixel centres.

    Attributes:
        features: output channels.
        act: the activation function.
        pool: the pooling layer of the chained residual pooling.
        units: number of residual convolution units at the end.
    """

    features: int
    act: Activation
    pool: Layer
    units: int = 1

    @nn.compact
    def __call__(self, maps: Sequence[Image], norm: Layer) -> Image:
        maps = [ConvUnits(2, self.act)(x, norm) for x in maps]
        h = maps[0]
        if len(maps) > 1:
            shape = (*h.shape[:-1], self.features)
            convolved = (conv(self.features)(norm(x)) for x in maps)
            resized = (jax.image.resize(x, shape, "bilinear") for x in convolved)
            h = functools.reduce(operator.add, resized)
        h = ChainedPooling(self.act, self.pool)(h, norm)
        return ConvUnits(self.units, self.act)(h, norm)
