"""Blocks of the ADM networks (Dhariwal & Nichol 2021), and what U-Net and encoder share."""

from collections.abc import Callable, Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.nn import initializers
from jaxtyping import Array, Float

from models.checked import CheckedNetwork
from models.layers import (
    Attention,
    Dense,
    Embedding,
    Resample,
    convolution_of,
    group_norm,
    with_remat,
)
from models.resample import Image, downsample, side_axes, upsample

EPSILON = 1e-5  # of group normalisation
SCALE = 1 / 3  # variance scaling: initial weights are uniform on +- 1 / sqrt(inputs)
INIT = initializers.variance_scaling(SCALE, "fan_in", "uniform")
ZERO = initializers.zeros
BOX = (1, 1)  # mean pooling, and nearest-neighbour upsampling


class ADMNetwork(CheckedNetwork):
    """Base of ADM's U-Net and of its encoder: the way down and the middle.

    The defaults are those of EDM. guided-diffusion differs in group_size (1) and attn_factors.

    Attributes:
        nf: channels at full resolution.
        ch_mult: channel multiplier of each level; each level halves the resolution of the previous.
        num_res_blocks: residual blocks per level (in a U-Net's decoder one more).
        attn_resolutions: lengths of the first side (image heights) at which attention follows each
            block.
        attn_factors: factors of downsampling at which it does too, whatever the length.
        num_head_channels: minimum channels per attention head; heads = channels // this, 1 or more.
        heads: attention heads; 0: by num_head_channels.
        use_scale_shift_norm: the embedding scales and shifts; if False, it is added.
        resblock_updown: residual blocks resample; if False, layers between the blocks do.
        conv_resample: those layers are convolutions; if False, they only pool or repeat pixels.
        use_new_attention_order: published files hold queries, keys and values of all heads one
            after the other, not those of each head together. Nothing else depends on it.
        group_size: minimum channels per group of the group normalisation.
        in_nf: channels of the first convolution; 0: nf.
        noise_features: features of the noise level's sinusoids; 0: nf.
        embedding_features: features of the label embedding that the blocks see; 0: 4 nf.
        dropout: dropout probability in training.
        centered: data in [-1, 1]; if False, in [0, 1], which the network rescales to [-1, 1].
        remat: recompute each block's activations in the backward pass, to save memory.
        dtype: dtype of the blocks; parameters, statistics, embedding and output stay float32.
    """

    nf: int = 192
    ch_mult: Sequence[int] = (1, 2, 3, 4)
    num_res_blocks: int = 3
    attn_resolutions: Sequence[int] = (32, 16, 8)
    attn_factors: Sequence[int] = ()
    num_head_channels: int = 64
    heads: int = 0
    use_scale_shift_norm: bool = True
    resblock_updown: bool = True
    conv_resample: bool = True
    use_new_attention_order: bool = False
    group_size: int = 4
    in_nf: int = 0
    noise_features: int = 0
    embedding_features: int = 0
    dropout: float = 0.1
    centered: bool = False
    remat: bool = False
    dtype: str = "float32"

    def attends(self, level: int, height: int) -> bool:
        """True if attention follows the blocks of a level, whose first side is of this length."""
        return height in self.attn_resolutions or 2**level in self.attn_factors

    def _sinusoids(self, labels: Float[Array, " batch"]) -> Embedding:
        return sinusoids(labels, self.noise_features or self.nf)

    def _embed_noise(self, embedding: Embedding) -> Embedding:
        """The label embedding from the noise level's sinusoids: two layers."""
        width = self.embedding_features or 4 * self.nf
        temb = dense(width)(embedding)
        return dense(width)(nn.swish(temb))

    def _encode(
        self, x: Image, temb: Embedding, train: bool, attend: Callable[[Image], Image]
    ) -> list[Image]:
        """Outputs of the first convolution and of each block or shrinking on the way down."""
        h = conv(self.in_nf or self.nf)((x if self.centered else 2 * x - 1).astype(self.dtype))
        outputs = [h]
        for level, mult in enumerate(self.ch_mult):
            if level:
                h = self._shrink(h, temb, train)
                outputs.append(h)
            for _ in range(self.num_res_blocks):
                h = self._block(self.nf * mult, h, temb, train)
                h = attend(h) if self.attends(level, h.shape[1]) else h
                outputs.append(h)
        return outputs

    def _middle(
        self, h: Image, temb: Embedding, train: bool, attend: Callable[[Image], Image]
    ) -> Image:
        h = attend(self._block(h.shape[-1], h, temb, train))
        return self._block(h.shape[-1], h, temb, train)

    def _block(
        self,
        features: int,
        h: Image,
        temb: Embedding,
        train: bool,
        resample: Resample | None = None,
    ) -> Image:
        kind = with_remat(ADMBlock, self.remat, static=(3,))
        options = self.dropout, resample, self.use_scale_shift_norm, self.group_size
        return kind(features, *options)(h, temb, train)

    def _shrink(self, h: Image, temb: Embedding, train: bool) -> Image:
        """Halves every side."""
        shrink = partial(downsample, kernel=BOX)
        if self.resblock_updown:
            return self._block(h.shape[-1], h, temb, train, shrink)
        if self.conv_resample:
            return conv(h.shape[-1], strides=2, padding=1)(h)
        return shrink(h)

    def _grow(self, h: Image, temb: Embedding, train: bool) -> Image:
        """Doubles every side."""
        grow = partial(upsample, kernel=BOX)
        if self.resblock_updown:
            return self._block(h.shape[-1], h, temb, train, grow)
        return conv(h.shape[-1])(grow(h)) if self.conv_resample else grow(h)

    def n_heads(self, channels: int, heads: int) -> int:
        """`heads`, or by num_head_channels if that is 0. Raises ValueError if they do not fit."""
        n = heads or max(channels // self.num_head_channels, 1)
        if channels % n:
            change = "heads" if heads else f"num_head_channels = {self.num_head_channels}"
            raise ValueError(
                f"{channels} channels (config.model.nf times ch_mult) cannot be divided into {n} "
                f"attention heads: change nf, ch_mult or {change}"
            )
        return n

    def _attention(self, heads: int, kind: type[Attention] = Attention) -> nn.Module:
        kind = with_remat(kind, self.remat)
        return kind(False, 0.0, self.group_size, heads, SCALE, EPSILON)


class ADMBlock(nn.Module):
    """BigGAN's residual block with adaptive group normalisation (Dhariwal & Nichol 2021).

    Attributes:
        features: output channels.
        dropout: dropout probability in training.
        resample: applied to the skip, and to the branch after its first activation; or None.
        modulates: the embedding scales and shifts; if False, it is added.
        group_size: minimum channels per group of the group normalisation.
    """

    features: int
    dropout: float
    resample: Resample | None = None
    modulates: bool = True
    group_size: int = 4

    @nn.compact
    def __call__(self, x: Image, temb: Embedding, train: bool) -> Image:
        norm = partial(group_norm, group_size=self.group_size, epsilon=EPSILON)
        h = nn.swish(norm(x.shape[-1])(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = conv(self.features)(h)
        if self.modulates:
            modulation = jnp.split(dense(2 * self.features)(temb), 2, -1)
        else:
            shift = dense(self.features)(temb)
            h, modulation = h + jnp.expand_dims(shift, side_axes(h)), ()
        h = nn.swish(norm(self.features)(h, *modulation))
        h = nn.Dropout(self.dropout)(h, deterministic=not train)
        h = conv(self.features, ZERO)(h)
        if x.shape[-1] != self.features:
            x = conv(self.features, size=1)(x)
        return x + h


def sinusoids(labels: Float[Array, " batch"], features: int) -> Embedding:
    """Cosines, then sines of the labels, at geometric frequencies from 1 to almost 1e-4."""
    half = features // 2
    angles = labels[:, None] * np.float32(10_000 ** (-np.arange(half) / half))
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=1)


def dense(features: int, kernel_init: initializers.Initializer = INIT, **options) -> nn.Dense:
    """A linear layer, initialised as ADM's."""
    return Dense(features, kernel_init=kernel_init, **options)


def conv(
    features: int, kernel_init: initializers.Initializer = INIT, size: int = 3, **options
) -> Resample:
    """A convolution with a kernel of this size along every side, initialised as ADM's."""
    return convolution_of(size, features, kernel_init=kernel_init, **options)
