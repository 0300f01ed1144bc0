"""Format of DiT in folders of diffusers."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from models import weights
from models.dit import DiT
from models.published.autoencoder import SCALE
from models.published.base import About, Arrays, Card, Fields, Found, Skeleton, Source, Tensor
from models.published.diffusers import folders, schedulers
from models.published.dit import (
    LEAVES,
    NEEDED,
    PUBLISHED,
    DiTFormat,
    heads_of,
    latents,
    usual,
)

EMBEDDERS = {  # stored once for each block
    "Dense_0": "timestep_embedder.linear_1",
    "Dense_1": "timestep_embedder.linear_2",
    "class_embedding": "class_embedder.embedding_table",
}
OPTIONS = {  # what a config.json may hold beside sizes, with the only values that we have
    "activation_fn": ("gelu-approximate",),
    "norm_type": ("ada_norm_zero",),
    "norm_elementwise_affine": (False,),
    "attention_type": ("default",),
    **dict.fromkeys(("cross_attention_dim", "num_vector_embeds", "caption_channels"), (None,)),
    **dict.fromkeys(("double_self_attention", "only_cross_attention"), (False,)),
    "interpolation_scale": (None, 1, 1.0),
}


DIFFUSERS_LAYERS = {
    "patches": "pos_embed.proj",
    **{ours: f"transformer_blocks.0.norm1.emb.{name}" for ours, name in EMBEDDERS.items()},
    "modulation": "proj_out_1",
    "output": "proj_out_2",
}
DIFFUSERS_BLOCK = {
    "modulation": "norm1.linear",
    "attention.query": "attn1.to_q",
    "attention.key": "attn1.to_k",
    "attention.value": "attn1.to_v",
    "attention.out": "attn1.to_out.0",
    "perceptron.Dense_0": "ff.net.0.proj",
    "perceptron.Dense_1": "ff.net.2",
}


class Diffusers(DiTFormat):
    """A folder of diffusers with a DiTTransformer2DModel, which was a Transformer2DModel before."""

    name = "diffusers_dit"
    title = "a DiT of diffusers"
    group = "diffusers"
    layers = DIFFUSERS_LAYERS
    block = DIFFUSERS_BLOCK
    blocks = "transformer_blocks"
    needed = NEEDED | {"frequency_shift": 1, "mlp_ratio": 4.0}
    cards = tuple(
        Card(
            (f"DiT-XL-2-{side}", f"facebook/DiT-XL-2-{side}"),
            f"DiT-XL/2, ImageNet {side} x {side}, class-conditional, in latents",
            f"https://huggingface.co/facebook/DiT-XL-2-{side}",
            "CC-BY-NC-4.0",
            f"FID {fid} of the original with guidance 1.5",
            PUBLISHED,
            commercial=False,
        )
        for side, fid in ((256, "2.27"), (512, "3.04"))
    )

    def find(self, source: Source) -> Found | None:
        content, options = source.content, source.options
        named = options.get("_class_name") in ("DiTTransformer2DModel", "Transformer2DModel")
        if not isinstance(content, dict) or (not named and self.missing(content)):
            return None
        for name, allowed in OPTIONS.items():
            if options.get(name, allowed[0]) not in allowed:
                raise ValueError(
                    f"{source.path} is a {options.get('_class_name')} with {name} = "
                    f"{options[name]!r}, which our DiT does not have: it has {allowed[0]!r}"
                )
        arrays = weights.state_dict(content)
        if missing := self.missing(arrays):
            raise ValueError(f"{source.path} says it is {self.title}, but has no {missing}")
        fields = self.sizes(arrays) | {"model.frequency_shift": 1, "model.null_class": True}
        fields["data.num_classes"] = self.classes(arrays) - 1
        fields["model.shared_embedding"] = self._are_copies(arrays, fields["model.depth"])
        width = fields["model.hidden_size"]
        heads = 16 if named else heads_of(width)
        told = {
            "model.num_heads": options.get("num_attention_heads", heads),
            "model.mlp_epsilon": options.get("norm_eps", 1e-5),
            "model.attention_bias": "transformer_blocks.0.attn1.to_q.bias" in arrays,
            "model.dropout": options.get("dropout", 0.0),
            "data.image_size": options.get("sample_size", 32),
        }
        fields |= told if named else {}
        assumed = told | usual(fields)
        if scheduler := source.parts.get("scheduler"):
            fields |= (noise := schedulers.fields(scheduler))
            assumed = {k: v for k, v in assumed.items() if not k.startswith("sampling.")}
            if noise.get("sampling.variance") == "learned" and not fields["model.learned_variance"]:
                raise ValueError(
                    f"the scheduler of {source.path} has learned variances, but the network has as "
                    "many output channels as input channels: give the one that belongs to it"
                )
        scale = source.parts.get("vae", {}).get("scaling_factor", SCALE)
        return Found(arrays, fields, assumed, latents=latents(fields, scale))

    def tensor(self, network: DiT, place: tuple[str, ...]) -> Tensor:
        if place[0].startswith("LabelEmbedding"):  # of the second block, the third, ...
            own = super().tensor(network, place[1:])
            block = int(place[0].removeprefix("LabelEmbedding_")) + 1
            return own._replace(name=_in_block(own.name, block))
        tensor = super().tensor(network, place)
        if place[0] not in EMBEDDERS or not network.shared_embedding:
            return tensor
        others = range(1, network.depth)
        return tensor._replace(copies=tuple(_in_block(tensor.name, i) for i in others))

    def _are_copies(self, arrays: Arrays, depth: int) -> bool:
        """True if all blocks have the same embedders."""
        names = [f"{self.layers[layer]}.{leaf}" for layer in EMBEDDERS for leaf in LEAVES.values()]
        for name in filter(arrays.__contains__, names):
            for copy in (_in_block(name, block) for block in range(1, depth)):
                if copy in arrays and not np.array_equal(arrays[name], arrays[copy]):
                    return False
                weights.release(arrays[name])
        return True

    def write(self, folder: Path, arrays: Arrays, options: dict[str, Any], about: About) -> Path:
        """Writes a folder that DiTTransformer2DModel.from_pretrained loads, and its scheduler."""
        (folder / "scheduler").mkdir()
        content = json.dumps(schedulers.write(about.fields), indent=2) + "\n"
        (folder / "scheduler" / "scheduler_config.json").write_text(content)
        return folders.write(folder, arrays, options)

    def options(self, skeleton: Skeleton, fields: Fields) -> dict[str, Any]:
        self._check_square(skeleton)
        schedulers.write(fields)  # refuses an SDE that has none
        network: Any = skeleton.network
        channels = skeleton.shape[-1]
        if not network.null_class:
            raise ValueError(
                f"{self.title} has an embedding of the null class, which this network does not "
                "have: config.model.null_class is False"
            )
        return {
            "_class_name": "DiTTransformer2DModel",
            "num_attention_heads": network.num_heads,
            "attention_head_dim": network.hidden_size // network.num_heads,
            "in_channels": channels,
            "out_channels": channels * (2 if network.learned_variance else 1),
            "num_layers": network.depth,
            "dropout": network.dropout,
            "attention_bias": network.attention_bias,
            "sample_size": skeleton.shape[0],
            "patch_size": network.patch_size,
            "activation_fn": "gelu-approximate",
            "num_embeds_ada_norm": network.num_classes,
            "norm_type": "ada_norm_zero",
            "norm_elementwise_affine": False,
            "norm_eps": network.mlp_epsilon,
        }


def _in_block(name: str, block: int) -> str:
    """The name in a block of an embedder of the first one."""
    return name.replace(".0.", f".{block}.", 1)
