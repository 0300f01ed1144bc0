"""Format of Stable Diffusion's autoencoder (Rombach et al. 2022) by diffusers' names.

AutoencoderFormat is what it shares with CompVis' names (autoencoder_compvis.py): both name the
layers of encoder and decoder by their levels.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from models import weights
from models.autoencoder import Autoencoder
from models.published import folders
from models.published.base import (
    About,
    Arrays,
    Card,
    Fields,
    Format,
    Found,
    Skeleton,
    Source,
    Table,
    Tensor,
)

Layer = tuple[str, str, str, int, int]
"""Part ("encoder"), class of our layer, place ("level", "middle", "between"), level and number."""
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
NEEDED = {  # fields that make our network a published one
    "skip_rescale": False,
    "nonlinearity": "swish",
    "regularization": "kl",
    "wide_transitions": True,
    "adversarial": False,
}
OUTSIDE = {"to_latents": "quant_conv", "from_latents": "post_quant_conv"}
ACTIVATIONS = ("silu", "swish")  # another one would not be that of the last layers there
OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
SIZE = 256  # pixels a side, where the file does not tell
SCALE = 0.18215  # of the latents in Stable Diffusion: they have about the standard deviation 1


class AutoencoderFormat(Format):
    """What both spellings share.

    Attributes:
        resnet: names of the layers in a residual block.
        attention: names of the layers in an attention layer.
        norm_out: name of the last normalisation.
        window: axes of length 1 of the matrices of attention layers.
    """

    resnet: Mapping[str, str]
    attention: Mapping[str, str]
    norm_out: str
    window: int

    def name_of(self, layer: Layer, n_levels: int) -> str:
        """The published name of a layer of encoder or decoder."""
        raise NotImplementedError

    def table(self, skeleton: Skeleton) -> Table:
        network: Any = skeleton.network
        other = {name: v for name, v in NEEDED.items() if getattr(network, name, None) != v}
        if not isinstance(network, Autoencoder) or other or not network.norm_groups:
            raise ValueError(
                f"the network {type(network).__name__} is none of {self.title}, which is "
                f"config.model.name = 'autoencoder' with norm_groups and these fields: {NEEDED}"
            )
        names = {}
        for part in ("encoder", "decoder"):
            numbers = Counter()
            for layer in _layers(network, part, skeleton.shape[0]):
                kind = layer[1]
                names[part, f"{kind}_{numbers[kind]}"] = self.name_of(layer, len(network.ch_mult))
                numbers[kind] += 1
        return {place: self._tensor(place, names) for place in skeleton.shapes}

    def _tensor(self, place: tuple[str, ...], names: Mapping[tuple[str, str], str]) -> Tensor:
        *modules, leaf = place
        if modules[0] in OUTSIDE:
            return Tensor(f"{OUTSIDE[modules[0]]}.{LEAVES[leaf]}")
        part, layer, *inner = modules
        name, window = names[part, layer], 0
        if layer.startswith("ResnetBlock"):
            name = f"{name}.{self.resnet[inner[0]]}"
            window = 2 if inner[0] == "NIN_0" else 0  # the shortcut is a convolution there
        elif layer.startswith("Attention"):
            name = f"{name}.{self.attention[inner[0]]}"
            window = self.window if inner[0].startswith("NIN") else 0
        return Tensor(f"{part}.{name}.{LEAVES[leaf]}", window if leaf == "kernel" else 0)

    def sizes(self, arrays: Arrays, side: int) -> Fields:
        """The fields that follow from the shapes of the tensors, for images of a side in pixels.

        Raises:
            ValueError: an encoder and a decoder of different images or latents.
        """
        n_levels = self._count(arrays, ("encoder", "ResnetBlock", "level", 0, 0), 3)
        first = [("encoder", "ResnetBlock", "level", level, 0) for level in range(n_levels)]
        widths = [
            arrays[f"{self._named(layer, n_levels)}.conv1.weight"].shape[0] for layer in first
        ]
        blocks = self._count(arrays, first[0], 4)
        attend = ((layer[0], "Attention", *layer[2:]) for layer in first)
        attentive = [
            any(k.startswith(self._named(a, n_levels) + ".") for k in arrays) for a in attend
        ]
        channels, latent = arrays["encoder.conv_in.weight"].shape[1], _latents(arrays)
        ends = arrays["decoder.conv_out.weight"].shape[0], arrays["decoder.conv_in.weight"].shape[1]
        if ends != (channels, latent):
            raise ValueError(
                f"{self.title} whose encoder takes {channels} channels to {latent}, but whose "
                f"decoder takes {ends[1]} to {ends[0]}: our network leads back to the same"
            )
        width = math.gcd(*widths)
        middle = self._named(("encoder", "Attention", "middle", 0, 0), n_levels)
        return {
            "model.name": "autoencoder",
            "model.nf": width,
            "model.ch_mult": tuple(each // width for each in widths),
            "model.num_res_blocks": blocks,
            "model.attn_resolutions": tuple(
                side >> level for level, attends in enumerate(attentive) if attends
            ),
            "model.skip_rescale": False,
            "model.wide_transitions": True,
            "model.mid_attention": any(name.startswith(middle + ".") for name in arrays),
            "model.quant_conv": "quant_conv.weight" in arrays,
            "model.post_quant_conv": "post_quant_conv.weight" in arrays,
            "autoencoder.latent_channels": latent,
            "autoencoder.regularization": "kl",
            "data.num_channels": channels,
            "data.dataset": "folder",
            "data.centered": True,
        }

    def _named(self, layer: Layer, n_levels: int) -> str:
        return f"{layer[0]}.{self.name_of(layer, n_levels)}"

    def _count(self, arrays: Arrays, layer: Layer, position: int) -> int:
        """The number of layers that differ from this one in its level (3) or its number (4)."""

        def name(i: int) -> str:
            return self._named((*layer[:position], i, *layer[position + 1 :]), 1)  # pyright: ignore

        return next(i for i in range(len(arrays) + 1) if f"{name(i)}.conv1.weight" not in arrays)

    def missing(self, arrays: Mapping[str, Any]) -> list[str]:
        """Names of the first and last layers that are not there."""
        ends = ("encoder", "decoder"), ("in", "out")
        names = {f"{part}.conv_{end}.weight" for part in ends[0] for end in ends[1]}
        first = self._named(("encoder", "ResnetBlock", "level", 0, 0), 1)
        return sorted((names | {f"{first}.conv1.weight"}) - arrays.keys())


def _layers(network: Any, part: str, height: int) -> Iterator[Layer]:
    """The layers of encoder or decoder in calling order, for images of a height."""
    n, blocks = len(network.ch_mult), network.num_res_blocks
    encoding = part == "encoder"

    def level(k: int, count: int) -> Iterator[Layer]:
        smaller = k if encoding else n - 1 - k
        for i in range(count):
            yield part, "ResnetBlock", "level", k, i
            if height >> smaller in network.attn_resolutions:
                yield part, "Attention", "level", k, i

    def middle() -> Iterator[Layer]:
        yield part, "ResnetBlock", "middle", 0, 0
        if network.mid_attention:
            yield part, "Attention", "middle", 0, 0
        yield part, "ResnetBlock", "middle", 0, 1

    yield part, "Conv", "in", 0, 0
    if not encoding:
        yield from middle()
    for k in range(n):
        if k:
            yield part, "Downsample" if encoding else "Upsample", "between", k - 1, 0
        yield from level(k, blocks if encoding else blocks + 1)
    if encoding:
        yield from middle()
    yield part, "GroupNorm", "out", 0, 0
    yield part, "Conv", "out", 0, 0


RESNET = {
    "GroupNorm_0": "norm1",
    "Conv_0": "conv1",
    "GroupNorm_1": "norm2",
    "Conv_1": "conv2",
    "NIN_0": "conv_shortcut",
}
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
            "data.latent_mean": (options.get("shift_factor") or 0.0,) * _latents(arrays),
            "data.latent_std": (1 / options.get("scaling_factor", SCALE),) * _latents(arrays),
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
        pattern = re.compile(rf"(attentions\.\d+)\.({'|'.join(OLD)})\.")
        return {pattern.sub(lambda m: f"{m[1]}.{OLD[m[2]]}.", k): v for k, v in arrays.items()}

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


def _latents(arrays: Arrays) -> int:
    return arrays["encoder.conv_out.weight"].shape[0] // 2
