"""Format of Stable Diffusion's autoencoder (Rombach et al. 2022): the authors' files.

AutoencoderFormat is what it shares with folders of diffusers (diffusers/autoencoder_kl.py): both
name the layers of encoder and decoder by their levels.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from models import weights
from models.autoencoder import Autoencoder
from models.published.base import (
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
SIZE = 256  # pixels a side, where the file does not tell
SCALE = 0.18215  # of the latents in Stable Diffusion: they have about the standard deviation 1
RESNET = {
    "GroupNorm_0": "norm1",
    "Conv_0": "conv1",
    "GroupNorm_1": "norm2",
    "Conv_1": "conv2",
    "NIN_0": "conv_shortcut",
}
ATTENTION = {
    "GroupNorm_0": "norm",
    "NIN_0": "q",
    "NIN_1": "k",
    "NIN_2": "v",
    "NIN_3": "proj_out",
}


class AutoencoderFormat(Format):
    """Base class of both spellings.

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
        channels, latent = arrays["encoder.conv_in.weight"].shape[1], latent_channels(arrays)
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


def latent_channels(arrays: Arrays) -> int:
    """Channels of the latents, of which the encoder gives means and log variances."""
    return arrays["encoder.conv_out.weight"].shape[0] // 2


class CompVis(AutoencoderFormat):
    """A file of CompVis' latent-diffusion: an autoencoder, or one within a Stable Diffusion."""

    name = "autoencoder_compvis"
    title = "an autoencoder of CompVis"
    resnet = RESNET | {"NIN_0": "nin_shortcut"}
    attention = ATTENTION
    norm_out = "norm_out"
    window = 2
    cards = (
        Card(
            ("vae-ft-mse-840000-ema-pruned.*", "vae-ft-ema-560000-ema-pruned.*"),
            "Stable Diffusion's autoencoder, fine-tuned",
            "https://huggingface.co/stabilityai",
            "MIT",
            fields={"model.norm_groups": 32},
        ),
        Card(
            ("sd-v1-*.ckpt", "v1-5-pruned*", "sd-v1-*.safetensors"),
            "The autoencoder of Stable Diffusion 1",
            "https://huggingface.co/CompVis/stable-diffusion",
            "CreativeML-OpenRAIL-M",
            fields={"model.norm_groups": 32},
        ),
    )

    def find(self, source: Source) -> Found | None:
        content = source.content
        if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
            content = content["state_dict"]
        if not isinstance(content, dict) or "_class_name" in source.options:
            return None
        own = _own(content)
        if self.missing(own):
            return None
        arrays = weights.state_dict(own)
        side = source.options.get("resolution", SIZE)
        told = {"model.norm_groups": 32, "data.image_size": side}
        return Found(arrays, self.sizes(arrays, side), told)

    def name_of(self, layer: Layer, n_levels: int) -> str:
        """The name, in which the decoder's levels count from the largest."""
        part, kind, place, level, number = layer
        inside = {"ResnetBlock": "block", "Attention": "attn"}
        if part == "decoder":
            level = n_levels - 1 - level
        way = "down" if part == "encoder" else "up"
        if place == "level":
            return f"{way}.{level}.{inside[kind]}.{number}"
        if place == "middle":
            return f"mid.{inside[kind]}_{number + 1}"
        if place == "between":
            return f"{way}.{level}.{way}sample.conv"
        return self.norm_out if kind == "GroupNorm" else f"conv_{place}"

    def options(self, skeleton: Skeleton, fields: Fields) -> dict[str, Any]:
        network: Any = skeleton.network
        first, *_ = mults = network.ch_mult
        if (
            network.norm_groups != 32
            or any(mult % first for mult in mults)
            or not (network.mid_attention and network.quant_conv and network.post_quant_conv)
        ):
            raise ValueError(
                f"{self.title} has 32 groups in every normalisation, widths that are multiples of "
                "the first, attention in the middle and convolutions around the latents: this "
                "network has not"
            )
        return {
            "embed_dim": network.latent_channels,
            "double_z": True,
            "z_channels": network.latent_channels,
            "resolution": skeleton.shape[0],
            "in_channels": network.channels,
            "out_ch": network.channels,
            "ch": network.nf * first,
            "ch_mult": [mult // first for mult in mults],
            "num_res_blocks": network.num_res_blocks,
            "attn_resolutions": list(network.attn_resolutions),
            "dropout": 0.0,
        }


def _own(content: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of the autoencoder alone, without the prefix that it has in a larger model."""
    prefix = "first_stage_model."
    whole = any(str(name).startswith(prefix) for name in content)
    kept = "encoder.", "decoder.", "quant_conv.", "post_quant_conv."
    names = {str(name): str(name).removeprefix(prefix if whole else "") for name in content}
    return {
        short: content[name]
        for name, short in names.items()
        if short.startswith(kept) and (name.startswith(prefix) or not whole)
    }
