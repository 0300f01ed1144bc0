"""Format of EDM's networks (Karras et al. 2022): DDPM++, NCSN++ and ADM, by NVIDIA's names."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from models.adm import ADM
from models.published.base import Arrays, Format, Found, Skeleton, Source, Table, Tensor

NCSNPP = {
    "conditional": True,
    "skip_rescale": True,
    "resblock_type": "biggan",
    "progressive": "none",
    "nonlinearity": "swish",
    "log_labels": False,
    "scale_by_sigma": False,
}
EMBEDDING = {
    "FourierEmbedding_0": "map_noise",
    "class_embedding": "map_label",
    "augment_embedding": "map_augment",
    "Dense_0": "map_layer0",
    "Dense_1": "map_layer1",
}
BLOCK = {
    "GroupNorm_0": "norm0",
    "Conv_0": "conv0",
    "Dense_0": "affine",
    "GroupNorm_1": "norm1",
    "Conv_1": "conv1",
    "Conv_2": "skip",
    "Conv2d_0": "",  # Downsample, which is a single convolution in EDM
}
ATTENTION = {"GroupNorm_0": "norm2", "NIN_3": "proj"}
JOINT = ("NIN_0", "NIN_1", "NIN_2")  # queries, keys and values
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "W": "freqs"}


class EDM(Format):
    """A network of EDM, from a pickle or from its arrays."""

    name = "edm"
    title = "a network of EDM"

    def find(self, source: Source) -> Found | None:
        return None

    def clean(self, arrays: Arrays) -> dict[str, np.ndarray]:
        """The tensors without the prefix "model." and the filters of resampling."""
        kept = {name.removeprefix("model."): array for name, array in arrays.items()}
        return {k: v for k, v in kept.items() if k != "u" and not k.endswith("resample_filter")}

    def table(self, skeleton: Skeleton) -> Table:
        blocks = _blocks(skeleton)
        prefixes, block = {}, ""
        for layer in skeleton.calls:
            if layer not in EMBEDDING and not layer.startswith("Attention"):
                block = next(blocks)
            prefixes[layer] = EMBEDDING.get(layer, block)
        table = {}
        for layer, *modules, leaf in skeleton.shapes:
            attention = layer.startswith("Attention")
            joint = attention and modules[0] in JOINT
            inside = ATTENTION if attention else BLOCK
            own = ["qkv"] if joint else [inside[module] for module in modules]
            name = ".".join(filter(None, [prefixes[layer], *own, LEAVES[leaf]]))
            # EDM's attention layers are 1 x 1 convolutions.
            window = 2 if attention and leaf == "kernel" else 0
            part = JOINT.index(modules[0]) if joint else None
            table[layer, *modules, leaf] = Tensor(name, window, part, order="hcp")
        return table


def _blocks(skeleton: Skeleton) -> Iterator[str]:
    """EDM's names of the network's blocks, in calling order."""
    network: Any = skeleton.network
    adm, residual = isinstance(network, ADM), getattr(network, "fir", False)
    fields = {} if adm else NCSNPP | {"progressive_input": "residual" if residual else "none"}
    other = {name: value for name, value in fields.items() if getattr(network, name, None) != value}
    if other:
        raise ValueError(
            f"the network {type(network).__name__} with these fields is none of EDM's: set config."
            f"model.name='adm', or 'ncsnpp' with {other}"
        )
    sides = [skeleton.shape[0] >> level for level in range(len(network.ch_mult))]
    sides = [f"{side}x{side}" for side in sides]
    for level, side in enumerate(sides):
        yield f"enc.{side}_down" if level else f"enc.{side}_conv"
        if level and residual:
            yield f"enc.{side}_aux_residual"
        yield from (f"enc.{side}_block{i}" for i in range(network.num_res_blocks))
    for side in reversed(sides):
        inner = ("in0", "in1") if side == sides[-1] else ("up",)
        yield from (f"dec.{side}_{name}" for name in inner)
        yield from (f"dec.{side}_block{i}" for i in range(network.num_res_blocks + 1))
    last = "out" if adm else f"dec.{sides[0]}_aux"
    yield from (f"{last}_norm", f"{last}_conv")
