"""The layers of NCSN and NCSNv2 (Song & Ermon 2019, 2020): RefineNet's (Lin et al. 2017)."""

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

POOLS: dict[str, Layer] = {  # over 5 x 5 pixels; beyond the border are zeros, which no maximum is
    "max": partial(nn.max_pool, window_shape=(5, 5), padding="SAME"),
    "mean": partial(nn.avg_pool, window_shape=(5, 5), padding="SAME"),
}


def conv(features: int, size: int = 3, **options) -> nn.Conv:
    kernel_init = initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    return Conv(features, (size, size), kernel_init=kernel_init, **options)


class InstanceNormPlus(nn.Module):
    """InstanceNorm++ (Song & Ermon 2019, Appendix A.1), with parameters for each noise level.

    gamma ((x - mean) / std + alpha m) + beta, where m are the means of the channels, normalised
    over the channels: what a plain instance normalisation loses. As published, gamma scales m too.

    Attributes:
        num_scales: levels; between two of them the parameters are interpolated. 1: unconditional.
    """

    num_scales: int = 1

    @nn.compact
    def __call__(self, x: Image, labels: Float[Array, " batch"]) -> Image:
        """Normalises x by the parameters of level `labels`, from 0 to num_scales - 1."""
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
    """Two normalised, activated, convolved layers beside a skip.

    Attributes:
        dilation: of the convolutions.
        shrink: the first block of a stage: the skip is convolved, and unless dilation takes its
            place, the image is halved by means over 2 x 2 pixels.
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
    """`blocks` residual blocks of two convolutions (RefineNet's RCU)."""

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
    """Pooled and convolved once, and that once more, all summed (RefineNet's CRP)."""

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
    """Brings feature maps together at the resolution of the first, with `features` channels.

    Coarser ones are resized bilinearly, by the centres of their pixels.

    Attributes:
        pool: of the chained pooling.
        units: residual blocks at the end.
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
