"""Format of EDM's networks (Karras et al. 2022): DDPM++, NCSN++ and ADM, by NVIDIA's names."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from models.adm import ADM
from models.parametrization import iddpm_levels
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
from models.published.nvidia import edm_options, pickles

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
}
ATTENTION = {"GroupNorm_0": "norm2", "NIN_3": "proj"}
SINGLE = {"Conv_0": "", "Conv2d_0": ""}  # layers of ours that are a single convolution in EDM
INSIDE = {"Attention": ATTENTION, "Combine": SINGLE, "Downsample": SINGLE}
JOINT = ("NIN_0", "NIN_1", "NIN_2")  # queries, keys and values
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "W": "freqs"}
SOURCE = "https://nvlabs-fi-cdn.nvidia.com/edm/pretrained/"
STOCHASTIC: Fields = {  # of ImageNet: Karras et al. 2022, Table 5
    "sampling.n_steps": 256,
    "sampling.s_churn": 40.0,
    "sampling.s_tmin": 0.05,
    "sampling.s_tmax": 50.0,
    "sampling.s_noise": 1.003,
}


def _cards() -> Iterator[Card]:
    """The published models, with the figures of Karras et al. 2022, Table 2 (A and F)."""
    networks = {"vp": "DDPM++", "ve": "NCSN++"}
    steps = {"cifar10-32x32": 18, "ffhq-64x64": 40, "afhqv2-64x64": 40}
    for data, figures, old_figures in (
        ("cifar10-32x32-uncond", (1.97, 1.98), (3.01, 3.77)),
        ("cifar10-32x32-cond", (1.79, 1.79), (2.48, 3.11)),
        ("ffhq-64x64-uncond", (2.39, 2.53), (3.39, 25.95)),
        ("afhqv2-64x64-uncond", (1.96, 2.16), (2.58, 18.52)),
    ):
        fields = {"sampling.n_steps": steps[data.rpartition("-")[0]]}
        for i, (name, network) in enumerate(networks.items()):
            about = f"{network}, {data}"
            yield _card(f"edm-{data}-{name}", f"{about}, EDM's training", figures[i], fields)
            about += ", Song et al.'s training"
            yield _card(f"baseline-{data}-{name}", about, old_figures[i], fields, "baseline/")
    name = "imagenet-64x64-cond-adm"
    yield _card(f"edm-{name}", f"ADM, {name}, EDM's training", 1.36, STOCHASTIC)
    about = f"ADM, {name}, Dhariwal & Nichol's training"
    old = STOCHASTIC | {"sampling.s_churn": 80.0}
    yield _card(f"baseline-{name}", about, 1.55, old, "baseline/")


def _card(name: str, model: str, fid: float, fields: Fields, folder: str = "") -> Card:
    source = f"{SOURCE}{folder}{name}.pkl"
    figure = f"FID {fid}"
    return Card((f"{name}.pkl",), model, source, pickles.LICENSE, figure, fields, commercial=False)


class EDM(Format):
    """A network of EDM, from a pickle or from its arrays."""

    name = "edm"
    title = "a network of EDM"
    cards = tuple(_cards())

    def find(self, source: Source) -> Found | None:
        content = pickles.averaged(source.content)
        arrays = pickles.named_arrays(content)
        start = pickles.prefix(arrays)
        if start is None or f"{start}map_layer0.weight" not in arrays:
            return None
        told = edm_options.told(pickles.without_prefix(arrays, start))
        # Levels of fewer channels than a head have no attention, whatever the arguments say.
        attended = {"attn_resolutions": told["attn_resolutions"]}
        written = source.options if "precond" in source.options else {}
        given = told | dict(written) | edm_options.recorded(content) | attended
        fields, untold = edm_options.config_fields(given)
        side = fields["data.image_size"]
        assumed = untold | {"sampling.n_steps": 18 if side <= 32 else 40}
        return Found(arrays, fields | pickles.training_fields(source.content), assumed)

    def clean(self, arrays: Arrays) -> dict[str, np.ndarray]:
        """The tensors without the prefix, such as "model.", and the filters of resampling."""
        kept = pickles.without_prefix(arrays, pickles.prefix(arrays) or "model.")
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
            kind = layer.rpartition("_")[0]
            attention = kind == "Attention"
            joint = attention and modules[0] in JOINT
            inside = INSIDE.get(kind, BLOCK)
            own = ["qkv"] if joint else [inside[module] for module in modules]
            name = ".".join(filter(None, [prefixes[layer], *own, LEAVES[leaf]]))
            # EDM's attention layers are 1 x 1 convolutions.
            window = 2 if attention and leaf == "kernel" else 0
            part = JOINT.index(modules[0]) if joint else None
            table[layer, *modules, leaf] = Tensor(name, window, part, order="hcp")
        return table

    def options(self, skeleton: Skeleton, fields: Fields) -> dict[str, Any]:
        """The arguments of the preconditioning ("precond") and of the network ("model_type")."""
        return edm_options.arguments(skeleton, fields)

    def constants(self, skeleton: Skeleton) -> dict[str, np.ndarray]:
        """The resampling filters, which are buffers of every layer that resamples."""
        network: Any = skeleton.network
        taps = network.fir_kernel if getattr(network, "fir", False) else (1, 1)
        taps = np.asarray(taps, np.float32)
        kernel = np.outer(taps, taps)[None, None] / np.square(taps.sum())
        deepest, grows = _sides(skeleton)[-1], getattr(network, "progressive", "none") != "none"
        names = []
        for block in _blocks(skeleton):
            side, _, kind = block.partition("_")
            if kind in ("down", "up"):
                names += [f"{block}.conv0", f"{block}.skip"]
            elif kind == "aux_residual":
                names.append(block)
            elif kind == "aux_skip":
                names.append(f"{side}_aux_down")
            elif kind == "aux_conv" and side != f"dec.{deepest}x{deepest}" and grows:
                names.append(f"{side}_aux_up")
        return {f"{name}.resample_filter": kernel for name in names}

    def write(self, folder: Path, arrays: Arrays, options: dict[str, Any], about: About) -> Path:
        """Writes the state dict of the preconditioning class that options["precond"] names."""
        inside = {f"model.{name}": array for name, array in arrays.items()}
        if options["precond"] == "iDDPMPrecond":
            inside["u"] = iddpm_levels()[::-1].astype(np.float32)
        return super().write(folder, inside, options, about)


def _sides(skeleton: Skeleton) -> list[int]:
    """The sides of the levels' images."""
    return [skeleton.shape[0] >> level for level in range(len(skeleton.network.ch_mult))]


def _blocks(skeleton: Skeleton) -> Iterator[str]:
    """EDM's names of the network's blocks, in calling order."""
    edm_options.check_network(skeleton.network)
    network, sides = skeleton.network, _sides(skeleton)
    adm = isinstance(network, ADM)
    aux = getattr(network, "progressive_input", "none").removeprefix("input_")
    for level, side in enumerate(sides):
        start = f"enc.{side}x{side}"
        yield f"{start}_down" if level else f"{start}_conv"
        if level and aux != "none":
            yield f"{start}_aux_{aux}"
        yield from (f"{start}_block{i}" for i in range(network.num_res_blocks))
    for side in reversed(sides):
        start = f"dec.{side}x{side}"
        for name in ("in0", "in1") if side == sides[-1] else ("up",):
            yield f"{start}_{name}"
        yield from (f"{start}_block{i}" for i in range(network.num_res_blocks + 1))
        if not adm and (side == sides[0] or network.progressive == "output_skip"):
            yield from (f"{start}_aux_norm", f"{start}_aux_conv")
    if adm:
        yield from ("out_norm", "out_conv")
