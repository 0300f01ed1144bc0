"""ADM (Dhariwal and Nichol 2021), as trained by EDM (Karras et al. 2022, Appendix F)."""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.nn import initializers
from jaxtyping import Array, Float

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
    beside,
    check_halvings,
    conditions,
    group_norm,
    recomputed,
)
from models.resample import Image, downsample, upsample
from models.text import Caption, Text, read

EPSILON = 1e-5  # of the normalisations
SCALE = 1 / 3  # of the weights' variance: they start uniform on +- 1 / sqrt(inputs)
INIT = initializers.variance_scaling(SCALE, "fan_in", "uniform")
ZERO = initializers.zeros


class ADM(nn.Module):
    """A U-Net whose blocks the noise level and the class scale and shift.

    Biases start at 0; EDM draws them like the weights.

    Attributes:
        nf: channels at full resolution.
        ch_mult: their multiple at each level; each level has half the resolution of the one before.
        num_res_blocks: residual blocks a level (one more on the way up).
        attn_resolutions: heights at which the blocks are followed by attention.
        num_head_channels: channels of each attention head, or more where they leave a remainder.
        dropout: probability, in training.
        num_classes: that the network tells apart, 0 for none.
        augment_dim: augmentation labels that it sees, 0 for none.
        label_confidence: whether it sees how sure the classes are.
        text: "bytes" or "embeddings" that it reads (models.text), "" for none.
        text_length: of a caption at most, in bytes.
        text_width: features of a token.
        text_depth: blocks of the transformer that reads bytes.
        low_res: whether it sees a smaller image, and how noisy that is (layers.beside).
        centered: data in [-1, 1]; otherwise [0, 1], which the network maps there.
        learned_variance: the output has as many channels more, for v (ScoreAndVariance).
        remat: compute each block's activations again in the backward pass, to save memory.
        dtype: of the blocks; parameters, statistics, the embedding and the output are float32.
    """

    nf: int = 192
    ch_mult: Sequence[int] = (1, 2, 3, 4)
    num_res_blocks: int = 3
    attn_resolutions: Sequence[int] = (32, 16, 8)
    num_head_channels: int = 64
    dropout: float = 0.1
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
        """The output, of the shape of x; labels are what the parametrization conditions on.

        With `features`, those between the way down and the way up, and the labels' embedding.

        Raises:
            ValueError: height or width is not divisible by 2^(levels - 1), channels do not fit the
                heads, or conditions are not those that the network knows (layers.conditions,
                layers.beside, text.read).
        """
        levels, channels = len(self.ch_mult), x.shape[-1]
        check_halvings(x, levels - 1)
        caption = read(self, len(x), text)
        x, noise = beside(self, x, low_res, low_res_noise)
        given = class_labels, augment_labels, confidences
        temb = self._embedding(labels, caption, noise, *given)
        attend = partial(self._attend, caption)
        block = partial(recomputed(ADMBlock, self.remat, static=(3,)), dropout=self.dropout)
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
        self, labels, caption: Caption | None, noise: Embedding | None, *given
    ) -> Embedding:
        classes, augments, trust = conditions(self, len(labels), *given)
        temb = _positional_embedding(labels, self.nf)
        if augments is not None:
            temb += _dense(self.nf, ZERO, use_bias=False, name="augment_embedding")(augments)
        temb = _dense(4 * self.nf)(temb)
        temb = _dense(4 * self.nf)(nn.swish(temb))
        if classes is not None:
            normal = initializers.normal(1.0)
            temb += _dense(4 * self.nf, normal, use_bias=False, name="class_embedding")(classes)
        if trust is not None:
            temb += _dense(4 * self.nf, use_bias=False, name="confidence_embedding")(trust)
        if caption is not None:
            temb += _dense(4 * self.nf, use_bias=False, name="text_embedding")(caption.pooled)
        if noise is not None:
            temb += _dense(4 * self.nf, use_bias=False, name="low_res_embedding")(noise)
        return nn.swish(temb).astype(self.dtype)

    def _attend(self, caption: Caption | None, h: Image, always: bool = False) -> Image:
        if not always and h.shape[1] not in self.attn_resolutions:
            return h
        heads = max(h.shape[-1] // self.num_head_channels, 1)
        if h.shape[-1] % heads:
            raise ValueError(
                f"{h.shape[-1]} channels, config.model.nf times ch_mult, do not fit {heads} heads "
                f"of num_head_channels = {self.num_head_channels}: change one of them"
            )
        attention, cross_attention = (
            partial(recomputed(kind, self.remat), False, 0.0, heads=heads, qkv_scale=SCALE)
            for kind in (Attention, CrossAttention)
        )
        h = attention(epsilon=EPSILON)(h)
        if caption is None:
            return h
        return cross_attention(epsilon=EPSILON)(h, caption.tokens, caption.mask)


class ADMBlock(nn.Module):
    """A residual block of BigGAN, with adaptive group normalisation.

    Attributes:
        resample: applied to both branches after the first activation, or None.
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
    """Cosines and sines at frequencies from 1 to almost 1e-4."""
    half = features // 2
    angles = labels[:, None] * np.float32(10_000 ** (-np.arange(half) / half))
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=1)


def _dense(features: int, kernel_init: initializers.Initializer = INIT, **options) -> nn.Dense:
    return Dense(features, kernel_init=kernel_init, **options)


def _conv(features: int, kernel_init: initializers.Initializer = INIT, size: int = 3) -> nn.Conv:
    return Conv(features, (size, size), kernel_init=kernel_init)
