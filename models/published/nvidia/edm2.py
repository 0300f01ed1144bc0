"""Format of EDM2's networks (Karras et al. 2024), by NVIDIA's names."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from models import edm2
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
from models.published.nvidia import pickles
from models.weights import Record

PRECONDITIONING: Fields = {  # arguments of Precond, in their order, with their defaults
    "img_resolution": None,
    "img_channels": None,
    "label_dim": 0,
    "use_fp16": True,
    "sigma_data": 0.5,
    "logvar_channels": 128,
}
UNET: Fields = {  # arguments of UNet, then those of its blocks
    "img_resolution": None,
    "img_channels": None,
    "label_dim": 0,
    "model_channels": 192,
    "channel_mult": [1, 2, 3, 4],
    "channel_mult_noise": None,
    "channel_mult_emb": None,
    "num_blocks": 3,
    "attn_resolutions": [16, 8],
    "label_balance": 0.5,
    "concat_balance": 0.5,
    "resample_filter": [1, 1],
    "channels_per_head": 64,
    "dropout": 0.0,
    "res_balance": 0.3,
    "attn_balance": 0.3,
    "clip_act": 256.0,
}
NUMBERS = ("label_balance", "concat_balance", "res_balance", "attn_balance", "clip_act", "dropout")
UNTOLD = {  # arguments that arrays do not tell, and their config fields
    **{name: f"model.{name}" for name in NUMBERS},
    "channels_per_head": "model.num_head_channels",
    "resample_filter": "model.fir_kernel",
    "sigma_data": "model.sigma_data",
}
MULTIPLES = {"channel_mult_noise": "noise_features", "channel_mult_emb": "embedding_features"}
"""Widths as multiples of model_channels, and our fields of the widths; None and 0: the usual."""
EFFECTIVE = ("attn_resolutions", "logvar_channels")  # arguments of which arrays tell the effect
LAYERS = {
    "emb_fourier": "unet.emb_fourier",
    "emb_noise": "unet.emb_noise",
    "emb_label": "unet.emb_label",
    "conv_out": "unet.out_conv",
    "out_gain": "unet.out_gain",
    "logvar_fourier": "logvar_fourier",
    "logvar_linear": "logvar_linear",
}

LATENTS = Latents((5.81, 3.25, 0.12, -2.15), (8.34, 9.24, 7.42, 6.56))  # twice the deviations
SOURCE = "https://nvlabs-fi-cdn.nvidia.com/edm2/"
FIGURES = {  # Karras et al. 2024, Tables 2 and 3: FID without guidance
    "img512": {"xs": 3.53, "s": 2.56, "m": 2.25, "l": 2.06, "xl": 1.96, "xxl": 1.91},
    "img64": {"s": 1.58, "m": 1.43, "l": 1.33, "xl": 1.33},
}
DATA = {"img512": "ImageNet 512 x 512 (latents)", "img64": "ImageNet 64 x 64"}


def _cards() -> Iterator[Card]:
    """The published models. Files of one size differ in the length of their average."""
    for data, sizes in FIGURES.items():
        uncond = f"EDM2, {DATA[data]}, unconditional"
        yield _card((f"edm2-{data}-*-uncond-*.pkl",), uncond)
        for size, fid in sizes.items():
            figure = f"FID {fid}, at the best length of the average"
            model = f"EDM2-{size.upper()}, {DATA[data]}"
            yield _card((f"edm2-{data}-{size}-*.pkl",), model, figure)


def _card(files: tuple[str, ...], model: str, figure: str = "") -> Card:
    return Card(files, model, SOURCE, pickles.LICENSE, figure, commercial=False)


class EDM2(Format):
    """A network of EDM2, from a pickle or from its arrays."""

    name = "edm2"
    title = "a network of EDM2"
    cards = tuple(_cards())

    def find(self, source: Source) -> Found | None:
        content = pickles.averaged(source.content)
        arrays = pickles.named_arrays(content)
        start = pickles.prefix(arrays)
        if start is None or f"{start}emb_noise.weight" not in arrays:
            return None
        told = _told(self.clean(arrays))
        known = PRECONDITIONING | UNET
        written = {k: v for k, v in source.options.items() if k in known and v is not None}
        effective = {name: told[name] for name in EFFECTIVE}
        given = told | written | _recorded(content) | effective
        fields = _fields(PRECONDITIONING | UNET | given)
        untold = {field for argument, field in UNTOLD.items() if argument not in given}
        assumed = {field: fields.pop(field) for field in untold} | {"sampling.n_steps": 32}
        fields |= pickles.training_fields(source.content)
        latents = _latents(source.content, fields["data.num_channels"])
        return Found(arrays, fields, assumed, latents=latents)

    def clean(self, arrays: Arrays) -> dict[str, np.ndarray]:
        """The tensors by the names that they have in EDM2's Precond."""
        if (start := pickles.prefix(arrays)) is None:
            return dict(arrays)
        outer = start.removesuffix("unet.")
        kept = pickles.without_prefix(arrays, outer)
        return kept if outer != start else {f"unet.{name}": a for name, a in kept.items()}

    def table(self, skeleton: Skeleton) -> Table:
        _check_network(skeleton.network)
        blocks = _blocks(skeleton)
        inner = [call for call in skeleton.calls if call == "conv_in" or call.startswith("Block")]
        prefixes = LAYERS | dict(zip(inner, blocks, strict=True))
        table = {}
        for layer, *names in skeleton.shapes:
            theirs = ["weight" if name == "kernel" else name for name in names]
            table[layer, *names] = Tensor(".".join([prefixes[layer], *theirs]))
        return table

    def options(self, skeleton: Skeleton, fields: Fields) -> dict[str, Any]:
        """The arguments of Precond, which passes those that are not its own on to UNet."""
        _check_network(skeleton.network)
        network: Any = skeleton.network
        pickles.check_heads(skeleton, network.num_head_channels)
        if fields["model.parametrization"] != "edm":
            raise ValueError(
                f"config.model.parametrization is {fields['model.parametrization']!r}: EDM2 has "
                "'edm' alone"
            )
        side, _, channels = skeleton.shape
        options = {
            "img_resolution": side,
            "img_channels": channels,
            "label_dim": network.num_classes,
            "use_fp16": False,
            "sigma_data": fields["model.sigma_data"],
            "logvar_channels": network.logvar_channels or 1,  # see constants
            "model_channels": network.nf,
            "channel_mult": list(network.ch_mult),
            "num_blocks": network.num_res_blocks,
            "attn_resolutions": list(network.attn_resolutions),
            "resample_filter": list(pickles.symmetric(network.fir_kernel)),
            "channels_per_head": network.num_head_channels,
            **{name: getattr(network, name) for name in NUMBERS},
        }
        for argument, field in MULTIPLES.items():
            width = getattr(network, field)
            if width % network.nf:
                raise ValueError(
                    f"config.model.{field} is {width}: in EDM2 it is a multiple of config.model.nf "
                    f"= {network.nf}"
                )
            options[argument] = width // network.nf or None
        return options

    def constants(self, skeleton: Skeleton) -> dict[str, np.ndarray]:
        """An uncertainty of 0, for a network that does not have it: EDM2's networks all do."""
        if skeleton.network.logvar_channels:
            return {}
        shapes = {"fourier.freqs": (1,), "fourier.phases": (1,), "linear.weight": (1, 1)}
        return {f"logvar_{name}": np.zeros(shape, np.float32) for name, shape in shapes.items()}


def _latents(content: Any, channels: int) -> Latents | None:
    """The normalisation of latents that a pickle's encoder holds; the published one without it."""
    encoder = content.get("encoder") if isinstance(content, dict) else None
    if isinstance(encoder, Record) and encoder.name != "StabilityVAEEncoder":
        return None
    state = encoder.state if isinstance(encoder, Record) else {}
    if not {"scale", "bias"} <= state.keys():
        return LATENTS if channels == len(LATENTS.mean) else None
    scale, bias = (np.ravel(state[name]).astype(float) for name in ("scale", "bias"))
    return Latents(tuple((-bias / scale).tolist()), tuple((1 / scale).tolist()))


def _told(arrays: Arrays) -> Fields:
    """The arguments that arrays tell by their names and shapes."""
    unet = {name[5:]: array for name, array in arrays.items() if name.startswith("unet.")}
    options = pickles.unet(unet, "conv_res1", "attn_qkv")
    features, noise_features = unet["emb_noise.weight"].shape
    label, uncertainty = unet.get("emb_label.weight"), arrays.get("logvar_linear.weight")
    return options | {
        "img_channels": options["img_channels"] - 1,  # without the channel of ones
        "noise_features": noise_features,
        "embedding_features": features,
        "label_dim": 0 if label is None else label.shape[1],
        "logvar_channels": 0 if uncertainty is None else uncertainty.shape[1],
    }


def _recorded(content: Any) -> Fields:
    """The arguments that a pickle holds of Precond and of UNet.

    Raises:
        ValueError: an argument that is not known here.
    """
    outer = content if isinstance(content, Record) else None
    inner = pickles.part(outer, "unet") or outer
    options: Fields = {}
    if outer and outer.name == "Precond":
        options = PRECONDITIONING | pickles.arguments(outer, PRECONDITIONING)
    if inner and inner.name == "UNet":
        given = pickles.arguments(inner, UNET)
        pickles.check_known("UNet", given, UNET)
        options = (UNET if given else {}) | options | given
    return {name: value for name, value in options.items() if value is not None}


def _fields(options: Fields) -> Fields:
    """Our config fields for EDM2's arguments."""
    return {
        **pickles.image_fields(options),
        **{f"model.{name}": float(options[name]) for name in NUMBERS},
        "model.name": "edm2",
        "model.noise_features": options["noise_features"],
        "model.embedding_features": options["embedding_features"],
        "model.parametrization": "edm",
        "model.sigma_data": float(options["sigma_data"]),
        "model.num_head_channels": int(options["channels_per_head"]),
        "model.logvar_channels": int(options["logvar_channels"]),
        "model.fir_kernel": pickles.symmetric(options["resample_filter"]),
    }


def _check_network(network: Any) -> None:
    if not isinstance(network, edm2.EDM2):
        raise ValueError(
            f"the network {type(network).__name__} is none of EDM2's: set config.model.name='edm2'"
        )


def _blocks(skeleton: Skeleton) -> Iterator[str]:
    """EDM2's names of the network's blocks, in calling order."""
    network: Any = skeleton.network
    sides = [skeleton.shape[0] >> level for level in range(len(network.ch_mult))]
    for level, side in enumerate(sides):
        yield f"unet.enc.{side}x{side}_{'down' if level else 'conv'}"
        yield from (f"unet.enc.{side}x{side}_block{i}" for i in range(network.num_res_blocks))
    for side in reversed(sides):
        for name in ("in0", "in1") if side == sides[-1] else ("up",):
            yield f"unet.dec.{side}x{side}_{name}"
        yield from (f"unet.dec.{side}x{side}_block{i}" for i in range(network.num_res_blocks + 1))
