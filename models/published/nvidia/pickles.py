"""The common parts of EDM's and EDM2's files: pickles of networks, and names of their blocks."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from models import weights
from models.published.base import Arrays, Fields, Skeleton
from models.weights import Record

FIRST = re.compile(r"(?P<prefix>.*?)enc\.(?P<side>\d+)x\d+_conv\.weight")
LICENSE = "CC-BY-NC-SA-4.0"
LOSSES = ("EDMLoss", "EDM2Loss")


def averaged(content: Any) -> Any:
    """The averaged network in a file's content; other content as it is."""
    ema = content.get("ema") if isinstance(content, dict) else None
    return ema if isinstance(ema, dict) or weights.is_module(ema) else content


def named_arrays(content: Any) -> dict[str, np.ndarray]:
    """The arrays of a network by name; none of what is no network."""
    try:
        return weights.state_dict(content)
    except ValueError:
        return {}


def prefix(arrays: Arrays) -> str | None:
    """The prefix of the names of the U-Net's blocks; None if there are no such blocks."""
    matches = (FIRST.fullmatch(name) for name in arrays)
    return next((match["prefix"] for match in matches if match), None)


def without_prefix(arrays: Arrays, start: str) -> dict[str, np.ndarray]:
    """The arrays by names without a prefix, where they have it."""
    return {name.removeprefix(start): array for name, array in arrays.items()}


def arguments(record: Record, known: Mapping[str, Any]) -> Fields:
    """The arguments of a constructor that a pickle holds, and the attributes of their names.

    Args:
        record: the object that the constructor made.
        known: the constructor's arguments in their order, with their defaults.
    """
    attributes = {name: value for name, value in record.state.items() if name in known}
    return attributes | dict(zip(known, record.args or (), strict=False)) | record.kwargs


def check_known(network: str, given: Fields, known: Mapping[str, Any]) -> None:
    """Raises ValueError for arguments of a network in a pickle that are not among those known."""
    if unknown := sorted(given.keys() - known.keys()):
        raise ValueError(
            f"the network {network} in the file has the options {', '.join(unknown)}, which are "
            "not known here"
        )


def symmetric(taps: Sequence[float]) -> tuple[float, ...]:
    """A resampling filter. Raises ValueError unless it is symmetric, and of an even length."""
    if len(taps) % 2 or list(taps) != list(taps)[::-1]:
        raise ValueError(
            f"the network's resample_filter is {list(taps)}: here filters are symmetric, and of an "
            "even length"
        )
    return tuple(taps)


def check_heads(skeleton: Skeleton, per_head: int) -> None:
    """Raises ValueError unless attention has the heads of NVIDIA's networks, one or more a level.

    Theirs have as many as `per_head` channels fit in, and no attention where not even one does.
    """
    network = skeleton.network
    for level, mult in enumerate(network.ch_mult):
        width, side = network.nf * mult, skeleton.shape[0] >> level
        deepest = level == len(network.ch_mult) - 1
        heads = max(width // network.num_head_channels, 1)
        if (deepest or side in network.attn_resolutions) and heads != width // per_head:
            raise ValueError(
                f"config.model.num_head_channels is {network.num_head_channels}, which is one head "
                f"or more for {width} channels: here it must make {width // per_head}"
            )


def part(record: Any, name: str) -> Record | None:
    """The Record of a module inside of a module in a pickle."""
    module = record.state["_modules"].get(name) if weights.is_module(record) else None
    return module if weights.is_module(module) else None


def unet(arrays: Arrays, convolution: str, attention: str) -> Fields:
    """Arguments of a U-Net that its arrays tell by their names and shapes.

    Args:
        arrays: by names without a prefix.
        convolution: name of a block's convolution to its output channels.
        attention: name of an attention's first layer.

    Raises:
        ValueError: there is no decoder, or no attention in its middle.
    """
    first = next(name for name in arrays if FIRST.fullmatch(name))
    pattern = re.compile(rf"dec\.(\d+)x\d+_block(\d+)\.{convolution}\.weight")
    blocks = [match for match in map(pattern.fullmatch, arrays) if match]
    if not blocks:
        raise ValueError(
            f"the file holds a U-Net ({first}) without blocks of a decoder: give a whole network"
        )
    widths = {int(match[1]): len(arrays[match[0]]) for match in blocks}
    sides = sorted(widths, reverse=True)
    middle = [name for name in arrays if name.startswith(f"dec.{sides[-1]}x{sides[-1]}_in0.")]
    if middle and not any("qkv" in name or "proj" in name for name in middle):
        raise ValueError(
            "the network has no attention at its last level, which has fewer channels than one "
            "head: such a network is not known here"
        )
    attended = re.compile(rf"dec\.(\d+)x\d+_block\d+\.{attention}\.weight")
    found = {int(match[1]) for match in map(attended.fullmatch, arrays) if match}
    width = math.gcd(len(arrays[first]), *widths.values())
    return {
        "img_resolution": int(FIRST.fullmatch(first)["side"]),  # pyright: ignore
        "img_channels": arrays[first].shape[1],
        "model_channels": width,
        "channel_mult": [widths[side] // width for side in sides],
        "num_blocks": max(int(match[2]) for match in blocks),
        "attn_resolutions": sorted(found, reverse=True),
    }


def image_fields(options: Fields) -> Fields:
    """Config fields of the data, the SDE and the sampler, which EDM and EDM2 share."""
    classes = int(options["label_dim"] or 0)
    return {
        "data.dataset": "folder",
        "data.image_size": int(options["img_resolution"]),
        "data.num_channels": int(options["img_channels"]),
        "data.num_classes": classes,
        "data.centered": True,
        "model.class_conditional": classes > 0,
        "model.nf": int(options["model_channels"]),
        "model.ch_mult": tuple(map(int, options["channel_mult"])),
        "model.num_res_blocks": int(options["num_blocks"]),
        "model.attn_resolutions": tuple(options["attn_resolutions"]),
        "training.sde": "edm",
        "training.continuous": True,
        "sampling.method": "edm",
    }


def training_fields(content: Any) -> Fields:
    """Config fields of EDM's training: its loss, with the numbers in a file's content if any."""
    fields: Fields = {
        "data.uniform_dequantization": False,
        "noise_density.name": "log_normal",
        "weighting.name": "edm",
    }
    loss = content.get("loss_fn") if isinstance(content, dict) else None
    if isinstance(loss, Record) and loss.name in LOSSES and isinstance(loss.state, dict):
        given = arguments(loss, {"P_mean": None, "P_std": None})
        names = {"P_mean": "noise_density.mean", "P_std": "noise_density.std"}
        fields |= {field: float(given[name]) for name, field in names.items() if name in given}
    return fields
