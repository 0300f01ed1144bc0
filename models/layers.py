"""Layers of NCSN++ (Song et al. 2021, Appendix H), named as in the published checkpoints."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.nn import initializers
from jaxtyping import Array, Bool, Float

from models import convolution
from models.config import describe
from models.normalization import GroupNorm
from models.resample import Image, downsample, side_axes, smooth, upsample
from sde_lib.checks import check_at_least

Embedding = Float[Array, "batch features"]
Resample = Callable[[Image], Image]
Activation = Callable[[Array], Array]
Module = TypeVar("Module", bound=nn.Module)

ACTIVATIONS: dict[str, Activation] = {
    "swish": nn.swish,
    "elu": nn.elu,
    "relu": nn.relu,
    "lrelu": partial(nn.leaky_relu, negative_slope=0.2),
    "gelu": partial(nn.gelu, approximate=False),
    "mish": jax.nn.mish,
}


def init(scale: float = 1.0) -> initializers.Initializer:
    """Uniform variance-scaling initialiser (fan_avg); `scale` = 0 gives weights near zero."""
    return initializers.variance_scaling(max(scale, 1e-10), "fan_avg", "uniform")


def cast_to_input_dtype(*values: Any, **_: Any) -> list[Any]:
    """Casts input, kernel and bias (or None) to the input's dtype: for linen's promote_dtype."""
    return [x if x is None else x.astype(values[0].dtype) for x in values]


# Layers that compute in the dtype of their input; their parameters are float32.
Conv = partial(convolution.Conv, promote_dtype=cast_to_input_dtype)
Dense = partial(nn.Dense, promote_dtype=cast_to_input_dtype)


def convolution_of(size: int, features: int, **options) -> Resample:
    """A convolution with a kernel of this size along every side of its input [B, *sides, C].

    Padding by ((before, after),) holds for every side.
    """

    def convolve(x: Image) -> Image:
        sides, own = x.ndim - 2, dict(options)
        if isinstance(own.get("padding"), tuple):
            own["padding"] *= sides
        return Conv(features, (size,) * sides, **own)(x)

    return convolve


def conv3x3(features: int, scale: float = 1.0, **options) -> Resample:
    """A convolution with a kernel of size 3 initialised by init(scale)."""
    return convolution_of(3, features, kernel_init=init(scale), **options)


def conv1x1(features: int, scale: float = 1.0, **options) -> Resample:
    """A convolution with a kernel of size 1 initialised by init(scale)."""
    return convolution_of(1, features, kernel_init=init(scale), **options)


def nin(features: int, scale: float = 0.1, **options) -> nn.Dense:
    """A linear map of the channels ("network in network") initialised by init(scale)."""
    return Dense(features, kernel_init=init(scale), **options)


def group_norm(
    channels: int, group_size: int = 4, epsilon: float = 1e-6, groups: int = 0, **options
) -> GroupNorm:
    """GroupNorm with at most 32 groups of at least `group_size` channels; or of so many groups."""
    return GroupNorm(groups or min(channels // group_size, 32), epsilon=epsilon, **options)


def add_skip(x: Array, y: Array, rescale: bool) -> Array:
    """x + y, divided by sqrt(2) if `rescale`, which preserves the variance."""
    return (x + y) / 2**0.5 if rescale else x + y


def with_remat(block: type[Module], remat: bool, static: tuple[int, ...] = ()) -> type[Module]:
    """The block class, rematerialised if `remat` (gradient checkpointing, Chen et al. 2016).

    The backward pass then recomputes the block's activations. Parameters and outputs do not change.
    Memory is saved on accelerators only: XLA's CPU compiler undoes the recomputation.

    Args:
        static: positions of the arguments that are not arrays, counting self as 0.
    """
    if not remat:
        return block
    lifted = nn.remat(block, static_argnums=static)
    lifted.__name__ = block.__name__  # linen names parameters after the class
    return lifted


def check_halvings(x: Image, halvings: int) -> None:
    """Raises ValueError unless 2^halvings divides every side of images [B, *sides, C]."""
    factor = 2**halvings
    if any(side % factor for side in x.shape[1:-1]):
        raise ValueError(
            f"{describe(x.shape[1:])} cannot be halved {halvings} times, as the network does: "
            f"every side must be a multiple of {factor}, as in {nearest_sides(x.shape[1:], factor)}"
        )


def nearest_sides(shape: tuple[int, ...], factor: int) -> str:
    """The sides that a factor divides next below and above those of a sample, in words."""
    below, above = (
        " x ".join(str(max(round_(side / factor), 1) * factor) for side in shape[:-1])
        for round_ in (math.floor, math.ceil)
    )
    return below if below == above else f"{below} or {above}"


def level_sigma(
    labels: Float[Array, " batch"], sigma_min: float, sigma_max: float, num_scales: int
) -> Float[Array, " batch"]:
    """Sigma at the index `labels` among num_scales geometric noise levels; index 0 is sigma_max.

    Labels may be fractions. Source: Song & Ermon 2019, Section 4.1.

    Raises:
        ValueError: there are fewer than two levels.
    """
    check_at_least(2, **{"config.model.num_scales": num_scales})
    return sigma_max * (sigma_min / sigma_max) ** (labels / (num_scales - 1))


def with_fourier_features(x: Array, exponents: Sequence[int]) -> Array:
    """Concatenates x, sin(2^n pi x) and cos(2^n pi x), n in exponents, on the last axis."""
    angles = [2.0**n * np.pi * x for n in exponents]
    return jnp.concatenate([x, *map(jnp.sin, angles), *map(jnp.cos, angles)], axis=-1)


def positional_embedding(
    labels: Float[Array, " batch"], features: int, shift: int = 1
) -> Embedding:
    """Sines, then cosines, at frequencies 1 to 1e-4 (Vaswani et al. 2017; DDPM's spacing).

    With another shift than 1, the last frequency is 10000^(-(half - 1) / (half - shift)).
    """
    half = features // 2
    frequencies = jnp.exp(-np.log(10_000) / (half - shift) * jnp.arange(half))
    angles = labels[:, None] * frequencies
    embedding = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)
    return jnp.pad(embedding, ((0, 0), (0, features % 2)))


class FourierEmbedding(nn.Module):
    """Random Fourier features (Tancik et al. 2020) [B, 2 features] of [B]; not trained.

    Attributes:
        features: number of frequencies.
        scale: standard deviation of the frequencies.
    """

    features: int
    scale: float

    @nn.compact
    def __call__(self, labels: Float[Array, " batch"]) -> Embedding:
        w = self.param("W", initializers.normal(self.scale), (self.features,))
        angles = 2 * np.pi * labels[:, None] * lax.stop_gradient(w)
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)


AT_ONCE = 256  # queries of attention in parts


def attention_route(q: Array, device: Any) -> Literal["cudnn", "xla"]:
    """The attention implementation for queries [B, positions, heads, channels] on a device.

    cuDNN's flash attention takes 16-bit numbers, on NVIDIA GPUs since Ampere, with at most 128
    channels per head (Hopper: 256). Unlike XLA's, it has no forward-mode derivative.
    """
    if q.dtype == jnp.float32 or "cuda" not in device.client.platform_version:
        return "xla"
    generation = int(device.compute_capability.split(".")[0])
    positions, channels = q.shape[1], q.shape[3]
    fits = channels % 8 == 0 and channels <= (256 if generation == 9 else 128)
    return "cudnn" if generation >= 8 and positions > 1 and fits else "xla"


def attend(
    q: Array, k: Array, v: Array, mask: Bool[Array, "batch keys"] | None = None
) -> Float[Array, "batch queries heads features"]:
    """Softmax attention; q, k and v are [B, positions, heads, channels].

    Keys whose mask is False are ignored. With a mask, XLA's implementation is used: cuDNN's kernels
    are trainable with an even number of positions only.
    """
    if mask is not None:
        return jax.nn.dot_product_attention(q, k, v, mask=mask[:, None, None], implementation="xla")
    config: Any = jax.config
    route = attention_route(q, config.jax_default_device or jax.local_devices()[0])
    plain = partial(jax.nn.dot_product_attention, implementation=route)
    positions = q.shape[1]
    if route == "cudnn" or positions <= AT_ONCE or positions % AT_ONCE:
        return plain(q, k, v)
    return lax.platform_dependent(q, k, v, tpu=attend_in_parts, default=plain)


def attend_in_parts(q: Array, k: Array, v: Array) -> Float[Array, "batch queries heads features"]:
    """`attend` for AT_ONCE queries of one head after another, also in the derivative.

    All weights of all queries, in float32, would be most of what an ADM reads and writes. Those of
    a part stay in the fast memory of a TPU's core.
    """

    @jax.checkpoint
    def part(q, k, v):
        one_head = (each[:, :, None] for each in (q, k, v))
        return jax.nn.dot_product_attention(*one_head, implementation="xla")[:, :, 0]

    def head(qkv):
        q, k, v = qkv
        parts = q.reshape(len(q), -1, AT_ONCE, q.shape[-1]).swapaxes(0, 1)
        done = lax.map(lambda q: part(q, k, v), parts)
        return done.swapaxes(0, 1).reshape(q.shape)

    heads = tuple(jnp.moveaxis(each, 2, 0) for each in (q, k, v))
    return jnp.moveaxis(lax.map(head, heads), 0, 2)


class Attention(nn.Module):
    """Multi-head attention of an image's positions to each other, or to a context.

    Attributes:
        skip_rescale: divide the sum at the skip connection by sqrt(2).
        init_scale: initial scale of the last layer.
        group_size: minimum channels per group of the group normalisation.
        heads: number of heads, a divisor of the channels.
        qkv_scale: initial scale of the query, key and value layers.
        epsilon: epsilon of the group normalisation.
        groups: number of its groups; 0: by group_size.
    """

    skip_rescale: bool
    init_scale: float
    group_size: int = 4
    heads: int = 1
    qkv_scale: float = 0.1
    epsilon: float = 1e-6
    groups: int = 0

    @nn.compact
    def __call__(
        self,
        x: Image,
        context: Float[Array, "batch tokens width"] | None = None,
        mask: Bool[Array, "batch tokens"] | None = None,
    ) -> Image:
        b, *_, c = x.shape
        y = group_norm(c, self.group_size, self.epsilon, self.groups, name="GroupNorm_0")(x)
        y = y.reshape(b, -1, c)
        context = y if context is None else context
        split = self.heads, c // self.heads
        q, k, v = (
            nin(c, self.qkv_scale, name=f"NIN_{i}")(seen).reshape(*seen.shape[:2], *split)
            for i, seen in enumerate((y, context, context))
        )
        y = attend(q, k, v, mask).reshape(b, -1, c)
        y = nin(c, self.init_scale, name="NIN_3")(y)
        return add_skip(x, y.reshape(x.shape), self.skip_rescale)


class CrossAttention(Attention):
    """Cross-attention to the tokens of a context (Rombach et al. 2022, Section 3.3).

    A class of its own, so that its parameters have their own names.
    """


class Combine(nn.Module):
    """Combines the input pyramid x with the features y, by a sum or by concatenation.

    Attributes:
        method: "sum" or "cat".
    """

    method: str

    @nn.compact
    def __call__(self, x: Image, y: Image) -> Image:
        x = conv1x1(y.shape[-1], name="Conv_0")(x)
        return x + y if self.method == "sum" else jnp.concatenate([x, y], axis=-1)


def convolve_dilated(x: Image, kernel: Array, *_: Any, **__: Any) -> Image:
    """Convolves x, with zeros inserted between its pixels, with a kernel of size 3 and padding 2.

    [B, *sides, C] to [B, *(2 sides + 1), features]. No zero is multiplied: each tap of the kernel
    is one matrix product, and the products are interleaved. XLA's CPU backend takes several times
    as long for the gradient in the kernel of a convolution with dilated input.
    """
    axis = x.ndim - kernel.ndim + 1  # the first side that is still to be convolved
    if axis == x.ndim - 1:
        return x @ kernel
    return _overlap([convolve_dilated(x, tap) for tap in kernel], axis)


def _overlap(taps: Sequence[Array], axis: int) -> Array:
    """Interleaves taps along `axis`: the middle tap at pixels, the others' sum between pixels."""

    def pad(x, *width):
        return jnp.pad(x, [(0, 0)] * axis + [width] + [(0, 0)] * (x.ndim - 1 - axis))

    first, middle, last = taps
    between, pixels = pad(first, 1, 0) + pad(last, 0, 1), pad(middle, 0, 1)
    size = 2 * middle.shape[axis]
    shape = (*middle.shape[:axis], size + 2, *middle.shape[axis + 1 :])
    both = jnp.stack([between, pixels], axis + 1).reshape(shape)
    return lax.slice_in_dim(both, 0, size + 1, axis=axis)


class Upsample(nn.Module):
    """Doubles every side, with a convolution to `features` channels unless None.

    Attributes:
        features: output channels, or None.
        kernel: the resampling filter, in one dimension.
        fir: convolve and filter as StyleGAN2 does; otherwise resample, then convolve.
    """

    features: int | None
    kernel: Sequence[float]
    fir: bool

    @nn.compact
    def __call__(self, x: Image) -> Image:
        if self.features is None:
            return upsample(x, self.kernel)
        if not self.fir:
            return conv3x3(self.features, name="Conv_0")(upsample(x, self.kernel))
        spread = {"use_bias": False, "conv_general_dilated": convolve_dilated}
        x = conv3x3(self.features, name="Conv2d_0", **spread)(x)
        p = len(self.kernel) - 4
        x = 2 ** (x.ndim - 2) * smooth(x, self.kernel, (p + 1) // 2 + 1, p // 2 + 1)
        bias = self.param("bias", initializers.zeros, (self.features,))
        return x + bias.astype(x.dtype)


class Downsample(nn.Module):
    """Halves every side, with a convolution to `features` channels unless None.

    Attributes: as for Upsample.
    """

    features: int | None
    kernel: Sequence[float]
    fir: bool

    @nn.compact
    def __call__(self, x: Image) -> Image:
        if self.features is None:
            return downsample(x, self.kernel)
        if not self.fir:
            return conv3x3(self.features, name="Conv_0", strides=2, padding=((0, 1),))(x)
        x = smooth(x, self.kernel, (len(self.kernel) + 1) // 2, len(self.kernel) // 2)
        return conv3x3(self.features, name="Conv2d_0", strides=2, padding="VALID")(x)


class ResnetBlock(nn.Module):
    """The residual block of DDPM, or of BigGAN (which can also resample).

    Attributes:
        features: output channels.
        act: the activation function.
        kind: "ddpm" or "biggan".
        dropout: dropout probability in training.
        skip_rescale: divide the sum at the skip connection by sqrt(2).
        init_scale: initial scale of the last convolution.
        resample: "biggan": applied to the residual branch after its first activation, and to the
            skip; or None.
        group_size: minimum channels per group of the group normalisation.
        groups: number of its groups; 0: by group_size.
        padding: of the convolutions.
    """

    features: int
    act: Activation
    kind: str
    dropout: float
    skip_rescale: bool
    init_scale: float
    resample: Resample | None = None
    group_size: int = 4
    groups: int = 0
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: Image, temb: Embedding | None, train: bool) -> Image:
        norm = partial(group_norm, group_size=self.group_size, groups=self.groups)
        h = self.act(norm(x.shape[-1], name="GroupNorm_0")(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = conv3x3(self.features, name="Conv_0", padding=self.padding)(h)
        if temb is not None:
            shift = Dense(self.features, kernel_init=init())(self.act(temb))
            h += jnp.expand_dims(shift, side_axes(h))
        h = self.act(norm(self.features, name="GroupNorm_1")(h))
        h = nn.Dropout(self.dropout)(h, deterministic=not train)
        about = {"name": "Conv_1", "padding": self.padding}
        h = conv3x3(self.features, self.init_scale, **about)(h)
        if self.kind == "ddpm" and x.shape[-1] != self.features:
            x = nin(self.features, name="NIN_0")(x)
        elif self.kind == "biggan" and (x.shape[-1] != self.features or self.resample is not None):
            x = conv1x1(self.features, name="Conv_2")(x)
        return add_skip(x, h, self.skip_rescale)
