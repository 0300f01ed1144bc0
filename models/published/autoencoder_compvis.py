"""Format of Stable Diffusion's autoencoder by CompVis' names (Rombach et al. 2022).

The decoder's levels are counted from the largest. Attention layers are 1 x 1 convolutions.
"""

from collections.abc import Mapping
from typing import Any

from models import weights
from models.published.autoencoder_kl import RESNET, SIZE, AutoencoderFormat, Layer
from models.published.base import Card, Fields, Found, Skeleton, Source

COMPVIS_RESNET = RESNET | {"NIN_0": "nin_shortcut"}
COMPVIS_ATTENTION = {
    "GroupNorm_0": "norm",
    "NIN_0": "q",
    "NIN_1": "k",
    "NIN_2": "v",
    "NIN_3": "proj_out",
}


class CompVis(AutoencoderFormat):
    """A file of CompVis' latent-diffusion: an autoencoder, or one within a Stable Diffusion."""

    name = "autoencoder_compvis"
    title = "an autoencoder of CompVis"
    resnet = COMPVIS_RESNET
    attention = COMPVIS_ATTENTION
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
        told = {"model.norm_groups": 32, "data.image_size": SIZE}
        return Found(arrays, self.sizes(arrays, SIZE), told)

    def name_of(self, layer: Layer, n_levels: int) -> str:
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
