"""EDM2's magnitude-preserving U-Net (Karras et al. 2024, arXiv 2312.02696, configuration G).

Every layer keeps the expected magnitude of its input: activations, weights and updates have a root
mean square of about 1 throughout. There are no biases and no group normalisation. Equation numbers
are those of the paper.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.nn import initializers
from jaxtyping import Array, Float

from models.checked import CheckedNetwork
from models.conditions import ClassLabels, encode_labels
from models.convolution import convolve
from models.layers import (
    Embedding,
    Resample,
    attend,
    check_halvings,
    with_remat,
)
from models.resample import Image, downsample, side_axes, upsample

EPSILON = 1e-4


def _rms(x: Array, axes: int | tuple[int, ...]) -> Array:
    """The root mean square in float32, whose gradient is 0 where it is 0."""
    mean_square = jnp.mean(jnp.square(x.astype(jnp.float32)), axes, keepdims=True)
    return jnp.sqrt(jnp.maximum(mean_square, 1e-30))


# Equation 30
def pixel_norm(x: Array, axis: int = -1) -> Array:
    """x divided by its root mean square over the channels."""
    return x / (EPSILON + _rms(x, axis)).astype(x.dtype)


# Equation 47
def normalized_weight(kernel: Array) -> Array:
    """The kernel [..., inputs, outputs], in which the weights of each output have the norm 1."""
    inputs = tuple(range(kernel.ndim - 1))
    n = np.prod(kernel.shape[:-1])
    return kernel / (EPSILON + _rms(kernel, inputs)) / np.sqrt(n).astype(np.float32)


# Equation 66
def force_normalization(params: Any) -> Any:
    """The parameters with every weight's root mean square over its inputs at 1.

    The output of a network does not depend on these magnitudes, but the effect of an update does:
    weights that grow learn ever more slowly, each at a rate of its own.
    """

    def normalize(path: Any, leaf: Array) -> Array:
        if path[-1].key != "kernel":
            return leaf
        return leaf / (EPSILON + _rms(leaf, tuple(range(leaf.ndim - 1))))

    return jax.tree_util.tree_map_with_path(normalize, params)


# Equation 81
def mp_silu(x: Array) -> Array:
    """SiLU, which would shrink standard normal numbers to 0.596."""
    return nn.silu(x) / 0.596


# Equation 88
def mp_sum(a: Array, b: Array, t: float) -> Array:
    """The mixture of a and b, with the share t of b."""
    return ((1 - t) * a + t * b) / ((1 - t) ** 2 + t**2) ** 0.5


# Equation 103
def mp_concatenate(a: Array, b: Array, t: float) -> Array:
    """The channels of a and b, in which b contributes the share t whatever their numbers."""
    n_a, n_b = a.shape[-1], b.shape[-1]
    total = ((n_a + n_b) / ((1 - t) ** 2 + t**2)) ** 0.5
    return jnp.concatenate([total * (1 - t) / n_a**0.5 * a, total * t / n_b**0.5 * b], -1)


class MPFourier(nn.Module):
    """Random Fourier features [B, features] of labels [B] (Equation 75). They are not trained."""

    features: int

    @nn.compact
    def __call__(self, labels: Float[Array, " batch"]) -> Embedding:
        shape = (self.features,)
        freqs = self.param("freqs", initializers.normal(2 * np.pi), shape)
        phases = self.param("phases", initializers.uniform(2 * np.pi), shape)
        angles = labels[:, None] * lax.stop_gradient(freqs) + lax.stop_gradient(phases)
        return 2**0.5 * jnp.cos(angles)


class MPConv(nn.Module):
    """A convolution or a dense layer, whose weights are normalised when they are used.

    Attributes:
        features: output channels.
        size: every side of the kernel [*sides, in, out]; 0: a dense layer [in, out].
    """

    features: int
    size: int = 0

    @nn.compact
    def __call__(self, x: Array, gain: Array | float = 1.0) -> Array:
        ones = (1,) * (x.ndim - 2 if self.size else 0)
        shape = (*(self.size * one for one in ones), x.shape[-1], self.features)
        kernel = self.param("kernel", initializers.normal(1.0), shape)
        weight = (gain * normalized_weight(kernel)).astype(x.dtype)
        if self.size < 2:
            return x @ weight.reshape(weight.shape[-2:])
        options = {"lhs_dilation": ones, "rhs_dilation": ones, "feature_group_count": 1}
        return convolve(x, weight, ones, "SAME", precision=None, **options)


class Block(nn.Module):
    """A residual block of the encoder or of the decoder, with attention if it has heads.

    Attributes:
        features: output channels.
        decoder: a block of the decoder, which does not normalise its input.
        resample: applied to the input; None: nothing.
        heads: attention heads; 0: no attention.
        dropout: dropout probability in training.
        res_balance, attn_balance: share of the residual branch and of the attention.
        clip_act: the most that an activation may be.
    """

    features: int
    decoder: bool = False
    resample: Resample | None = None
    heads: int = 0
    dropout: float = 0.0
    res_balance: float = 0.3
    attn_balance: float = 0.3
    clip_act: float = 256.0

    @nn.compact
    def __call__(self, x: Image, emb: Embedding, train: bool) -> Image:
        def fit(x):
            if x.shape[-1] == self.features:
                return x
            return MPConv(self.features, 1, name="conv_skip")(x)

        if self.resample is not None:
            x = self.resample(x)
        if not self.decoder:
            x = pixel_norm(fit(x))

        gain = self.param("emb_gain", initializers.zeros, ())
        scale = 1 + MPConv(self.features, name="emb_linear")(emb, gain)
        y = MPConv(self.features, 3, name="conv_res0")(mp_silu(x))
        y = mp_silu(y * jnp.expand_dims(scale, side_axes(y)))
        y = nn.Dropout(self.dropout)(y, deterministic=not train)
        y = MPConv(self.features, 3, name="conv_res1")(y)
        x = mp_sum(fit(x) if self.decoder else x, y, self.res_balance)
        if self.heads:
            x = mp_sum(x, self._attend(x), self.attn_balance)
        return jnp.clip(x, -self.clip_act, self.clip_act)

    def _attend(self, x: Image) -> Image:
        """Attention with queries, keys and values of a root mean square of 1 (cosine attention)."""
        b, *_, c = x.shape
        qkv = MPConv(3 * c, 1, name="attn_qkv")(x)
        qkv = pixel_norm(qkv.reshape(b, -1, self.heads, c // self.heads, 3), axis=-2)
        y = attend(*jnp.moveaxis(qkv, -1, 0))
        return MPConv(c, 1, name="attn_proj")(y.reshape(x.shape))


# Equation 15
def log_variance(features: int, labels: Float[Array, " batch"]) -> Float[Array, " batch"]:
    """Inside a module: u, the logarithm of the loss's variance at the noise labels."""
    embedding = MPFourier(features, name="logvar_fourier")(labels)
    return MPConv(1, name="logvar_linear")(embedding)[:, 0]


class EDM2(CheckedNetwork):
    """The U-Net of EDM2, for the parametrization "edm". Its output is zero at initialisation.

    The published models of ImageNet at 512 x 512 pixels see latents [64, 64, 4] of Stable
    Diffusion's autoencoder, standardised: (latent - mean) / deviation / 2 by channel, with means
    5.81, 3.25, 0.12, -2.15 and deviations 4.17, 4.62, 3.71, 3.28, for latents of images that lie
    in [0, 1]. Those of 64 x 64 pixels see images in [-1, 1].

    Attributes:
        nf: channels at full resolution.
        ch_mult: channel multiplier of each level; each level halves the resolution of the previous.
        num_res_blocks: residual blocks per level (one more in the decoder).
        attn_resolutions: image heights at which attention follows each block.
        num_head_channels: minimum channels per attention head; heads = channels // this, 1 or more.
        dropout: dropout probability in training.
        noise_features: Fourier features of the noise labels; 0: as many as channels of level 0.
        embedding_features: features of the label embedding; 0: as many as the most channels.
        logvar_channels: Fourier features for the uncertainty u of the loss (Equations 14 to 16), a
            second output; 0: none.
        num_classes: number of classes for class conditioning; 0: unconditional.
        label_balance: share of the class in the label embedding.
        concat_balance: share of the skip connections in the decoder's inputs.
        res_balance: share of the residual branch of a block.
        attn_balance: share of the attention in its sum with the features.
        clip_act: the most that an activation may be.
        fir_kernel: the resampling filter, in one dimension.
        remat: recompute each block's activations in the backward pass, to save memory.
        dtype: dtype of the blocks; parameters, statistics, embedding and output stay float32.
    """

    nf: int = 192
    ch_mult: Sequence[int] = (1, 2, 3, 4)
    num_res_blocks: int = 3
    attn_resolutions: Sequence[int] = (16, 8)
    num_head_channels: int = 64
    dropout: float = 0.0
    noise_features: int = 0
    embedding_features: int = 0
    logvar_channels: int = 0
    num_classes: int = 0
    label_balance: float = 0.5
    concat_balance: float = 0.5
    res_balance: float = 0.3
    attn_balance: float = 0.3
    clip_act: float = 256.0
    fir_kernel: Sequence[float] = (1, 1)
    remat: bool = False
    dtype: str = "float32"

    project = staticmethod(force_normalization)
    """Training puts the parameters there after each step."""

    @nn.compact
    def __call__(
        self,
        x: Image,
        labels: Float[Array, " batch"],
        train: bool = False,
        class_labels: ClassLabels | None = None,
        uncertainty: bool = False,
    ) -> Image | tuple[Image, Float[Array, " batch"]]:
        """The network output, of the shape of x, given the noise labels of the parametrization.

        With `uncertainty=True`: the output, and u [B], the logarithm of the loss's variance.

        Raises:
            ValueError: a side is not divisible by 2^(levels - 1); the heads do not divide the
                channels; class labels are missing, unknown or misshapen; uncertainty of a
                network without logvar_channels.
        """
        levels, widths = len(self.ch_mult), [self.nf * mult for mult in self.ch_mult]
        check_halvings(x, levels - 1)
        channels = x.shape[-1]
        emb = self._embedding(labels, class_labels)
        u = self._uncertainty(labels, uncertainty)
        shrink, grow = (
            partial(resample, kernel=self.fir_kernel) for resample in (downsample, upsample)
        )
        make = partial(
            with_remat(Block, self.remat, static=(3,)),
            dropout=self.dropout,
            res_balance=self.res_balance,
            attn_balance=self.attn_balance,
            clip_act=self.clip_act,
        )

        def block(x, features, attention=False, **options):
            heads = self._heads(features) if attention else 0
            return make(features, heads=heads, **options)(x, emb, train)

        ones = jnp.ones_like(x[..., :1])  # in place of a bias
        x = jnp.concatenate([x, ones], -1).astype(self.dtype)
        x = MPConv(widths[0], 3, name="conv_in")(x)
        skips = [x]
        for level, width in enumerate(widths):
            if level:
                x = block(x, x.shape[-1], resample=shrink)
                skips.append(x)
            for _ in range(self.num_res_blocks):
                x = block(x, width, x.shape[1] in self.attn_resolutions)
                skips.append(x)

        x = block(x, x.shape[-1], attention=True, decoder=True)
        x = block(x, x.shape[-1], decoder=True)
        for level, width in reversed(list(enumerate(widths))):
            if level < levels - 1:
                x = block(x, x.shape[-1], decoder=True, resample=grow)
            for _ in range(self.num_res_blocks + 1):
                x = mp_concatenate(x, skips.pop(), self.concat_balance)
                x = block(x, width, x.shape[1] in self.attn_resolutions, decoder=True)

        gain = self.param("out_gain", initializers.zeros, ())
        x = MPConv(channels, 3, name="conv_out")(x, gain).astype(jnp.float32)
        return x if u is None or not uncertainty else (x, u)

    def _embedding(self, labels, class_labels) -> Embedding:
        classes, _, _ = encode_labels(self, len(labels), class_labels, None, None)
        width = self.embedding_features or self.nf * max(self.ch_mult)
        noise_features = self.noise_features or self.nf * self.ch_mult[0]
        emb = MPConv(width, name="emb_noise")(MPFourier(noise_features, name="emb_fourier")(labels))
        if classes is not None:
            given = MPConv(width, name="emb_label")(classes * self.num_classes**0.5)
            emb = mp_sum(emb, given, self.label_balance)
        return mp_silu(emb).astype(self.dtype)

    def _uncertainty(self, labels, wanted: bool) -> Float[Array, " batch"] | None:
        if self.logvar_channels:
            return log_variance(self.logvar_channels, labels)
        if wanted:
            raise ValueError(
                "uncertainty was asked of a network without it: set config.model.logvar_channels, "
                "such as to 128, and train or import it"
            )
        return None

    def _heads(self, channels: int) -> int:
        heads = max(channels // self.num_head_channels, 1)
        if channels % heads:
            raise ValueError(
                f"{channels} channels (config.model.nf times ch_mult) cannot be divided into "
                f"{heads} attention heads: change nf, ch_mult or num_head_channels = "
                f"{self.num_head_channels}"
            )
        return heads
