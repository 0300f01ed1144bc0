"""The layers of NCSN++ (Song et al. 2021, Appendix H), named as in the published checkpoints."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.nn import initializers
from jaxtyping import Array, Bool, Float, Int

from models import convolution
from models.normalization import GroupNorm
from models.resample import Image, downsample, smooth, upsample
from sde_lib.checks import check_at_least

Embedding = Float[Array, "batch features"]
ClassLabels = Int[Array, " batch"]
AugmentLabels = Float[Array, "batch augment_dim"]
Confidences = Float[Array, " batch"]
Resample = Callable[[Image], Image]
Activation = Callable[[Array], Array]
Module = TypeVar("Module", bound=nn.Module)

ACTIVATIONS: dict[str, Activation] = {
    "swish": nn.swish,
    "elu": nn.elu,
    "relu": nn.relu,
    "lrelu": partial(nn.leaky_relu, negative_slope=0.2),
}


def init(scale: float = 1.0) -> initializers.Initializer:
    """Uniform, variance-preserving for `scale` = 1; `scale` = 0 starts a layer at almost 0."""
    return initializers.variance_scaling(max(scale, 1e-10), "fan_avg", "uniform")


def in_type_of_first(*values: Any, **_: Any) -> list[Any]:
    """Input, kernel and bias or None in the input's type, for linen's field promote_dtype."""
    return [x if x is None else x.astype(values[0].dtype) for x in values]


# They compute in the type of what they are given; their parameters are float32.
Conv = partial(convolution.Conv, promote_dtype=in_type_of_first)
Dense = partial(nn.Dense, promote_dtype=in_type_of_first)


def conv3x3(features: int, scale: float = 1.0, **options) -> nn.Conv:
    return Conv(features, (3, 3), kernel_init=init(scale), **options)


def conv1x1(features: int, scale: float = 1.0, **options) -> nn.Conv:
    return Conv(features, (1, 1), kernel_init=init(scale), **options)


def nin(features: int, scale: float = 0.1, **options) -> nn.Dense:
    """'Network in network': a linear map of the channels."""
    return Dense(features, kernel_init=init(scale), **options)


def group_norm(channels: int, group_size: int = 4, epsilon: float = 1e-6, **options) -> GroupNorm:
    """Groups of at least `group_size` channels, 32 of them at most."""
    return GroupNorm(min(channels // group_size, 32), epsilon=epsilon, **options)


def add_skip(x: Array, y: Array, rescale: bool) -> Array:
    """x + y, over sqrt(2) when rescaled so that the variance stays."""
    return (x + y) / 2**0.5 if rescale else x + y


def recomputed(block: type[Module], remat: bool, static: tuple[int, ...] = ()) -> type[Module]:
    """The block; with `remat`, the backward pass computes its activations again (Chen et al. 2016).

    Parameters and numbers stay. XLA's CPU compiler computes them again right away, and so keeps
    them: memory is saved on accelerators only.

    Args:
        static: positions of the arguments that are no arrays, where self is 0.
    """
    if not remat:
        return block
    lifted = nn.remat(block, static_argnums=static)
    lifted.__name__ = block.__name__  # from which linen names the parameters
    return lifted


def check_halvings(x: Image, halvings: int) -> None:
    """Raises ValueError unless height and width can be halved that many times."""
    factor = 2**halvings
    if x.shape[1] % factor or x.shape[2] % factor:
        raise ValueError(
            f"images of {x.shape[1]} x {x.shape[2]} pixels cannot be halved {halvings} times, as "
            f"the network does: height and width must be multiples of {factor}"
        )


def level_sigma(
    labels: Float[Array, " batch"], sigma_min: float, sigma_max: float, num_scales: int
) -> Float[Array, " batch"]:
    """Sigmas of noise levels: num_scales geometric ones, 0 the highest; labels may lie between.

    Source: Song & Ermon 2019, Section 4.1.

    Raises:
        ValueError: there are fewer than two levels.
    """
    check_at_least(2, **{"config.model.num_scales": num_scales})
    return sigma_max * (sigma_min / sigma_max) ** (labels / (num_scales - 1))


def conditions(
    network: Any,
    batch: int,
    class_labels: ClassLabels | None,
    augment_labels: AugmentLabels | None,
    confidences: Confidences | None,
) -> tuple[Embedding | None, AugmentLabels | None, Embedding | None]:
    """What a network adds to its embedding: classes one-hot, -1 all zeros; confidences embedded.

    None for those that it does not know, and for no augmentation. Its initialisation takes zeros.
    Confidences in [0, 1] are embedded like times, and 0 without a class (Dufour et al. 2024).

    Args:
        network: has num_classes and augment_dim, 0 for labels that it does not know, and
            label_confidence, whether it knows how sure the classes are.

    Raises:
        ValueError: labels that the network needs or does not know, or of another shape.
    """
    num_classes, augment_dim = network.num_classes, network.augment_dim
    takes_confidences = network.label_confidence and num_classes > 0
    if class_labels is not None and not num_classes:
        raise ValueError(
            "class_labels were given to a network without classes: leave them out, or train one "
            "with config.model.class_conditional=True"
        )
    if augment_labels is not None and not augment_dim:
        raise ValueError(
            "augment_labels were given to a network without them: leave them out (in training, "
            "config.data.augment=0), or train one with config.model.augment_dim"
        )
    if network.is_initializing():
        class_labels = jnp.zeros(batch, int) if num_classes else None
        augment_labels = jnp.zeros((batch, augment_dim)) if augment_dim else None
        confidences = jnp.zeros(batch) if takes_confidences else None
    if class_labels is None and num_classes:
        raise ValueError(
            f"a network with {num_classes} classes was given no class_labels: give it an integer "
            "for each image, -1 for none of them"
        )
    if (confidences is None) == takes_confidences:
        raise ValueError(
            "a network with classes takes confidences in them if it was trained with "
            f"config.model.label_confidence: {takes_confidences} here"
        )
    shapes = ((batch,), (batch, augment_dim), (batch,))
    given = (class_labels, augment_labels, confidences)
    for labels, shape in zip(given, shapes, strict=True):
        if labels is not None and labels.shape != shape:
            raise ValueError(f"labels of shape {labels.shape} were given, not of {shape}")
    classes = None if class_labels is None else nn.one_hot(class_labels, num_classes)
    if class_labels is None or confidences is None:
        return classes, augment_labels, None
    known = jnp.where(class_labels < 0, 0.0, confidences)
    return classes, augment_labels, positional_embedding(999 * known, network.nf)


def with_fourier_features(x: Array, exponents: Sequence[int]) -> Array:
    """x, then sin(2^n pi x) and cos(2^n pi x) for each n, side by side on the last axis."""
    angles = [2.0**n * np.pi * x for n in exponents]
    return jnp.concatenate([x, *map(jnp.sin, angles), *map(jnp.cos, angles)], axis=-1)


def beside(
    network: Any, x: Image, low_res: Image | None, noise: Float[Array, " batch"] | None
) -> tuple[Image, Embedding | None]:
    """x with a smaller image as further channels, and an embedding of that one's noise.

    x and None for a network without low_res. Its initialisation takes zeros.

    Args:
        network: has low_res, whether it makes images larger.
        low_res: the smaller image, of the size of x already.
        noise: its standard deviation, embedded like times.

    Raises:
        ValueError: images that the network needs or does not know, or of another shape.
    """
    if network.low_res and network.is_initializing():
        low_res, noise = jnp.zeros_like(x), jnp.zeros(len(x))
    if [low_res is not None, noise is not None] != [network.low_res] * 2:
        raise ValueError(
            "a network takes low_res and low_res_noise if it was trained with "
            f"config.model.low_res_size: {network.low_res} here"
        )
    if low_res is None or noise is None:
        return x, None
    if low_res.shape != x.shape or noise.shape != x.shape[:1]:
        raise ValueError(
            f"low_res has the shape {low_res.shape}, and low_res_noise {noise.shape}, beside x of "
            f"{x.shape}: give images of its size, and a number for each"
        )
    return jnp.concatenate([x, low_res], axis=-1), positional_embedding(999 * noise, network.nf)


def positional_embedding(labels: Float[Array, " batch"], features: int) -> Embedding:
    """Sines and cosines at frequencies from 1 to 1e-4 (Vaswani et al. 2017; DDPM's spacing)."""
    half = features // 2
    frequencies = jnp.exp(-np.log(10_000) / (half - 1) * jnp.arange(half))
    angles = labels[:, None] * frequencies
    embedding = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)
    return jnp.pad(embedding, ((0, 0), (0, features % 2)))


class FourierEmbedding(nn.Module):
    """Random Fourier features of a scalar, 2 `features` wide (Tancik et al. 2020); not trained."""

    features: int
    scale: float

    @nn.compact
    def __call__(self, labels: Float[Array, " batch"]) -> Embedding:
        w = self.param("W", initializers.normal(self.scale), (self.features,))
        angles = 2 * np.pi * labels[:, None] * lax.stop_gradient(w)
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)


def attention_route(q: Array, device: Any) -> Literal["cudnn", "xla"]:
    """Whose attention jax.nn takes for queries [B, positions, heads, channels] on a device.

    cuDNN's flash attention is of 16-bit numbers, on NVIDIA GPUs since Ampere, with at most 128
    channels a head, 256 on Hopper. It has no forward derivative; XLA's has.
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
    """Attention of queries [B, positions, heads, channels] to the keys whose mask is True.

    A mask takes XLA's, for cuDNN's kernels train with even numbers of positions alone.
    """
    if mask is not None:
        return jax.nn.dot_product_attention(q, k, v, mask=mask[:, None, None], implementation="xla")
    config: Any = jax.config
    route = attention_route(q, config.jax_default_device or jax.local_devices()[0])
    return jax.nn.dot_product_attention(q, k, v, implementation=route)


class Attention(nn.Module):
    """Attention of an image's positions to each other, in heads side by side.

    Attributes:
        group_size: least channels of a normalised group.
        heads: a divisor of the channels.
        qkv_scale: `init` of queries, keys and values.
        epsilon: of the normalisation.
    """

    skip_rescale: bool
    init_scale: float
    group_size: int = 4
    heads: int = 1
    qkv_scale: float = 0.1
    epsilon: float = 1e-6

    @nn.compact
    def __call__(
        self,
        x: Image,
        context: Float[Array, "batch tokens width"] | None = None,
        mask: Bool[Array, "batch tokens"] | None = None,
    ) -> Image:
        b, h, w, c = x.shape
        y = group_norm(c, self.group_size, self.epsilon, name="GroupNorm_0")(x)
        y = y.reshape(b, h * w, c)
        context = y if context is None else context
        split = self.heads, c // self.heads
        q, k, v = (
            nin(c, self.qkv_scale, name=f"NIN_{i}")(seen).reshape(*seen.shape[:2], *split)
            for i, seen in enumerate((y, context, context))
        )
        y = attend(q, k, v, mask).reshape(b, h * w, c)
        y = nin(c, self.init_scale, name="NIN_3")(y)
        return add_skip(x, y.reshape(x.shape), self.skip_rescale)


class CrossAttention(Attention):
    """Attention to the context's tokens whose mask is True (Rombach et al. 2022, Section 3.3)."""


class Combine(nn.Module):
    """Brings the input pyramid x into the features y: by a sum, or side by side."""

    method: str

    @nn.compact
    def __call__(self, x: Image, y: Image) -> Image:
        x = conv1x1(y.shape[-1], name="Conv_0")(x)
        return x + y if self.method == "sum" else jnp.concatenate([x, y], axis=-1)


def convolve_spread(x: Image, kernel: Array, *_: Any, **__: Any) -> Image:
    """x with a zero between pixels, convolved: [B, 2 H + 1, 2 W + 1, features]; a kernel 3 x 3.

    No zero is multiplied: each tap is a matrix product, and these overlap. XLA's CPU backend takes
    several times as long for the kernel's gradient of a convolution with dilated input.
    """
    taps = [[x @ kernel[i, j] for j in range(3)] for i in range(3)]
    return _overlap([_overlap(row, axis=2) for row in taps], axis=1)


def _overlap(taps: Sequence[Array], axis: int) -> Array:
    """Pixels meet the middle tap; between them, that before the first, that behind the last."""

    def pad(x, *width):
        return jnp.pad(x, [(0, 0)] * axis + [width] + [(0, 0)] * (3 - axis))

    first, middle, last = taps
    between, pixels = pad(first, 1, 0) + pad(last, 0, 1), pad(middle, 0, 1)
    size = 2 * middle.shape[axis]
    shape = (*middle.shape[:axis], size + 2, *middle.shape[axis + 1 :])
    both = jnp.stack([between, pixels], axis + 1).reshape(shape)
    return lax.slice_in_dim(both, 0, size + 1, axis=axis)


class Upsample(nn.Module):
    """Doubles the image, with a convolution to `features` channels unless that is None."""

    features: int | None
    kernel: Sequence[float]
    fir: bool

    @nn.compact
    def __call__(self, x: Image) -> Image:
        if self.features is None:
            return upsample(x, self.kernel)
        if not self.fir:
            return conv3x3(self.features, name="Conv_0")(upsample(x, self.kernel))
        spread = {"use_bias": False, "conv_general_dilated": convolve_spread}
        x = conv3x3(self.features, name="Conv2d_0", **spread)(x)
        p = len(self.kernel) - 4
        x = 4 * smooth(x, self.kernel, (p + 1) // 2 + 1, p // 2 + 1)
        bias = self.param("bias", initializers.zeros, (self.features,))
        return x + bias.astype(x.dtype)


class Downsample(nn.Module):
    """Halves the image, with a convolution to `features` channels unless that is None."""

    features: int | None
    kernel: Sequence[float]
    fir: bool

    @nn.compact
    def __call__(self, x: Image) -> Image:
        if self.features is None:
            return downsample(x, self.kernel)
        if not self.fir:
            pad = ((0, 1), (0, 1))
            return conv3x3(self.features, name="Conv_0", strides=2, padding=pad)(x)
        x = smooth(x, self.kernel, (len(self.kernel) + 1) // 2, len(self.kernel) // 2)
        return conv3x3(self.features, name="Conv2d_0", strides=2, padding="VALID")(x)


class ResnetBlock(nn.Module):
    """The residual block of DDPM, or of BigGAN (which can resample on its way).

    Attributes:
        kind: "ddpm" or "biggan"; the former never resamples.
        resample: applied to both branches after the first activation, or None.
        group_size: least channels of a normalised group.
    """

    features: int
    act: Activation
    kind: str
    dropout: float
    skip_rescale: bool
    init_scale: float
    resample: Resample | None = None
    group_size: int = 4

    @nn.compact
    def __call__(self, x: Image, temb: Embedding | None, train: bool) -> Image:
        h = self.act(group_norm(x.shape[-1], self.group_size, name="GroupNorm_0")(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = conv3x3(self.features, name="Conv_0")(h)
        if temb is not None:
            h += Dense(self.features, kernel_init=init())(self.act(temb))[:, None, None]
        h = self.act(group_norm(self.features, self.group_size, name="GroupNorm_1")(h))
        h = nn.Dropout(self.dropout)(h, deterministic=not train)
        h = conv3x3(self.features, self.init_scale, name="Conv_1")(h)
        if self.kind == "ddpm" and x.shape[-1] != self.features:
            x = nin(self.features, name="NIN_0")(x)
        elif self.kind == "biggan" and (x.shape[-1] != self.features or self.resample is not None):
            x = conv1x1(self.features, name="Conv_2")(x)
        return add_skip(x, h, self.skip_rescale)
