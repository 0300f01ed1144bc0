"""Names and shapes of OpenAI's U-Nets and encoders: improved-diffusion and its descendants.

time_embed.{0,2}, label_emb
input_blocks.0.0                     the first convolution
input_blocks.N.{0,1}                 a block and its attention; a shrinking between two levels
middle_block.{0,1,2}                 block, attention, block
output_blocks.N.{0,1,2}              a block, its attention; a growing ends a level
out.N                                normalisation and convolution; pooling in an encoder
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from models import weights
from models.adm_blocks import ADMNetwork
from models.published.base import Arrays, Fields, Location, Source, Tensor

BLOCK = {
    "GroupNorm_0": "in_layers.0",
    "Conv_0": "in_layers.2",
    "Dense_0": "emb_layers.1",
    "GroupNorm_1": "out_layers.0",
    "Conv_1": "out_layers.3",
    "Conv_2": "skip_connection",
}
JOINT = ("NIN_0", "NIN_1", "NIN_2")  # queries, keys and values
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
POOLED = "out.3"  # the last layer of the pool "adaptive", a convolution of one pixel
GROUPS = 32


class Names(dict[str, str]):
    """The published name of each layer of our network, by the layer's own name.

    Layers are added in the order in which the network makes them: each class has its own numbers.
    """

    def __init__(self, network: ADMNetwork, height: int):
        """Adds the layers that a U-Net and an encoder share."""
        super().__init__(class_embedding="label_emb")
        self.numbers: Counter[str] = Counter()
        self.network, self.height = network, height
        for name in ("time_embed.0", "time_embed.2"):
            self.add("Dense", name)
        self.add("Conv", "input_blocks.0.0")
        n = 1
        for level in range(len(network.ch_mult)):
            if level:
                self.add_resampling(f"input_blocks.{n}.0", "op")
            first = n + bool(level)
            n = first + network.num_res_blocks
            for i in range(first, n):
                self.add_block(f"input_blocks.{i}", level)
        for number, kind in enumerate(("ADMBlock", "Attention", "ADMBlock")):
            self.add(kind, f"middle_block.{number}")

    def add(self, kind: str, name: str) -> None:
        self[f"{kind}_{self.numbers[kind]}"] = name
        self.numbers[kind] += 1

    def add_block(self, name: str, level: int) -> int:
        """Adds a block, and the attention that follows it; the number of both."""
        self.add("ADMBlock", f"{name}.0")
        if attends := self.network.attends(level, self.height >> level):
            self.add("Attention", f"{name}.1")
        return 1 + attends

    def add_resampling(self, name: str, conv: str) -> None:
        if self.network.resblock_updown:
            self.add("ADMBlock", name)
        elif self.network.conv_resample:
            self.add("Conv", f"{name}.{conv}")


def table(
    names: Mapping[str, str],
    network: ADMNetwork,
    shapes: Mapping[Location, jax.ShapeDtypeStruct],
    order: str,
    window: int = 1,
) -> dict[Location, Tensor]:
    """The published tensor of every parameter.

    Args:
        names: of the layers.
        network: that has them.
        shapes: of its parameters.
        order: of the rows of joint layers (Tensor.order).
        window: trailing axes of attention's layers.
    """

    def joint(
        layer: str, last: str, qkv: str, out: str, channels: int, heads: int, order: str
    ) -> Tensor:
        axes = int(last == "weight")
        if layer not in JOINT:
            return Tensor(f"{out}.{last}", axes)
        heads = network.n_heads(channels, heads)
        return Tensor(f"{qkv}.{last}", axes, JOINT.index(layer), order, heads)

    def tensor(layer: str, inner: tuple[str, ...], kind: str, channels: int) -> Tensor:
        name, last = names[layer], LEAVES.get(kind, kind)
        if layer.startswith("ADMBlock"):
            return Tensor(f"{name}.{BLOCK[inner[0]]}.{last}")
        if layer.startswith("AttentionPool"):
            if not inner:
                return Tensor(f"{name}.positional_embedding")
            return joint(inner[0], last, f"{name}.qkv_proj", f"{name}.c_proj", channels, 0, "phc")
        if layer.startswith("Attention"):
            if inner[0] == "GroupNorm_0":
                return Tensor(f"{name}.norm.{last}")
            up = name.startswith("output_blocks") and getattr(network, "heads_upsample", 0)
            about = channels, up or network.heads, order
            made = joint(inner[0], last, f"{name}.qkv", f"{name}.proj_out", *about)
            return made._replace(window=window * (last == "weight"))
        square = last == "weight" and name == POOLED and getattr(network, "pool", "") == "adaptive"
        return Tensor(f"{name}.{last}", 2 * square, rows=layer == "class_embedding")

    return {
        place: tensor(place[0], place[1:-1], place[-1], leaf.shape[-1])
        for place, leaf in shapes.items()
    }


def arrays_of(source: Source) -> Arrays | None:
    """The tensors of a file by name without the prefix "module."; None if it is of another kind."""
    content = source.content
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        return None
    content = {name.removeprefix("module."): array for name, array in content.items()}
    first = {"time_embed.0.weight", "input_blocks.0.0.weight", "middle_block.0.in_layers.0.weight"}
    return weights.state_dict(content) if first <= content.keys() else None


def fields(arrays: Arrays) -> tuple[Fields, Fields]:
    """The fields of ADMNetwork that follow from the tensors, and those that are only likely.

    Raises:
        ValueError: the blocks are not those of levels that are alike.
    """
    try:
        return _fields(arrays)
    except (LookupError, TypeError, ZeroDivisionError) as error:
        raise ValueError(
            "a file of guided-diffusion whose blocks do not make levels of equally many blocks: "
            f"give a file of its UNetModel or EncoderUNetModel ({error})"
        ) from error


def _fields(arrays: Arrays) -> tuple[Fields, Fields]:
    inputs = entries(arrays, "input_blocks")
    convs = [n for n, names in inputs.items() if "0.op.weight" in names]
    gaps = sorted(set(range(max(inputs))) - inputs.keys())  # pooling has no weights
    found = list(_structures(arrays, inputs, convs or gaps))
    levels, n_blocks = found[0]
    firsts = [1 + level * (n_blocks + 1) for level in range(levels)]  # first blocks of the levels
    widths = [inputs[n]["0.in_layers.2.weight"].shape[0] for n in firsts]
    embedding, features = arrays["time_embed.0.weight"].shape
    nf = math.gcd(features, *widths)
    first = arrays["input_blocks.0.0.weight"].shape[0]
    block = inputs[1]
    modulated = block["0.emb_layers.1.weight"].shape[0] == 2 * widths[0]
    structure = {
        "model.ch_mult": tuple(width // nf for width in widths),
        "model.num_res_blocks": n_blocks,
        "model.attn_factors": tuple(
            2**level for level, n in enumerate(firsts) if "1.qkv.weight" in inputs[n]
        ),
    }
    certain = {
        "model.nf": nf,
        "model.in_nf": 0 if first == nf else first,
        "model.noise_features": 0 if features == nf else features,
        "model.embedding_features": 0 if embedding == 4 * nf else embedding,
        "model.attn_resolutions": (),
        "model.use_scale_shift_norm": modulated,
        "model.resblock_updown": not (convs or gaps),
        "model.conv_resample": bool(convs) or not gaps,
        "model.group_size": 1,
        "data.num_channels": arrays["input_blocks.0.0.weight"].shape[1],
        "data.centered": True,
        "data.dataset": "folder",
    }
    heads = {"model.heads": 4 if convs or gaps else 0, "model.num_head_channels": 64}
    if len(found) > 1:
        return certain, heads | structure
    return certain | structure, heads


def entries(arrays: Arrays, part: str) -> dict[int, dict[str, np.ndarray]]:
    """The tensors of each entry of a list of blocks, by the rest of their names."""
    found: dict[int, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        if match := re.fullmatch(rf"{part}\.(\d+)\.(.+)", name):
            found.setdefault(int(match[1]), {})[match[2]] = array
    return found


def _structures(
    arrays: Arrays, inputs: Mapping[int, Mapping[str, Any]], shrinkings: list[int]
) -> Iterator[tuple[int, int]]:
    """The numbers of levels and of blocks in each that the blocks can have.

    Blocks that shrink look like others. A U-Net's blocks that grow are in places of their own; in
    an encoder, neither attention nor more channels come with a block that shrinks.
    """
    last, outputs = max(inputs), entries(arrays, "output_blocks")
    if shrinkings:
        levels = len(shrinkings) + 1
        yield levels, (last - len(shrinkings)) // levels
        return
    if outputs:
        after = {f"{i}.in_layers.0.weight" for i in (1, 2)}
        growings = [n for n, names in outputs.items() if names.keys() & after]
        n_blocks = min(growings, default=last)
        yield (last + 1) // (n_blocks + 1), n_blocks
        return
    fits = 0
    for n_blocks in range(1, last + 1):
        levels, rest = divmod(last + 1, n_blocks + 1)
        if not rest and _alike(inputs, levels, n_blocks):
            fits += 1
            yield levels, n_blocks
    if not fits:
        raise LookupError("no number of levels fits")


def _alike(inputs: Mapping[int, Mapping[str, Any]], levels: int, n_blocks: int) -> bool:
    """True if each level has one width and attention everywhere or nowhere."""
    special = "0.skip_connection.weight", "1.qkv.weight"
    for level in range(levels):
        first = 1 + level * (n_blocks + 1)
        blocks = [inputs[first + i] for i in range(n_blocks)]
        widths = {block["0.in_layers.2.weight"].shape for block in blocks[1:]}
        attends = {special[1] in block for block in blocks}
        widens = any(special[0] in block for block in blocks[1:])
        shrinks = level and any(name in inputs[first - 1] for name in special)
        if len(widths) > 1 or len(attends) > 1 or widens or shrinks:
            return False
    return True


def told(options: Mapping[str, Any]) -> Fields:
    """The fields that the original's arguments tell, of a file that comes with them."""
    if not isinstance(options.get("model_channels"), int):
        return {}
    heads, channels = options.get("num_heads", 1), options.get("num_head_channels", -1)
    up = options.get("num_heads_upsample", -1)
    found = {"model.heads": heads if channels == -1 else 0}
    if channels != -1:
        found["model.num_head_channels"] = channels
    elif up != -1:
        found["model.heads_upsample"] = up
    return found | {
        "model.use_new_attention_order": options.get("use_new_attention_order", False),
        "model.dropout": float(options.get("dropout", 0)),
        "data.image_size": options["image_size"],
    }


def options(network: ADMNetwork, height: int) -> Fields:
    """The arguments that UNetModel and EncoderUNetModel share.

    Raises:
        ValueError: the original program has no such network.
    """
    features = network.noise_features or network.nf
    widths = [network.nf * mult for mult in network.ch_mult]
    attends = [n for n in range(len(widths)) if network.attends(n, height >> n)]
    attention = {widths[n] for n in attends} | {widths[-1]}
    reasons = {
        "the first convolution has other channels than the first level": (
            (network.in_nf or network.nf) != widths[0]
        ),
        f"the label embedding has other features than {4 * features}": (
            (network.embedding_features or 4 * network.nf) != 4 * features
        ),
        f"normalisation is not in {GROUPS} groups": min(widths) // network.group_size < GROUPS,
        f"{network.num_head_channels} channels of a head do not divide those of its levels": (
            not network.heads and any(w % network.num_head_channels for w in attention)
        ),
    }
    if found := [reason for reason, holds in reasons.items() if holds]:
        raise ValueError(f"guided-diffusion has no such network: {'; '.join(found)}")
    mults = [width / features for width in widths]
    return {
        "image_size": height,
        "model_channels": features,
        "num_res_blocks": network.num_res_blocks,
        "attention_resolutions": tuple(2**n for n in attends),
        "dropout": network.dropout,
        "channel_mult": tuple(int(m) if m == int(m) else m for m in mults),
        "conv_resample": network.conv_resample,
        "num_heads": network.heads or 1,
        "num_head_channels": -1 if network.heads else network.num_head_channels,
        "use_scale_shift_norm": network.use_scale_shift_norm,
        "resblock_updown": network.resblock_updown,
        "use_new_attention_order": network.use_new_attention_order,
    }
