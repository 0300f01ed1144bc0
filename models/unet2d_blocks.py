"""The blocks of diffusers' U-Net: levels of the encoder and the decoder, and their layers."""

from collections.abc import Callable, Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from models.layers import (
    Activation,
    Dense,
    Embedding,
    Resample,
    attend,
    conv1x1,
    conv3x3,
    init,
    nin,
    positional_embedding,
)
from models.normalization import GroupNorm
from models.resample import Image, downsample, upsample

DOWN_TYPES = (
    *("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"),
    *("SkipDownBlock2D", "AttnSkipDownBlock2D"),
)
UP_TYPES = (
    *("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    *("SkipUpBlock2D", "AttnSkipUpBlock2D"),
)
FIR, BOX = (1, 3, 3, 1), (1, 1)
"""Filters of resampling."""
SQRT2 = float(np.sqrt(2))
MOST_GROUPS = 32


class TimestepEmbedding(nn.Module):
    """Two linear layers on the features of a label, with SiLU between them.

    Attributes:
        features: output features.
    """

    features: int

    @nn.compact
    def __call__(self, x: Embedding) -> Embedding:
        x = nn.swish(Dense(self.features, kernel_init=init(), name="linear_1")(x))
        return Dense(self.features, kernel_init=init(), name="linear_2")(x)


class ResidualBlock(nn.Module):
    """A residual block with the noise level's embedding.

    Attributes:
        features: output channels.
        groups: groups of the first normalisation.
        groups_out: groups of the second.
        act: the activation function.
        epsilon: epsilon of the normalisations.
        dropout: dropout probability in training.
        scale_shift: the embedding scales and shifts the features after the second normalisation;
            otherwise it is added to them before.
        scale: divisor of the sum.
        resample: applied to the skip, and to the branch after its first activation; or None.
        shortcut: a 1 x 1 convolution of the skip even if the channels stay the same.
    """

    features: int
    groups: int
    groups_out: int
    act: Activation
    epsilon: float
    dropout: float
    scale_shift: bool
    scale: float = 1.0
    resample: Resample | None = None
    shortcut: bool = False

    @nn.compact
    def __call__(self, x: Image, temb: Embedding, train: bool) -> Image:
        h = self.act(GroupNorm(self.groups, self.epsilon, name="norm1")(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = conv3x3(self.features, name="conv1")(h)
        width = self.features * (1 + self.scale_shift)
        temb = Dense(width, kernel_init=init(), name="time_emb_proj")(self.act(temb))
        modulation = jnp.split(temb, 2, axis=-1) if self.scale_shift else ()
        h = h if self.scale_shift else h + jnp.expand_dims(temb, range(1, h.ndim - 1))
        h = self.act(GroupNorm(self.groups_out, self.epsilon, name="norm2")(h, *modulation))
        h = nn.Dropout(self.dropout)(h, deterministic=not train)
        h = conv3x3(self.features, 0.0, name="conv2")(h)
        if self.shortcut or x.shape[-1] != self.features:
            x = conv1x1(self.features, name="conv_shortcut")(x)
        return (x + h) / self.scale


class SelfAttention(nn.Module):
    """Multi-head attention of an image's positions to each other.

    Attributes:
        groups: groups of the normalisation; 0: none.
        head_channels: channels per head; 0: one head.
        epsilon: epsilon of the normalisation.
        scale: divisor of the sum.
    """

    groups: int
    head_channels: int
    epsilon: float
    scale: float = 1.0

    @nn.compact
    def __call__(self, x: Image) -> Image:
        b, *_, c = x.shape
        channels = self.head_channels or c
        if channels > c:
            raise ValueError(
                f"config.model.attention_head_dim is {channels}, but a block has {c} channels: "
                "take fewer channels a head, or 0 for one head"
            )
        y = GroupNorm(self.groups, self.epsilon, name="group_norm")(x) if self.groups else x
        y, heads = y.reshape(b, -1, c), c // channels
        q, k, v = (
            nin(heads * channels, name=name)(y).reshape(b, -1, heads, channels)
            for name in ("to_q", "to_k", "to_v")
        )
        y = attend(q, k, v).reshape(b, -1, heads * channels)
        return (x + nin(c, 0.0, name="to_out_0")(y).reshape(x.shape)) / self.scale


class Resampling(nn.Module):
    """A convolution before which, or in which, the resolution changes.

    Attributes:
        features: output channels.
        padding: of a convolution that halves the resolution: 0 pads a row and a column at the
            bottom and right, 1 on all sides. None doubles the resolution.
    """

    features: int
    padding: int | None

    @nn.compact
    def __call__(self, x: Image) -> Image:
        if self.padding is None:
            return conv3x3(self.features, name="conv")(upsample(x, BOX))
        return conv3x3(self.features, strides=2, padding=((self.padding, 1),), name="conv")(x)


class MidBlock(nn.Module):
    """A residual block, attention and a residual block.

    Attributes:
        resnet: makes a ResidualBlock of (features, groups, groups_out).
        attention: makes a SelfAttention of (groups); None: no attention.
        groups: groups of the residual blocks' normalisations.
        attention_groups: groups of the attention's; 0: no normalisation.
        scale: divisor of the sums.
    """

    resnet: Callable[..., ResidualBlock]
    attention: Callable[..., SelfAttention] | None
    groups: int
    attention_groups: int
    scale: float

    @nn.compact
    def __call__(self, h: Image, temb: Embedding, train: bool) -> Image:
        block = partial(self.resnet, h.shape[-1], self.groups, self.groups, scale=self.scale)
        h = block(name="resnets_0")(h, temb, train)
        if self.attention is not None:
            attention = self.attention(self.attention_groups, scale=self.scale, name="attentions_0")
            h = attention(h)
        return block(name="resnets_1")(h, temb, train)


class Level(nn.Module):
    """The base of a level of the encoder or the decoder.

    Attributes:
        kind: a name in DOWN_TYPES or UP_TYPES.
        features: output channels.
        last: the last level, which changes no resolution.
        layers: number of residual blocks.
        resnet: makes a ResidualBlock of (features, groups, groups_out).
        attention: makes a SelfAttention of (groups).
        groups: groups of normalisations; blocks with Skip have their own.
        resample: "conv" or "resnet", the resampling of "AttnDownBlock2D" and "AttnUpBlock2D".
    """

    kind: str
    features: int
    last: bool
    layers: int
    resnet: Callable[..., ResidualBlock]
    attention: Callable[..., SelfAttention]
    groups: int
    resample: str

    @property
    def skip(self) -> bool:
        """True for a block with an image pyramid."""
        return "Skip" in self.kind

    @property
    def resamples_inside(self) -> bool:
        """True if the resolution changes inside a residual block."""
        inside = self.kind.startswith("Attn") and self.resample == "resnet"
        return inside or self.kind.startswith("Resnet")

    def residual(self, channels: int, concatenated: int = 0, **options) -> ResidualBlock:
        """A residual block for inputs of `channels` and `concatenated` channels."""
        if not self.skip:
            return self.resnet(self.features, self.groups, self.groups, **options)
        groups = groups_of(channels + concatenated, 0)
        if self.kind == "AttnSkipUpBlock2D" and concatenated:
            groups = min(channels + concatenated // 4, MOST_GROUPS)  # as published
        groups_out = groups_of(self.features, 0)
        return self.resnet(self.features, groups, groups_out, scale=SQRT2, **options)

    def attend(self, i: int) -> SelfAttention:
        """The i-th attention."""
        if self.skip:
            return self.attention(MOST_GROUPS, scale=SQRT2, name=f"attentions_{i}")
        return self.attention(self.groups, name=f"attentions_{i}")


class DownBlock(Level):
    """A level of the encoder.

    Attributes: those of Level, and
        padding: of a downsampling convolution (Resampling).
    """

    padding: int

    @nn.compact
    def __call__(
        self, h: Image, image: Image, temb: Embedding, train: bool
    ) -> tuple[Image, Image, list[Image]]:
        """The features, the image pyramid's next level, and the outputs for the decoder."""
        outputs = []
        for i in range(self.layers):
            block = self.residual(h.shape[-1], name=f"resnets_{i}")
            h = block(h, temb, train)
            if "Attn" in self.kind:
                h = self.attend(i)(h)
            outputs.append(h)
        if self.last:
            return h, image, outputs
        if self.skip:
            halve = partial(downsample, kernel=FIR)
            options = {"resample": halve, "shortcut": True, "name": "resnet_down"}
            h = self.residual(self.features, **options)(h, temb, train)
            image = halve(image)
            h = conv1x1(self.features, name="skip_conv")(image) + h
        elif self.resamples_inside:
            options = {"resample": partial(downsample, kernel=BOX), "name": "downsamplers_0"}
            h = self.residual(self.features, **options)(h, temb, train)
        else:
            h = Resampling(self.features, self.padding, name="downsamplers_0")(h)
        return h, image, [*outputs, h]


class UpBlock(Level):
    """A level of the decoder, with one residual block more than the encoder's.

    Attributes: those of Level, and
        image_channels: channels of the output image.
        epsilon: epsilon of the normalisation before the image.
    """

    image_channels: int
    epsilon: float

    @nn.compact
    def __call__(
        self, h: Image, skips: Sequence[Image], image: Image | None, temb: Embedding, train: bool
    ) -> tuple[Image, Image | None]:
        """The features, and the output image at the next level's resolution (None: no image)."""
        for i, other in enumerate(reversed(skips)):
            channels = h.shape[-1], other.shape[-1]
            block = self.residual(*channels, name=f"resnets_{i}")
            h = block(jnp.concatenate([h, other], axis=-1), temb, train)
            if "Attn" in self.kind and not self.skip:
                h = self.attend(i)(h)
        if not self.skip:
            return self._grown(h, temb, train), image
        if "Attn" in self.kind:
            h = self.attend(0)(h)
        double = partial(upsample, kernel=FIR)
        image = None if image is None else double(image)
        if self.last:
            return h, image
        groups = groups_of(self.features, 0)
        y = nn.swish(GroupNorm(groups, self.epsilon, name="skip_norm")(h))
        y = conv3x3(self.image_channels, name="skip_conv")(y)
        options = {"resample": double, "shortcut": True, "name": "resnet_up"}
        h = self.residual(self.features, **options)(h, temb, train)
        return h, (y if image is None else image + y)

    def _grown(self, h: Image, temb: Embedding, train: bool) -> Image:
        if self.last:
            return h
        if not self.resamples_inside:
            return Resampling(self.features, None, name="upsamplers_0")(h)
        options = {"resample": partial(upsample, kernel=BOX), "name": "upsamplers_0"}
        return self.residual(self.features, **options)(h, temb, train)


def groups_of(channels: int, groups: int) -> int:
    """The groups of a normalisation; 0 stands for a quarter of the channels, at most 32."""
    return groups or min(channels // 4, MOST_GROUPS)


def sinusoids(
    labels: Float[Array, " batch"], features: int, shift: int, cosines_first: bool
) -> Embedding:
    """Sines and cosines of the labels, as in layers.positional_embedding, in either order."""
    waves, half = positional_embedding(labels, features, shift), features // 2
    order = [waves[:, half : 2 * half], waves[:, :half], waves[:, 2 * half :]]
    return jnp.concatenate(order, axis=1) if cosines_first else waves
