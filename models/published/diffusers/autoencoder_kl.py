"""Format of Stable Diffusion's autoencoder in folders of diffusers."""

from pathlib import Path
from typing import Any

import numpy as np

from models import weights
from models.published.autoencoder import (
    RESNET,
    SCALE,
    SIZE,
    AutoencoderFormat,
    Layer,
    latent_channels,
)
from models.published.base import About, Arrays, Card, Fields, Found, Skeleton, Source
from models.published.diffusers import folders

ACTIVATIONS = ("silu", "swish")  # another one would not be that of the last layers there
ATTENTION = {
    "GroupNorm_0": "group_norm",
    "NIN_0": "to_q",
    "NIN_1": "to_k",
    "NIN_2": "to_v",
    "NIN_3": "to_out.0",
}


class Diffusers(AutoencoderFormat):
    """A folder of diffusers with an AutoencoderKL, or its file of weights alone."""

    name = "autoencoder_kl"
    title = "an AutoencoderKL of diffusers"
    group = "diffusers"
    resnet = RESNET
    attention = ATTENTION
    norm_out = "conv_norm_out"
    window = 0
    cards = tuple(
        Card(
            (f"sd-vae-ft-{kind}", f"stabilityai/sd-vae-ft-{kind}"),
            f"Stable Diffusion's autoencoder, fine-tuned ({kind})",
            f"https://huggingface.co/stabilityai/sd-vae-ft-{kind}",
            "MIT",
            figure,
            {"model.norm_groups": 32},
        )
        for kind, figure in (
            ("mse", "rFID 4.70, PSNR 24.5 dB on COCO 2017 at 256 x 256"),
            ("ema", "rFID 4.42, PSNR 23.8 dB on COCO 2017 at 256 x 256"),
        )
    )

    def find(self, source: Source) -> Found | None:
        content, options = source.content, source.options
        named = options.get("_class_name") == "AutoencoderKL"
        if not isinstance(content, dict) or (not named and self.missing(content)):
            return None
        if "_class_name" in options and not named:
            return None
        arrays = weights.state_dict(content)
        if missing := self.missing(arrays):
            raise ValueError(f"{source.path} says it is {self.title}, but has no {missing}")
        activation = options.get("act_fn", "silu")
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"{source.path} is {self.title} with act_fn = {activation!r}: our network has "
                f"{ACTIVATIONS[0]!r} alone"
            )
        side = _side(source)
        told = {
            "model.norm_groups": options.get("norm_num_groups", 32),
            "data.image_size": side,
            "data.latent_mean": (options.get("shift_factor") or 0.0,) * latent_channels(arrays),
            "data.latent_std": (1 / options.get("scaling_factor", SCALE),)
            * latent_channels(arrays),
        }
        fields = self.sizes(self.clean(arrays), side) | (told if named else {})
        return Found(arrays, fields, told)

    def name_of(self, layer: Layer, n_levels: int) -> str:
        part, kind, place, level, number = layer
        inside = {"ResnetBlock": "resnets", "Attention": "attentions"}
        if place == "level":
            way = "down" if part == "encoder" else "up"
            return f"{way}_blocks.{level}.{inside[kind]}.{number}"
        if place == "middle":
            return f"mid_block.{inside[kind]}.{number}"
        if place == "between":
            way = "down" if part == "encoder" else "up"
            return f"{way}_blocks.{level}.{way}samplers.0.conv"
        return self.norm_out if kind == "GroupNorm" else f"conv_{place}"

    def clean(self, arrays: Arrays) -> dict[str, np.ndarray]:
        """The tensors with the attention layers' names of today, for those of 2022."""
        return {folders.today(name): array for name, array in arrays.items()}

    def write(self, folder: Path, arrays: Arrays, options: dict[str, Any], about: About) -> Path:
        return folders.write(folder, arrays, options)

    def options(self, skeleton: Skeleton, fields: Fields) -> dict[str, Any]:
        network: Any = skeleton.network
        widths = [network.nf * mult for mult in network.ch_mult]
        attends = [skeleton.shape[0] >> k in network.attn_resolutions for k in range(len(widths))]
        prefixes = ["Attn" if attend else "" for attend in attends]
        return {
            "_class_name": "AutoencoderKL",
            "in_channels": network.channels,
            "out_channels": network.channels,
            "down_block_types": [f"{prefix}DownEncoderBlock2D" for prefix in prefixes],
            "up_block_types": [f"{prefix}UpDecoderBlock2D" for prefix in prefixes[::-1]],
            "block_out_channels": widths,
            "layers_per_block": network.num_res_blocks,
            "act_fn": ACTIVATIONS[0],
            "latent_channels": network.latent_channels,
            "norm_num_groups": network.norm_groups,
            "sample_size": skeleton.shape[0],
            **_scaling(fields),
            "mid_block_add_attention": network.mid_attention,
            "use_quant_conv": network.quant_conv,
            "use_post_quant_conv": network.post_quant_conv,
        }


def _scaling(fields: Fields) -> dict[str, float]:
    """The scale and the shift of latents, if it is one for all channels."""
    mean, std = (set(fields.get(f"data.latent_{name}", ())) for name in ("mean", "std"))
    if len(mean) != 1 or len(std) != 1:
        return {}
    shift, scale = mean.pop(), float(f"{1 / std.pop():.12g}")
    return {"scaling_factor": scale} | ({"shift_factor": shift} if shift else {})


def _side(source: Source) -> int:
    """The side of images: in a pipeline, of those whose latents the other network makes."""
    options = source.options
    for name in ("transformer", "unet"):
        if latent := source.parts.get(name, {}).get("sample_size"):
            return latent << (len(options.get("block_out_channels", (1,))) - 1)
    side = options.get("sample_size", 32 if "_class_name" in options else SIZE)
    return side if isinstance(side, int) else side[0]
