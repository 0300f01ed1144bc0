"""Format of diffusers' U-Nets, UNet2DModel: a folder, with its scheduler where it is a pipeline."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from models import weights
from models.published.autoencoder import SCALE
from models.published.base import (
    About,
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
from models.published.diffusers import folders, schedulers
from models.unet2d import UNet2D

VERSION = "0.42.0"  # of the library whose configs these are
LISTS = "down_blocks|up_blocks|resnets|attentions|downsamplers|upsamplers|to_out"
LEAVES = {"kernel": "weight", "scale": "weight"}
ACTIVATIONS = {"silu": "swish"} | {name: name for name in ("swish", "gelu", "mish", "relu")}
DEFAULTS: dict[str, Any] = {  # of UNet2DModel, for options that a config.json lacks
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ("DownBlock2D", *["AttnDownBlock2D"] * 3),
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": (*["AttnUpBlock2D"] * 3, "UpBlock2D"),
    "block_out_channels": (224, 448, 672, 896),
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
    "num_train_timesteps": None,
}
COUNTS = (  # None is 0 here
    *("time_embedding_dim", "attention_head_dim", "norm_num_groups", "attn_norm_num_groups"),
    "num_train_timesteps",
)
SAME = (  # options with the same name and value here
    *("layers_per_block", "add_attention", "norm_eps", "downsample_padding"),
    *("resnet_time_scale_shift", "time_embedding_type", "flip_sin_to_cos", "freq_shift", "dropout"),
)
LISTED = ("block_out_channels", "down_block_types", "up_block_types")


class Diffusers(Format):
    """A UNet2DModel of diffusers."""

    name = "diffusers"
    title = "a UNet2DModel of diffusers"
    cards = (
        Card(
            ("*ddpm-cifar10-32",),
            "DDPM, CIFAR-10",
            "https://huggingface.co/google/ddpm-cifar10-32",
            "Apache-2.0",
            "FID 3.17 of the paper",
        ),
        *(
            Card(
                (f"*ddpm-{name}-256", f"*ddpm-ema-{name}-256"),
                f"DDPM, {data} 256 x 256",
                f"https://huggingface.co/google/ddpm-{name}-256",
                "Apache-2.0",
                figure,
            )
            for name, data, figure in (
                ("celebahq", "CelebA-HQ", ""),
                ("church", "LSUN church", "FID 7.89 of the paper"),
                ("bedroom", "LSUN bedroom", "FID 6.36 of the paper"),
                ("cat", "LSUN cat", "FID 19.75 of the paper"),
            )
        ),
        *(
            Card(
                (f"*ncsnpp-{name}",),
                f"NCSN++ (VE, continuous), {data}",
                f"https://huggingface.co/google/ncsnpp-{name}",
                "Apache-2.0",
            )
            for name, data in (
                ("celebahq-256", "CelebA-HQ 256 x 256"),
                ("ffhq-256", "FFHQ 256 x 256"),
                ("ffhq-1024", "FFHQ 1024 x 1024"),
                ("church-256", "LSUN church 256 x 256"),
                ("bedroom-256", "LSUN bedroom 256 x 256"),
            )
        ),
    )

    def find(self, source: Source) -> Found | None:
        if source.options.get("_class_name") != "UNet2DModel":
            return None
        options = DEFAULTS | {k: v for k, v in source.options.items() if k in DEFAULTS}
        network, assumed = _network(options)
        UNet2D(**network)  # checks its fields
        fields = {f"model.{name}": value for name, value in network.items()}
        fields |= {"model.name": "unet2d", "data.dataset": "folder"}
        fields |= _data(options)
        learned = options["out_channels"] == 2 * options["in_channels"]
        fields |= {"model.learned_variance": learned}
        fields["objective.name"] = "hybrid" if learned else "denoising"
        latents = _latents(source, options)
        scheduler = source.parts.get("scheduler")
        noise = schedulers.fields(scheduler or _usual(options, learned))
        _check_scheduler(noise, network, learned)
        fields, assumed = (fields | noise, assumed) if scheduler else (fields, assumed | noise)
        arrays = weights.state_dict(source.content)
        return Found(arrays, fields, assumed, latents=latents)

    def clean(self, arrays: Arrays) -> dict[str, np.ndarray]:
        """The tensors by today's names."""
        named = {
            folders.today(name): array for name, array in arrays.items() if name != "time_proj.W"
        }
        if "time_proj.W" in arrays:  # files of 2022 have it twice
            named.setdefault("time_proj.weight", arrays["time_proj.W"])
        return named

    def table(self, skeleton: Skeleton) -> Table:
        if not isinstance(skeleton.network, UNet2D):
            raise ValueError(
                f"the network {type(skeleton.network).__name__} is no UNet2DModel: diffusers has "
                "nothing like it; of ours, config.model.name = 'unet2d' is the one"
            )
        table = {}
        for location in skeleton.shapes:
            *modules, leaf = location
            theirs = [re.sub(rf"^({LISTS})_(\d+)$", r"\1.\2", module) for module in modules]
            name = ".".join([*theirs, LEAVES.get(leaf, leaf)] if modules else [leaf, "weight"])
            table[location] = Tensor(name, rows=location == ("class_embedding", "kernel"))
        return table

    def options(self, skeleton: Skeleton, fields: Fields) -> dict[str, Any]:
        self.table(skeleton)
        network: Any = skeleton.network
        theirs = {ours: name for name, ours in reversed(ACTIVATIONS.items())}
        channels = skeleton.shape[-1]
        skips = any("Skip" in k for k in (*network.down_block_types, *network.up_block_types))
        problem = ""
        if network.nonlinearity not in theirs:
            problem = f"config.model.nonlinearity = {network.nonlinearity!r}"
        elif skips and (channels, network.learned_variance) != (3, False):
            problem = f"blocks with Skip and {channels} channels or a learned variance"
        elif len(skeleton.shape) != 3 or skeleton.shape[0] != skeleton.shape[1]:
            problem = f"data of the shape {skeleton.shape}"
        schedulers.write(fields)  # refuses an SDE that has none
        if problem:
            raise ValueError(f"{problem}: {self.title} cannot have that, so it cannot be written")
        return {
            "_class_name": "UNet2DModel",
            "_diffusers_version": VERSION,
            **{name: getattr(network, name) for name in SAME},
            **{name: list(getattr(network, name)) for name in LISTED},
            **{name: getattr(network, name) or None for name in COUNTS},
            "sample_size": skeleton.shape[0],
            "in_channels": channels,
            "out_channels": channels * (1 + network.learned_variance),
            "center_input_sample": not network.centered,
            "mid_block_type": network.mid_block_type or None,
            "mid_block_scale_factor": network.mid_block_scale_factor,
            "downsample_type": network.downsample_type,
            "upsample_type": network.upsample_type,
            "act_fn": theirs[network.nonlinearity],
            "class_embed_type": network.class_embed_type or None,
            "num_class_embeds": None if network.class_embed_type else network.num_classes or None,
        }

    def write(self, folder: Path, arrays: Arrays, options: dict[str, Any], about: About) -> Path:
        """Writes a folder that UNet2DModel.from_pretrained and pipelines of diffusers load."""
        scheduler = schedulers.write(about.fields) | {"_diffusers_version": VERSION}
        kind = scheduler["_class_name"]
        pipeline = {
            "_class_name": kind.removesuffix("Scheduler") + "Pipeline",
            "_diffusers_version": VERSION,
            "scheduler": ["diffusers", kind],
            "unet": ["diffusers", "UNet2DModel"],
        }
        (folder / "scheduler").mkdir()
        for name, content in (
            ("model_index.json", pipeline),
            ("scheduler/scheduler_config.json", scheduler),
        ):
            (folder / name).write_text(json.dumps(content, indent=2) + "\n")
        return folders.write(folder, arrays, options)


def _network(options: Mapping[str, Any]) -> tuple[Fields, Fields]:
    """The fields of UNet2D, and config fields that are assumed."""
    if options["act_fn"].lower() not in ACTIVATIONS:
        raise ValueError(
            f"config.json has act_fn = {options['act_fn']!r}, which we do not have: known are "
            f"{', '.join(ACTIVATIONS)}"
        )
    made = {name: options[name] for name in SAME}
    made |= {name: options[name] or 0 for name in COUNTS}
    made |= {name: tuple(options[name]) for name in LISTED}
    for name in ("down_block_types", "up_block_types"):
        made[name] = tuple(kind.removeprefix("UNetRes") for kind in made[name])
    made["mid_block_type"] = "UNetMidBlock2D" if options["mid_block_type"] else ""
    made["mid_block_scale_factor"] = float(options["mid_block_scale_factor"])
    made["nonlinearity"] = ACTIVATIONS[options["act_fn"].lower()]
    made["class_embed_type"] = options["class_embed_type"] or ""
    for name in ("downsample_type", "upsample_type"):
        made[name] = options[name] or "conv"
    assumed = {"data.image_size": 32}
    if made["class_embed_type"] == "timestep":  # any number is a class
        assumed["data.num_classes"] = options["num_class_embeds"] or 1000
    return made, assumed


def _data(options: Mapping[str, Any]) -> Fields:
    """Config fields of the data, and of the classes."""
    inputs, outputs, size = (options[n] for n in ("in_channels", "out_channels", "sample_size"))
    if outputs not in (inputs, 2 * inputs):
        raise ValueError(
            f"a UNet2DModel of {inputs} input channels and {outputs} output channels is none that "
            "we have: there must be as many, or twice as many with a learned variance"
        )
    sides = set(size) if isinstance(size, list | tuple) else {size}
    if len(sides) > 1:
        raise ValueError(f"config.json has sample_size = {size}: images here are square")
    fields = {"data.num_channels": inputs, "data.centered": not options["center_input_sample"]}
    if (side := sides.pop()) is not None:
        fields["data.image_size"] = side
    kind, number = options["class_embed_type"], options["num_class_embeds"]
    if kind == "timestep" or (kind is None and number):
        fields["model.class_conditional"] = True
    if kind is None and number:
        fields["data.num_classes"] = number
    return fields


def _latents(source: Source, options: Mapping[str, Any]) -> Latents | None:
    """The normalisation of the latents that a model with an AutoencoderKL knows."""
    pipeline = source.parts.get("pipeline", {})
    if "vqvae" in pipeline:
        raise ValueError(
            f"{source.path} is a {pipeline.get('_class_name')}, whose samples are latents of its "
            "vqvae, a VQModel, which we do not have: give a model of images"
        )
    if (vae := source.parts.get("vae")) is None:
        return None
    scale, channels = vae.get("scaling_factor", SCALE), options["in_channels"]
    return Latents((0.0,) * channels, (1 / scale,) * channels)


def _check_scheduler(noise: Fields, network: Fields, learned: bool) -> None:
    """Raises ValueError for the scheduler of another network."""
    rows, n_levels = network["num_train_timesteps"], noise.get("model.num_scales", 0)
    problem = ""
    if noise.get("sampling.variance") == "learned" and not learned:
        problem = "variance_type = 'learned_range', but the network gives no variances"
    elif network["time_embedding_type"] == "learned" and n_levels > rows:
        problem = f"{n_levels} noise levels, but the network's table of them has {rows}"
    if problem:
        raise ValueError(f"the scheduler has {problem}: give the one that belongs to the network")


def _usual(options: Mapping[str, Any], learned: bool) -> dict[str, Any]:
    """The scheduler of a network without one."""
    if options["time_embedding_type"] == "fourier":
        return {"_class_name": "ScoreSdeVeScheduler"}
    variance = "learned_range" if learned else "fixed_small"
    return {"_class_name": "DDPMScheduler", "variance_type": variance}
