"""Arguments of EDM's networks and of their preconditioning, and the config fields of ours.

A file tells the arguments: a pickle holds those that were given, and the names and shapes of the
arrays tell most of the rest.
"""

from collections.abc import Mapping
from typing import Any

from models.adm import ADM
from models.conditions import OURS
from models.ncsnpp import NCSNpp
from models.parametrization import iddpm_levels
from models.published.base import Arrays, Fields, Skeleton
from models.published.nvidia import pickles
from models.weights import Record
from sde_lib.checks import check_name

UNET: Fields = {  # arguments of both networks, in their order, with their defaults
    "img_resolution": None,
    "in_channels": None,
    "out_channels": None,
    "label_dim": 0,
    "augment_dim": 0,
    "model_channels": 128,
    "channel_mult": [1, 2, 2, 2],
    "channel_mult_emb": 4,
    "num_blocks": 4,
    "attn_resolutions": [16],
    "dropout": 0.10,
    "label_dropout": 0,
}
NETWORKS: Mapping[str, Fields] = {
    "SongUNet": UNET
    | {
        "embedding_type": "positional",
        "channel_mult_noise": 1,
        "encoder_type": "standard",
        "decoder_type": "standard",
        "resample_filter": [1, 1],
    },
    "DhariwalUNet": UNET
    | {
        "model_channels": 192,
        "channel_mult": [1, 2, 3, 4],
        "num_blocks": 3,
        "attn_resolutions": [32, 16, 8],
    },
}
COMMON: Fields = {"img_resolution": None, "img_channels": None, "label_dim": 0, "use_fp16": False}
PRECONDITIONING: Mapping[str, tuple[str, Fields]] = {  # our name, and the constructor's arguments
    "EDMPrecond": ("edm", {"sigma_min": 0.0, "sigma_max": float("inf"), "sigma_data": 0.5}),
    "VPPrecond": ("edm_vp", {"beta_d": 19.9, "beta_min": 0.1, "M": 1000, "epsilon_t": 1e-5}),
    "VEPrecond": ("edm_ve", {"sigma_min": 0.02, "sigma_max": 100.0}),
    "iDDPMPrecond": ("edm_iddpm", {"C_1": 0.001, "C_2": 0.008, "M": 1000}),
}
FIXED = ("beta_d", "beta_min", "C_1", "C_2", "M")  # numbers that models.parametrization fixes too
SIGMAS = (0.002, 80.0)  # noise levels of EDM's samplers, unless the network is for fewer

ENCODERS = {"standard": "none", "skip": "input_skip", "residual": "residual"}
DECODERS = {"standard": "none", "skip": "output_skip"}
USUAL = {"positional": 1, "fourier": 2}
"""Features of an embedding over nf, unless config.model.noise_features says otherwise."""
HEAD = 64  # channels of an attention head in ADM
FILTERS = {"standard": [1, 1], "skip": [1, 3, 3, 1], "residual": [1, 3, 3, 1]}
"""The usual resampling filters of the encoders, where a file does not tell it."""

NO_CONDITIONS = {
    **OURS,
    **{"text": "", "low_res": False, "label_confidence": False, "learned_variance": False},
}
NCSNPP: Fields = {
    "conditional": True,
    "skip_rescale": True,
    "resblock_type": "biggan",
    "nonlinearity": "swish",
    "log_labels": False,
    "scale_by_sigma": False,
}
ADM_FIELDS: Fields = {  # guided-diffusion's networks may differ
    **{"use_scale_shift_norm": True, "resblock_updown": True, "group_size": 4, "attn_factors": ()},
    **dict.fromkeys(("heads", "heads_upsample", "in_nf", "noise_features"), 0),
}
UNTOLD = {  # arguments that arrays do not tell, or not in all files, and their config fields
    "dropout": "model.dropout",
    "label_dropout": "model.label_dropout",
    "precond": "model.parametrization",
    "resample_filter": "model.fir_kernel",
}


def told(arrays: Arrays) -> Fields:
    """The arguments that arrays tell by their names and shapes."""
    options = pickles.unet(arrays, "conv0", "qkv")
    song = "out_conv.weight" not in arrays
    features, noise_features = arrays["map_layer0.weight"].shape
    options |= {"embedding_features": features, "noise_features": noise_features}
    options["model_type"] = "SongUNet" if song else "DhariwalUNet"
    for layer, argument in {"map_label": "label_dim", "map_augment": "augment_dim"}.items():
        weight = arrays.get(f"{layer}.weight")
        options[argument] = 0 if weight is None else weight.shape[1]
    if "u" in arrays:  # the noise levels of iDDPM
        options["precond"] = "iDDPMPrecond"
    if not song:
        return options
    layers = {
        name.partition("x")[2].partition("_")[2] for name in arrays if name.startswith("enc.")
    }
    encoder = [kind for kind in ("skip", "residual") if f"aux_{kind}.weight" in layers]
    heads = sum(name.endswith("_aux_conv.weight") for name in arrays)
    options |= {
        "embedding_type": "fourier" if "map_noise.freqs" in arrays else "positional",
        "encoder_type": encoder[0] if encoder else "standard",
        "decoder_type": "skip" if heads > 1 else "standard",
    }
    filters = [array for name, array in arrays.items() if name.endswith("resample_filter")]
    if filters:
        taps = filters[0][0, 0].astype(float).sum(0)
        options["resample_filter"] = (taps / taps[taps > 0].min()).round(3).tolist()
    return options


def recorded(content: Any) -> Fields:
    """The arguments that a pickle holds of the preconditioning and of the network.

    Raises:
        ValueError: an argument that is not known here.
    """
    outer = content if isinstance(content, Record) else None
    inner = pickles.part(outer, "model") or outer
    options: Fields = {}
    if outer and outer.name in PRECONDITIONING:
        known = COMMON | PRECONDITIONING[outer.name][1]
        options |= {"precond": outer.name} | pickles.arguments(outer, known)
    if not inner or inner.name not in NETWORKS:
        return options
    known = NETWORKS[inner.name]
    given = pickles.arguments(inner, known)
    pickles.check_known(inner.name, given, known)
    if given.get("in_channels") != given.get("out_channels"):
        raise ValueError(
            f"the network {inner.name} in the file has {given.get('in_channels')} channels of "
            f"input and {given.get('out_channels')} of output: here they must be equal"
        )
    usual = {name: value for name, value in known.items() if value is not None}
    return (usual if given else {}) | options | {"model_type": inner.name} | given


def config_fields(given: Fields) -> tuple[Fields, Fields]:
    """Our config fields for EDM's arguments: those that the file tells, and the usual others.

    Raises:
        ValueError: an option that we do not have.
    """
    check_name("the network's model_type", given["model_type"], NETWORKS)
    usual: Fields = {"precond": "EDMPrecond"}
    usual["resample_filter"] = FILTERS.get(str(given.get("encoder_type")), [1, 1])
    options = NETWORKS[given["model_type"]] | usual | given
    fields = pickles.image_fields(options) | _preconditioning_fields(options)
    fields |= _network_fields(options)
    untold = {field for argument, field in UNTOLD.items() if argument not in given}
    return fields, {field: fields.pop(field) for field in untold & fields.keys()}


def _network_fields(options: Fields) -> Fields:
    adm = options["model_type"] == "DhariwalUNet"
    fields: Fields = {
        "model.dropout": float(options["dropout"]),
        "model.augment_dim": int(options["augment_dim"] or 0),
        "model.embedding_features": options["embedding_features"],
    }
    if options["label_dim"]:
        fields["model.label_dropout"] = float(options["label_dropout"])
    if adm:
        return fields | {"model.name": "adm", "model.num_head_channels": HEAD}
    taps = pickles.symmetric(options["resample_filter"])
    choices = {"encoder_type": ENCODERS, "decoder_type": DECODERS, "embedding_type": USUAL}
    for name, known in choices.items():
        check_name(f"the network's {name}", options[name], known)
    encoder = ENCODERS[options["encoder_type"]]
    own = NCSNPP | {
        "name": "ncsnpp",
        "embedding_type": options["embedding_type"],
        "noise_features": options["noise_features"],
        "progressive": DECODERS[options["decoder_type"]],
        "progressive_input": encoder,
        "progressive_combine": "sum",
        "fir": encoder == "residual" or taps != (1, 1),
        "fir_kernel": taps,
    }
    return fields | {f"model.{name}": value for name, value in own.items()}


def _preconditioning_fields(options: Fields) -> Fields:
    """The parametrization, and the noise levels that it is for where EDM's samplers have more."""
    parametrization, usual = PRECONDITIONING[options["precond"]]
    given = {name: float(options.get(name, value)) for name, value in usual.items()}
    for name in [name for name in FIXED if name in given]:
        if given[name] != usual[name]:
            raise ValueError(
                f"the file's {options['precond']} has {name} = {given[name]}: here it is always "
                f"{usual[name]}"
            )
    fields: Fields = {"model.parametrization": parametrization}
    if "sigma_data" in given:
        fields["model.sigma_data"] = given["sigma_data"]
    least = (
        float(iddpm_levels()[1]) if parametrization == "edm_iddpm" else given.get("sigma_min", 0.0)
    )
    if least > SIGMAS[0]:
        fields["sampling.sigma_min"] = least
    if (most := given.get("sigma_max", SIGMAS[1])) < SIGMAS[1]:
        fields["sampling.sigma_max"] = most
    return fields


def check_network(network: Any) -> None:
    """Raises ValueError for a network that is none of EDM's."""
    expected: Fields = {}
    if isinstance(network, ADM):
        expected = NO_CONDITIONS | ADM_FIELDS
    elif isinstance(network, NCSNpp):
        expected = NO_CONDITIONS | NCSNPP | {"fourier_features": ()}
        if network.progressive_input == "residual":
            expected |= {"fir": True}
        if network.progressive_input == "input_skip":
            expected |= {"progressive_combine": "sum"}
        if network.progressive == "residual":
            expected |= {"progressive": "none"}
    other = {name: value for name, value in expected.items() if getattr(network, name) != value}
    if other or not expected:
        raise ValueError(
            f"the network {type(network).__name__} with these fields is none of EDM's: set config."
            f"model.name='adm', or 'ncsnpp' with {other or NCSNPP}"
        )


def arguments(skeleton: Skeleton, fields: Fields) -> Fields:
    """The arguments of the preconditioning ("precond") and of the network ("model_type").

    Raises:
        ValueError: EDM does not have such a network, or such a parametrization.
    """
    check_network(skeleton.network)
    network: Any = skeleton.network
    adm = isinstance(network, ADM)
    if adm:
        pickles.check_heads(skeleton, HEAD)
    if not network.centered:
        raise ValueError("config.data.centered is False: EDM's networks see data in [-1, 1]")
    if fields.get("model.label_scale", 1.0) != 1:
        raise ValueError(
            f"config.model.label_scale is {fields['model.label_scale']}, which EDM does not have"
        )
    names = {ours: theirs for theirs, (ours, _) in PRECONDITIONING.items()}
    if (parametrization := fields["model.parametrization"]) not in names:
        raise ValueError(
            f"config.model.parametrization is {parametrization!r}, which EDM does not have: "
            f"it has {', '.join(names)}"
        )
    side, _, channels = skeleton.shape
    options = {
        "precond": names[parametrization],
        "img_resolution": side,
        "img_channels": channels,
        "label_dim": network.num_classes,
        "model_type": "DhariwalUNet" if adm else "SongUNet",
        "augment_dim": network.augment_dim,
        "model_channels": network.nf,
        "channel_mult": list(network.ch_mult),
        "channel_mult_emb": _multiple("embedding_features", network, 4),
        "num_blocks": network.num_res_blocks,
        "attn_resolutions": list(network.attn_resolutions),
        "dropout": network.dropout,
        "label_dropout": fields.get("model.label_dropout", 0.0),
    }
    if parametrization == "edm":
        options["sigma_data"] = fields["model.sigma_data"]
    if adm:
        return options
    usual = USUAL[network.embedding_type]
    return options | {
        "embedding_type": network.embedding_type,
        "channel_mult_noise": _multiple("noise_features", network, usual),
        "encoder_type": _key(ENCODERS, network.progressive_input),
        "decoder_type": _key(DECODERS, network.progressive),
        "resample_filter": list(pickles.symmetric(network.fir_kernel if network.fir else (1, 1))),
    }


def _multiple(field: str, network: Any, usual: int) -> int:
    """A width of the network as a multiple of nf; its field is 0 for the usual multiple."""
    width = getattr(network, field) or usual * network.nf
    if width % network.nf:
        raise ValueError(
            f"config.model.{field} is {width}: in EDM it is a multiple of config.model.nf = "
            f"{network.nf}"
        )
    return width // network.nf


def _key(table: Mapping[str, str], value: str) -> str:
    return next(key for key, other in table.items() if other == value)
