"""The base class of networks, which checks the fields that they share by name."""

from typing import Any, ClassVar

import flax.linen as nn

from models.config import DATA_KINDS
from models.layers import ACTIVATIONS
from models.text import KINDS as TEXT_KINDS
from sde_lib.checks import check_at_least, check_in, check_name, check_types

PREFIX = "config.model."
CHOICES = {
    "resblock_type": ("ddpm", "biggan"),
    "progressive": ("none", "output_skip", "residual"),
    "progressive_input": ("none", "input_skip", "residual"),
    "progressive_combine": ("sum", "cat"),
    "embedding_type": ("fourier", "positional"),
    "conditioning": ("adaln_zero", "cross_attention", "in_context"),
    "time_embedding_type": ("positional", "fourier", "learned"),
    "class_embed_type": ("", "timestep", "identity"),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "mid_block_type": ("", "UNetMidBlock2D"),
    "downsample_type": ("conv", "resnet"),
    "upsample_type": ("conv", "resnet"),
    "text": TEXT_KINDS,
    "pool": ("attention", "adaptive", "spatial", "spatial_v2"),
    "nonlinearity": tuple(ACTIVATIONS),
    "dtype": ("float32", "bfloat16"),
}
LEAST = {  # of integers, and of each integer in a sequence
    **dict.fromkeys(("num_res_blocks", "num_classes", "num_outputs", "augment_dim"), 0),
    **{"vector_dim": 0, "image_channels": 0, "attributes": 2},
    "norm_groups": 0,
    **dict.fromkeys(("noise_features", "embedding_features", "logvar_channels"), 0),
    **dict.fromkeys(("nf", "ch_mult", "attn_resolutions", "num_head_channels", "num_scales"), 1),
    **dict.fromkeys(("heads", "heads_upsample", "in_nf"), 0),
    **dict.fromkeys(("attn_factors", "group_size"), 1),
    **dict.fromkeys(("text_length", "text_width", "text_depth"), 1),
    **dict.fromkeys(("patch_size", "hidden_size", "depth", "num_heads"), 1),
    **dict.fromkeys(("blocks_per_group", "channel_multiplier"), 1),
    **dict.fromkeys(("latent_channels", "codebook_size", "channels"), 1),
    **dict.fromkeys(("block_out_channels", "layers_per_block"), 1),
    **dict.fromkeys(("attention_head_dim", "norm_num_groups", "attn_norm_num_groups"), 0),
    **dict.fromkeys(("time_embedding_dim", "num_train_timesteps"), 0),
}
SEQUENCES = {
    **dict.fromkeys(("ch_mult", "fir_kernel", "block_out_channels"), 1),
    **dict.fromkeys(("attn_resolutions", "attn_factors", "fourier_features", "attributes"), 0),
}
"""The least lengths of sequences of numbers."""
INTERVALS = {
    "dropout": "[0, 1)",
    "init_scale": "[0, inf)",
    **dict.fromkeys(("fourier_scale", "sigma_min", "sigma_max", "mlp_ratio"), "(0, inf)"),
    "mlp_epsilon": "(0, 1)",
    "frequency_shift": "[0, 127]",
    "fir_kernel": "(-inf, inf)",
    "clip_act": "(0, inf)",
    **dict.fromkeys(("label_balance", "concat_balance", "res_balance", "attn_balance"), "[0, 1]"),
    "norm_eps": "(0, 1)",
    "mid_block_scale_factor": "(0, inf)",
    "downsample_padding": "[0, 1]",
    "freq_shift": "[0, 1]",
}
MOST_EXPONENT = 20  # of fourier_features: 2^n pi x still has digits in float32


class CheckedNetwork(nn.Module):
    """A network whose fields are checked when it is made.

    Attributes:
        data_axes: the numbers of axes of the samples that it takes: 2 for series [L, C], 3 for
            images [H, W, C], 4 for volumes [D, H, W, C].

    Raises:
        ValueError: a field of a wrong type, an unknown choice, or a number out of range.
    """

    data_axes: ClassVar[tuple[int, ...]] = (2, 3, 4)

    def __post_init__(self):
        check_types(self, PREFIX)
        for name, value in vars(self).items():
            check_field(name, value)
        super().__post_init__()


def check_field(name: str, value: Any) -> None:
    """Raises ValueError for a field of a network, given by its name, that no network can have."""
    if name in CHOICES:
        check_name(f"{PREFIX}{name}", value, CHOICES[name])
    named: Any = {f"{PREFIX}{name}": value}
    if name in SEQUENCES:
        if not isinstance(value, tuple | list) or len(value) < SEQUENCES[name]:
            more = ", not empty" if SEQUENCES[name] else ""
            raise ValueError(f"{PREFIX}{name} is {value!r}: it must be a tuple of numbers{more}")
        named = {f"{PREFIX}{name}[{i}]": each for i, each in enumerate(value)}
    if name in LEAST:
        check_at_least(LEAST[name], **named)
    if name in INTERVALS:
        check_in(INTERVALS[name], **named)
    if name == "fourier_features":
        check_at_least(0, MOST_EXPONENT, **named)


def check_axes(network: CheckedNetwork, x: Any) -> None:
    """Raises ValueError for a batch of samples that have another number of axes than it takes."""
    if x.ndim - 1 not in network.data_axes:
        kinds = " or ".join(DATA_KINDS[axes] for axes in network.data_axes)
        raise ValueError(
            f"{type(network).__name__} takes {kinds}, but a sample has the shape {x.shape[1:]}: "
            "take another network, such as 'ncsnpp' for series, images and volumes"
        )


def check_attention(network: Any, height: int) -> None:
    """Raises ValueError for attention at a level that is not there, for images this high."""
    factors = [2**level for level in range(len(getattr(network, "ch_mult", ())))]
    heights = [height // factor for factor in factors]
    for name, levels, unit in (
        ("attn_resolutions", heights, "pixels high"),
        ("attn_factors", factors, "times smaller than the image"),
    ):
        for given in getattr(network, name, ()) if levels else ():
            if given not in levels:
                raise ValueError(
                    f"{PREFIX}{name} has {given}, but the network's levels are "
                    f"{', '.join(map(str, levels))} {unit}: give some of these, or () for none"
                )
