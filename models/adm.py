"""The ADM U-Net (Dhariwal & Nichol 2021), as configured in EDM (Karras et al. 2022, Appendix F)."""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.nn import initializers
from jaxtyping import Array, Float

from models.checked import CheckedNetwork
from models.layers import (
    Attention,
    AugmentLabels,
    ClassLabels,
    Confidences,
    Conv,
    CrossAttention,
    Dense,
    Embedding,
    Resample,
    check_halvings,
    concatenate_low_res,
    encode_labels,
    group_norm,
    with_remat,
)
from models.resample import Image, downsample, upsample
from models.text import Caption, Text, embed_text

EPSILON = 1e-5  # of group normalisation
SCALE = 1 / 3  # variance scaling: initial weights are uniform on +- 1 / sqrt(inputs)
INIT = initializers.variance_scaling(SCALE, "fan_in", "uniform")
ZERO = initializers.zeros


class ADM(CheckedNetwork):
    """A U-Net in which the noise level and the conditioning scale and shift every block.

    Biases start at 0. (EDM initialises them like the weights.)

    Attributes:
        nf: channels at full resolution.
        ch_mult: channel multiplier of each level; each level halves the resolution of the previous.
        num_res_blocks: residual blocks per level (one more in the decoder).
        attn_resolutions: image heights at which attention follows each block.
        num_head_channels: minimum channels per attention head; heads = channels // this, 1 or more.
        dropout: dropout probability in training.
        embedding_features: features of the label embedding that the blocks see; 0: 4 nf.
        num_classes: number of classes for class conditioning; 0: unconditional.
        augment_dim: number of augmentation labels (EDM: 9); 0: none.
        label_confidence: condition on the confidence of each class label.
        text: kind of caption, "bytes" or "embeddings" (models.text); "": no captions.
        text_length: maximum length of a caption, in bytes.
        text_width: features per token.
        text_depth: blocks of the transformer that encodes bytes.
        low_res: condition on a low-resolution image and its noise level (super-resolution).
        centered: data in [-1, 1]; if False, in [0, 1], which the network rescales to [-1, 1].
        learned_variance: twice the output channels; the second half is v (ScoreAndVariance).
        remat: recompute each block's activations in the backward pass, to save memory.
        dtype: dtype of the blocks; parameters, statistics, embedding and output stay float32.
    """

    nf: int = 192
    ch_mult: Sequence[int] = (1, 2, 3, 4)
    num_res_blocks: int = 3
    attn_resolutions: Sequence[int] = (32, 16, 8)
    num_head_channels: int = 64
    dropout: float = 0.1
    embedding_features: int = 0
    num_classes: int = 0
    augment_dim: int = 0
    label_confidence: bool = False
    text: str = ""
    text_length: int = 64
    text_width: int = 128
    text_depth: int = 2
    low_res: bool = False
    centered: bool = False
    learned_variance: bool = False
    remat: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        x: Image,
        labels: Float[Array, " batch"],
        train: bool = False,
        class_labels: ClassLabels | None = None,
        augment_labels: AugmentLabels | None = None,
        confidences: Confidences | None = None,
        text: Text | None = None,
        low_res: Image | None = None,
        low_res_noise: Float[Array, " batch"] | None = None,
        features: bool = False,
    ) -> Image | tuple[Image, Embedding]:
        """The network output, of the shape of x, given the noise labels of the parametrization.

        With `features=True`: the features between encoder and decoder, and the label embedding.

        Raises:
            ValueError: height or width is not divisible by 2^(levels - 1); the heads do not divide
                the channels; a condition is missing, unknown or misshapen (layers.encode_labels,
                layers.concatenate_low_res, text.embed_text).
        """
        levels, channels = len(self.ch_mult), x.shape[-1]
        check_halvings(x, levels - 1)
        caption = embed_text(self, len(x), text)
        x, noise = concatenate_low_res(self, x, low_res, low_res_noise)
        conditions = class_labels, augment_labels, confidences
        temb = self._embedding(labels, caption, noise, *conditions)
        attend = partial(self._attend, caption)
        block = partial(with_remat(ADMBlock, self.remat, static=(3,)), dropout=self.dropout)
        shrink, grow = (partial(resample, kernel=(1, 1)) for resample in (downsample, upsample))

        h = _conv(self.nf)((x if self.centered else 2 * x - 1).astype(self.dtype))
        skips = [h]
        for level, mult in enumerate(self.ch_mult):
            if level:
                h = block(h.shape[-1], resample=shrink)(h, temb, train)
                skips.append(h)
            for _ in range(self.num_res_blocks):
                h = attend(block(self.nf * mult)(h, temb, train))
                skips.append(h)

        h = attend(block(h.shape[-1])(h, temb, train), always=True)
        h = block(h.shape[-1])(h, temb, train)
        if features:
            return h, temb

        for level, mult in reversed(list(enumerate(self.ch_mult))):
            if level < levels - 1:
                h = block(h.shape[-1], resample=grow)(h, temb, train)
            for _ in range(self.num_res_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], -1)
                h = attend(block(self.nf * mult)(h, temb, train))

        h = nn.swish(group_norm(h.shape[-1], epsilon=EPSILON)(h))
        channels *= 1 + self.learned_variance
        return _conv(channels, ZERO)(h).astype(jnp.float32)

    def _embedding(
        self, labels, caption: Caption | None, noise: Embedding | None, *conditions
    ) -> Embedding:
        classes, augments, confidence = encode_labels(self, len(labels), *conditions)
        temb = _positional_embedding(labels, self.nf)
        if augments is not None:
            temb += _dense(self.nf, ZERO, use_bias=False, name="augment_embedding")(augments)
        width = self.embedding_features or 4 * self.nf
        temb = _dense(width)(temb)
        temb = _dense(width)(nn.swish(temb))
        if classes is not None:
            normal = initializers.normal(1.0)
            temb += _dense(width, normal, use_bias=False, name="class_embedding")(classes)
        if confidence is not None:
            temb += _dense(width, use_bias=False, name="confidence_embedding")(confidence)
        if caption is not None:
            temb += _dense(width, use_bias=False, name="text_embedding")(caption.pooled)
        if noise is not None:
            temb += _dense(width, use_bias=False, name="low_res_embedding")(noise)
        return nn.swish(temb).astype(self.dtype)

    def _attend(self, caption: Caption | None, h: Image, always: bool = False) -> Image:
        if not always and h.shape[1] not in self.attn_resolutions:
            return h
        heads = max(h.shape[-1] // self.num_head_channels, 1)
        if h.shape[-1] % heads:
            raise ValueError(
                f"{h.shape[-1]} channels (config.model.nf times ch_mult) cannot be divided into "
                f"{heads} attention heads: change nf, ch_mult or num_head_channels = "
                f"{self.num_head_channels}"
            )
        attention, cross_attention = (
            partial(with_remat(kind, self.remat), False, 0.0, heads=heads, qkv_scale=SCALE)
            for kind in (Attention, CrossAttention)
        )
        h = attention(epsilon=EPSILON)(h)
        if caption is None:
            return h
        return cross_attention(epsilon=EPSILON)(h, caption.tokens, caption.mask)


class ADMBlock(nn.Module):
    """BigGAN's residual block with adaptive group normalisation (Dhariwal & Nichol 2021).

    Attributes:
        features: output channels.
        dropout: dropout probability in training.
        resample: applied to the skip, and to the branch after its first activation; or None.
    """

    features: int
    dropout: float
    resample: Resample | None = None

    @nn.compact
    def __call__(self, x: Image, temb: Embedding, train: bool) -> Image:
        h = nn.swish(group_norm(x.shape[-1], epsilon=EPSILON)(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = _conv(self.features)(h)
        modulation = jnp.split(_dense(2 * self.features)(temb), 2, -1)
        h = nn.swish(group_norm(self.features, epsilon=EPSILON)(h, *modulation))
        h = nn.Dropout(self.dropout)(h, deterministic=not train)
        h = _conv(self.features, ZERO)(h)
        if x.shape[-1] != self.features:
            x = _conv(self.features, size=1)(x)
        return x + h


def _positional_embedding(labels: Float[Array, " batch"], features: int) -> Embedding:
    """Cosines, then sines of the labels, at geometric frequencies from 1 to almost 1e-4."""
    half = features // 2
    angles = labels[:, None] * np.float32(10_000 ** (-np.arange(half) / half))
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=1)


def _dense(features: int, kernel_init: initializers.Initializer = INIT, **options) -> nn.Dense:
    return Dense(features, kernel_init=kernel_init, **options)


def _conv(features: int, kernel_init: initializers.Initializer = INIT, size: int = 3) -> nn.Conv:
    return Conv(features, (size, size), kernel_init=kernel_init)
