"""Format of DiT (Peebles & Xie 2023): the authors' files.

DiTFormat is what it shares with the folders of diffusers (diffusers/dit.py), which hold the same
layers by other names. The two differ in the frequencies of the noise label and in the epsilon of
the normalisation before an MLP, which fields of our network tell apart.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from models import weights
from models.conditions import OURS
from models.dit import SIZES, DiT, position_embedding
from models.published.autoencoder import SCALE
from models.published.base import (
    Arrays,
    Card,
    Fields,
    Format,
    Found,
    Latents,
    Skeleton,
    Source,
    Table,
    Tensor,
)
from models.weights import Record

HEADS = {size["hidden_size"]: size["num_heads"] for size in SIZES.values()}
NOISE = {  # of the published models: DDPM's chain, with learned variances
    "training.sde": "vpsde",
    "training.continuous": False,
    "model.num_scales": 1000,
    "model.beta_min": 0.1,
    "model.beta_max": 20.0,
    "model.parametrization": "epsilon",
    "model.label_dropout": 0.1,
}
PUBLISHED = NOISE | {"model.num_heads": 16}
NEEDED = {  # fields that make our network a published one
    "conditioning": "adaln_zero",
    "null_class": True,
    "augment_dim": 0,
    "label_confidence": False,
    **OURS,
    "text": "",
    "centered": True,
}
LEAVES = {"kernel": "weight", "bias": "bias"}
OUR_ORDER = (1, 0, 2, 4, 3, 5)  # shift, scale and gate are published; here the scale is first


class DiTFormat(Format):
    """Base class of both formats.

    Attributes:
        layers: names of the layers outside blocks.
        block: names of the layers in a block.
        blocks: prefix of the blocks.
        needed: fields that make our network one of this format.
    """

    layers: Mapping[str, str]
    block: Mapping[str, str]
    blocks: str
    needed: Mapping[str, Any]

    def table(self, skeleton: Skeleton) -> Table:
        network: Any = skeleton.network
        needed = dict(self.needed)
        if getattr(network, "null_class", True) is False:  # of a model without label dropout
            needed.pop("null_class", None)
        other = {name: v for name, v in needed.items() if getattr(network, name, None) != v}
        if not isinstance(network, DiT) or other or not network.num_classes:
            raise ValueError(
                f"the network {type(network).__name__} is none of {self.title}, which is DiT with "
                f"classes and with these fields of config.model: {dict(self.needed)}"
            )
        return {place: self.tensor(network, place) for place in skeleton.shapes}

    def tensor(self, network: DiT, place: tuple[str, ...]) -> Tensor:
        """The published tensor of the parameter at a place of our network."""
        layer, *inner, leaf = place
        if layer.startswith("DiTBlock"):
            number, layer = layer.removeprefix("DiTBlock_"), ".".join(inner)
            name = f"{self.blocks}.{number}.{self.block[layer]}.{LEAVES[leaf]}"
            return Tensor(name, blocks=OUR_ORDER if layer == "modulation" else ())
        name = f"{self.layers[layer]}.{LEAVES[leaf]}"
        if layer == "patches" and leaf == "kernel":
            return Tensor(name, patch=network.patch_size)
        if layer == "Dense_0" and leaf == "kernel":  # published: cosines before sines
            return Tensor(name, blocks=(1, 0), axis=1)
        blocks = (1, 0) if layer == "modulation" else ()
        return Tensor(name, rows=layer == "class_embedding", blocks=blocks)

    def sizes(self, arrays: Arrays) -> Fields:
        """The fields that follow from the shapes of the tensors.

        Raises:
            ValueError: a shape that our network cannot have.
        """
        width, channels, *patch = self._shape(arrays, "patches", 4)
        outputs, features = self._shape(arrays, "output")[0], self._shape(arrays, "Dense_0")[1]
        area = patch[0] ** 2
        known = area * channels, 2 * area * channels
        if features != DiT.nf or patch[0] != patch[1] or outputs not in known:
            raise ValueError(
                f"{self.title} with patches of {patch[0]} x {patch[1]} pixels of {channels} "
                f"channels, {features} features of the noise label and {outputs} outputs for a "
                f"patch: known are square patches, {DiT.nf} features, and as many outputs as "
                "inputs or twice as many"
            )
        pattern = re.compile(re.escape(self.blocks) + r"\.(\d+)\.")
        hidden = arrays[f"{self.blocks}.0.{self.block['perceptron.Dense_0']}.weight"].shape[0]
        learned = outputs == known[1]
        return {
            "model.name": "dit",
            "model.patch_size": patch[0],
            "model.hidden_size": width,
            "model.depth": len({m[1] for name in arrays if (m := pattern.match(name))}),
            "model.mlp_ratio": hidden / width,
            "model.class_conditional": True,
            "model.learned_variance": learned,
            "objective.name": "hybrid" if learned else "denoising",
            "data.num_channels": channels,
            "data.dataset": "folder",
            "data.centered": True,
        }

    def classes(self, arrays: Arrays) -> int:
        """Rows of the table of classes."""
        return self._shape(arrays, "class_embedding")[0]

    def _shape(self, arrays: Arrays, layer: str, axes: int = 2) -> tuple[int, ...]:
        array = arrays[f"{self.layers[layer]}.weight"]
        if array.ndim != axes:
            raise ValueError(
                f"{self.title} whose {self.layers[layer]}.weight has the shape {array.shape}: it "
                f"must have {axes} axes"
            )
        return array.shape

    def missing(self, arrays: Mapping[str, Any]) -> list[str]:
        """Names of the layers outside blocks, and of the first block, that are not there."""
        first = {f"{self.blocks}.0.{name}" for name in self.block.values()}
        names = {f"{name}.weight" for name in {*self.layers.values(), *first}}
        return sorted(names - arrays.keys())

    def _check_square(self, skeleton: Skeleton) -> None:
        if skeleton.shape[0] != skeleton.shape[1]:
            raise ValueError(f"{self.title} is of square images, not of {skeleton.shape}")


ORIGINAL_LAYERS = {
    "patches": "x_embedder.proj",
    "Dense_0": "t_embedder.mlp.0",
    "Dense_1": "t_embedder.mlp.2",
    "class_embedding": "y_embedder.embedding_table",
    "modulation": "final_layer.adaLN_modulation.1",
    "output": "final_layer.linear",
}
ORIGINAL_BLOCK = {
    "modulation": "adaLN_modulation.1",
    "attention.query": "attn.qkv",
    "attention.key": "attn.qkv",
    "attention.value": "attn.qkv",
    "attention.out": "attn.proj",
    "perceptron.Dense_0": "mlp.fc1",
    "perceptron.Dense_1": "mlp.fc2",
}


class Original(DiTFormat):
    """A file of facebookresearch/DiT: a dict of tensors, or a checkpoint of its train.py."""

    name = "dit"
    title = "a file of DiT"
    layers = ORIGINAL_LAYERS
    block = ORIGINAL_BLOCK
    blocks = "blocks"
    needed = NEEDED | {
        "shared_embedding": True,
        "attention_bias": True,
        "mlp_epsilon": 1e-6,
        "frequency_shift": 0,
    }
    cards = tuple(
        Card(
            (f"DiT-XL-2-{side}x{side}.*", f"DiT-XL-2-{side}*.pt"),
            f"DiT-XL/2, ImageNet {side} x {side}, class-conditional, in latents",
            "https://github.com/facebookresearch/DiT",
            "CC-BY-NC-4.0",
            f"FID {fid} with guidance 1.5, by 250 steps of DDPM",
            PUBLISHED | {"data.num_classes": 1000, "model.null_class": True},
            commercial=False,
        )
        for side, fid in ((256, "2.27"), (512, "3.04"))
    )

    def find(self, source: Source) -> Found | None:
        content, last, args = source.content, None, None
        if isinstance(content, dict) and {"model", "ema"} <= content.keys():
            content, last, args = content["ema"], content["model"], content.get("args")
        if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
            return None
        content = _without_prefix(content)
        if self.missing(content):
            return None
        arrays = weights.state_dict(content)
        args = args.state if isinstance(args, Record) and isinstance(args.state, dict) else {}
        given = source.options if "num_heads" in source.options else args
        fields = self.sizes(arrays) | {"model.frequency_shift": 0}
        rows = self.classes(arrays)
        known = given.get("num_classes") in (rows, rows - 1)
        named = {"data.num_classes": given["num_classes"] if known else rows - 1}
        named["model.null_class"] = named["data.num_classes"] < rows
        named["model.label_dropout"] = NOISE["model.label_dropout"] * named["model.null_class"]
        fields |= named if known else {}
        if "num_heads" in given:
            fields["model.num_heads"] = given["num_heads"]
        if (table := arrays.get("pos_embed")) is not None:
            fields["data.image_size"] = _side(table, fields)
        width = fields["model.hidden_size"]
        assumed = usual(fields) | named | {"model.num_heads": heads_of(width)}
        last = None if last is None else weights.state_dict(_without_prefix(last))
        return Found(arrays, fields, assumed, last=last, latents=latents(fields))

    def clean(self, arrays: Arrays) -> dict[str, np.ndarray]:
        return {name: array for name, array in arrays.items() if name != "pos_embed"}

    def tensor(self, network: DiT, place: tuple[str, ...]) -> Tensor:
        tensor = super().tensor(network, place)
        joint = ("query", "key", "value")
        if place[-2] in joint:
            return tensor._replace(part=joint.index(place[-2]), heads=network.num_heads)
        return tensor

    def constants(self, skeleton: Skeleton) -> dict[str, np.ndarray]:
        network: Any = skeleton.network
        return {"pos_embed": _positions(skeleton.shape[0], network)}

    def options(self, skeleton: Skeleton, fields: Fields) -> dict[str, Any]:
        self._check_square(skeleton)
        network: Any = skeleton.network
        dropout = fields.get("model.label_dropout") or NOISE["model.label_dropout"]
        return {
            "input_size": skeleton.shape[0],
            "patch_size": network.patch_size,
            "in_channels": skeleton.shape[-1],
            "hidden_size": network.hidden_size,
            "depth": network.depth,
            "num_heads": network.num_heads,
            "mlp_ratio": network.mlp_ratio,
            "class_dropout_prob": dropout if network.null_class else 0.0,
            "num_classes": network.num_classes,
            "learn_sigma": network.learned_variance,
        }


def usual(fields: Fields) -> Fields:
    """The noise and the sampler of the published models, for a network with these fields."""
    variance = "learned" if fields["model.learned_variance"] else "posterior"
    sampler = {"sampling.method": "ddpm", "sampling.n_steps": 250, "sampling.variance": variance}
    return NOISE | sampler


def latents(fields: Fields, scale: float = SCALE) -> Latents:
    """The normalisation of the latents that a DiT knows: they are multiplied by a scale."""
    channels = fields["data.num_channels"]
    return Latents((0.0,) * channels, (1 / scale,) * channels)


def _without_prefix(content: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("module."): array for name, array in content.items()}


def heads_of(width: int) -> int:
    """The heads that are usual for a width: the published number, or of 64 or 72 channels."""
    others = (width // size for size in (64, 72) if width % size == 0)
    return HEADS.get(width) or next(others, 1)


def _side(table: np.ndarray, fields: Fields) -> int:
    """The side of the latents, from the table of positions.

    Raises:
        ValueError: the table is not the fixed one of our network.
    """
    patch, width = fields["model.patch_size"], fields["model.hidden_size"]
    patches = math.isqrt(table.shape[1]) if table.ndim == 3 else 0
    fixed = position_embedding((patches, patches), width)[None]
    if table.shape != fixed.shape or not np.allclose(table, fixed, rtol=0, atol=1e-3):
        raise ValueError(
            "a file of DiT whose pos_embed is not the fixed table of sines and cosines for square "
            "latents: our network has this table alone"
        )
    return patch * patches


def _positions(side: int, network: Any) -> np.ndarray:
    patches = side // network.patch_size
    return position_embedding((patches, patches), network.hidden_size)[None]
