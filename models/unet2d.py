"""The U-Net of the library diffusers, UNet2DModel: DDPM, NCSN++ and mixtures of their blocks.

Fields and parameters have the names that they have there, unless other networks here have the same.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jax.nn import initializers
from jaxtyping import Array, Float

from models.checked import PREFIX, CheckedNetwork
from models.conditions import ClassLabels, encode_labels
from models.layers import (
    ACTIVATIONS,
    Dense,
    Embedding,
    check_halvings,
    conv3x3,
    with_remat,
)
from models.normalization import GroupNorm
from models.resample import Image
from models.unet2d_blocks import (
    DOWN_TYPES,
    UP_TYPES,
    DownBlock,
    MidBlock,
    ResidualBlock,
    SelfAttention,
    TimestepEmbedding,
    UpBlock,
    groups_of,
    sinusoids,
)
from sde_lib.batch import expand
from sde_lib.checks import check_name


class UNet2D(CheckedNetwork):
    """The U-Net of diffusers. The defaults are google/ddpm-cifar10-32's.

    Attributes:
        block_out_channels: channels of each level, at half the resolution of the one before.
        down_block_types: kind of the encoder's block at each level, in unet2d_blocks.DOWN_TYPES.
        up_block_types: kind of the decoder's block at each level, in unet2d_blocks.UP_TYPES, from
            the deepest level to full resolution.
        mid_block_type: "UNetMidBlock2D", or "" for no block between encoder and decoder.
        layers_per_block: residual blocks per level (one more in the decoder).
        add_attention: attention in the middle block.
        mid_block_scale_factor: divisor of the middle block's sums.
        attention_head_dim: channels per attention head; 0: one head.
        norm_num_groups: groups of group normalisation; 0: a quarter of the channels, at most 32,
            which the blocks with Skip have always.
        attn_norm_num_groups: groups of the middle block's attention; 0: norm_num_groups, or no
            normalisation with "scale_shift".
        norm_eps: epsilon of group normalisation.
        downsample_padding: 0 pads a downsampling convolution at the bottom and right, 1 everywhere.
        downsample_type: downsampling of Attn blocks, by a convolution ("conv") or in a residual
            block ("resnet").
        upsample_type: likewise.
        resnet_time_scale_shift: the noise level shifts features ("default"), or scales and shifts
            normalised ones ("scale_shift").
        time_embedding_type: "positional" (sinusoids), "fourier" (of the logarithm; the output is
            divided by the label) or "learned" (a table, interpolated between integer labels).
        time_embedding_dim: width of the embedding; 0: 4 times the channels of the first level.
        flip_sin_to_cos: cosines before sines.
        freq_shift: the last frequency is 10000^(-(half - 1) / (half - freq_shift)).
        num_train_timesteps: rows of the "learned" table.
        class_embed_type: "" embeds classes by a table, "timestep" like noise levels; "identity"
            takes embeddings [B, time_embedding_dim] as class_labels.
        num_classes: number of classes for class conditioning; 0: unconditional.
        dropout: dropout probability in training.
        nonlinearity: a name in layers.ACTIVATIONS, for the residual blocks; SiLU elsewhere.
        centered: data in [-1, 1]; if False, in [0, 1], which the network rescales to [-1, 1].
        learned_variance: twice the output channels; the second half is v (ScoreAndVariance).
        remat: recompute each block's activations in the backward pass, to save memory.
        dtype: dtype of the blocks; parameters, statistics, embedding and output stay float32.
    """

    block_out_channels: Sequence[int] = (128, 256, 256, 256)
    down_block_types: Sequence[str] = ("DownBlock2D", "AttnDownBlock2D", *["DownBlock2D"] * 2)
    up_block_types: Sequence[str] = (*["UpBlock2D"] * 2, "AttnUpBlock2D", "UpBlock2D")
    mid_block_type: str = "UNetMidBlock2D"
    layers_per_block: int = 2
    add_attention: bool = True
    mid_block_scale_factor: float = 1.0
    attention_head_dim: int = 0
    norm_num_groups: int = 32
    attn_norm_num_groups: int = 0
    norm_eps: float = 1e-6
    downsample_padding: int = 0
    downsample_type: str = "conv"
    upsample_type: str = "conv"
    resnet_time_scale_shift: str = "default"
    time_embedding_type: str = "positional"
    time_embedding_dim: int = 0
    flip_sin_to_cos: bool = False
    freq_shift: int = 1
    num_train_timesteps: int = 0
    class_embed_type: str = ""
    num_classes: int = 0
    dropout: float = 0.1
    nonlinearity: str = "swish"
    centered: bool = False
    learned_variance: bool = False
    remat: bool = False
    dtype: str = "float32"

    log_labels = True  # for Preconditioning.check

    def __post_init__(self):
        super().__post_init__()
        _check(self)

    @property
    def embedding_type(self) -> str:
        """The kind of the noise labels' embedding."""
        return self.time_embedding_type

    @property
    def scale_by_sigma(self) -> bool:
        """True if the output is divided by the noise label, which is sigma."""
        return self.time_embedding_type == "fourier"

    @nn.compact
    def __call__(
        self,
        x: Image,
        labels: Float[Array, " batch"],
        train: bool = False,
        class_labels: ClassLabels | Embedding | None = None,
    ) -> Image:
        """The network output, of the shape of x, given the noise labels of the parametrization.

        Raises:
            ValueError: a side is not divisible by 2^(levels - 1); class_labels are
                missing, unknown or misshapen.
        """
        levels, channels = len(self.block_out_channels), x.shape[-1] * (1 + self.learned_variance)
        check_halvings(x, levels - 1)
        x = (x if self.centered else 2 * x - 1).astype(self.dtype)
        temb = self._embedding(labels, class_labels).astype(self.dtype)
        blocks = {
            "resnet": partial(
                with_remat(ResidualBlock, self.remat, static=(3,)),
                act=ACTIVATIONS[self.nonlinearity],
                epsilon=self.norm_eps,
                dropout=self.dropout,
                scale_shift=self.resnet_time_scale_shift == "scale_shift",
            ),
            "attention": partial(
                with_remat(SelfAttention, self.remat),
                head_channels=self.attention_head_dim,
                epsilon=self.norm_eps,
            ),
            "groups": self.norm_num_groups,
        }

        h = conv3x3(self.block_out_channels[0], name="conv_in")(x)
        skips, image = [h], x
        for i, kind in enumerate(self.down_block_types):
            way = {"padding": self.downsample_padding, "resample": self.downsample_type}
            about = kind, self.block_out_channels[i], i == levels - 1, self.layers_per_block
            block = DownBlock(*about, **blocks, **way, name=f"down_blocks_{i}")
            h, image, new = block(h, image, temb, train)
            skips += new

        if self.mid_block_type:
            h = self._middle(blocks)(h, temb, train)

        image = None
        for i, kind in enumerate(self.up_block_types):
            about = kind, self.block_out_channels[-1 - i], i == levels - 1, self.layers_per_block
            way = {"resample": self.upsample_type, "epsilon": self.norm_eps}
            split = len(skips) - self.layers_per_block - 1
            skips, own = skips[:split], skips[split:]
            block = UpBlock(*about, **blocks, **way, image_channels=channels, name=f"up_blocks_{i}")
            h, image = block(h, own, image, temb, train)

        groups = groups_of(h.shape[-1], self.norm_num_groups)
        h = nn.swish(GroupNorm(groups, self.norm_eps, name="conv_norm_out")(h))
        h = conv3x3(channels, 0.0, name="conv_out")(h)
        output = (h if image is None else h + image).astype(jnp.float32)
        return output / expand(labels, output) if self.scale_by_sigma else output

    def _middle(self, blocks: dict[str, Any]) -> MidBlock:
        groups = groups_of(self.block_out_channels[-1], self.norm_num_groups)
        default = groups if self.resnet_time_scale_shift == "default" else 0
        return MidBlock(
            blocks["resnet"],
            blocks["attention"] if self.add_attention else None,
            groups,
            self.attn_norm_num_groups or default,
            self.mid_block_scale_factor,
            name="mid_block",
        )

    def _embedding(self, labels: Array, class_labels: Array | None) -> Embedding:
        """The embedding of noise level and class, [B, time_embedding_dim]."""
        width = self.time_embedding_dim or 4 * self.block_out_channels[0]
        project = self._projection()
        temb = TimestepEmbedding(width, name="time_embedding")(project(labels))
        if self.class_embed_type == "identity":
            if class_labels is not None and class_labels.shape != temb.shape:
                raise ValueError(
                    f"class_labels has the shape {class_labels.shape}, but must have {temb.shape}: "
                    "with config.model.class_embed_type = 'identity' they are embeddings"
                )
            return temb if class_labels is None else temb + class_labels
        classes, *_ = encode_labels(self, len(labels), class_labels, None, None)
        if self.class_embed_type == "timestep":
            if class_labels is None:
                class_labels = jnp.full(len(labels), -1)
            known = class_labels >= 0
            features = project(jnp.where(known, class_labels, 1).astype(jnp.float32))
            embedded = TimestepEmbedding(width, name="class_embedding")(features)
            return temb + known[:, None] * embedded
        if classes is None:
            return temb
        table = Dense(width, False, kernel_init=initializers.normal(1.0), name="class_embedding")
        return temb + table(classes)

    def _projection(self) -> Any:
        """The features of labels [B], as a function of them."""
        features = self.block_out_channels[0]
        if self.time_embedding_type == "positional":
            return partial(
                sinusoids,
                features=features,
                shift=self.freq_shift,
                cosines_first=self.flip_sin_to_cos,
            )
        if self.time_embedding_type == "learned":
            shape = self.num_train_timesteps, features
            table = self.param("time_proj", initializers.normal(1.0), shape)
            return lambda labels: _interpolate(table, labels)
        frequencies = self.param("time_proj", initializers.normal(16.0), (features,))

        def fourier(labels: Array) -> Array:
            turns = jnp.log(labels)[:, None] * lax.stop_gradient(frequencies)
            angles = math.pi * (2 * turns)  # in this order, as thousands of radians are rounded
            return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)

        return fourier


def _interpolate(table: Float[Array, "rows features"], labels: Float[Array, " batch"]) -> Array:
    """Rows of a table at labels, linear between integers."""
    labels = jnp.clip(labels, 0, len(table) - 1)
    before = jnp.floor(labels).astype(int)
    after = jnp.minimum(before + 1, len(table) - 1)
    share = (labels - before)[:, None]
    return (1 - share) * table[before] + share * table[after]


def _check(network: UNet2D) -> None:
    """Raises ValueError for blocks that are unknown or do not go together."""
    levels = len(network.block_out_channels)
    for field, known in (("down_block_types", DOWN_TYPES), ("up_block_types", UP_TYPES)):
        kinds = list(getattr(network, field))
        for kind in kinds:
            check_name(f"{PREFIX}{field}", kind, known)
        if len(kinds) != levels:
            raise ValueError(
                f"{PREFIX}{field} has {len(kinds)} entries, {PREFIX}block_out_channels {levels}: "
                "give one for each level"
            )
        # The image pyramid begins and ends at full resolution.
        skips = ["Skip" in kind for kind in (kinds[:-1] if known is DOWN_TYPES else kinds[::-1])]
        if skips != sorted(skips, reverse=True):
            raise ValueError(
                f"{PREFIX}{field} is {tuple(kinds)}: blocks with Skip must be the "
                f"{'first' if known is DOWN_TYPES else 'last'} of them"
            )
    if not network.norm_num_groups and not all(
        "Skip" in kind for kind in (*network.down_block_types, *network.up_block_types)
    ):
        raise ValueError(
            f"{PREFIX}norm_num_groups is 0, which leaves it to blocks with Skip alone: give the "
            "number of groups"
        )
    if network.time_embedding_type == "learned" and network.num_train_timesteps < 2:
        raise ValueError(
            f"{PREFIX}num_train_timesteps is {network.num_train_timesteps}: a learned time "
            "embedding needs a row for every noise level, two at least"
        )
