"""The networks by their names in config.model.name."""

import dataclasses
from collections.abc import Collection
from typing import Any

import flax.linen as nn

from models.adm import ADM
from models.adm_encoder import ADMClassifier, ADMHead
from models.autoencoder import Autoencoder
from models.config import Config, data_kind, data_shape
from models.ddpm import DDPM
from models.discriminator import Discriminator
from models.dit import DiT
from models.edm2 import EDM2
from models.mlp import MLP
from models.ncsnpp import NCSNpp
from models.ncsnv2 import NCSN, NCSNv2, NCSNv2At128, NCSNv2At256
from models.operators import image_channels
from models.unet2d import UNet2D
from models.wideresnet import WideResNet
from sde_lib.checks import check_at_least, check_name

MODELS: dict[str, type[nn.Module]] = {
    "ncsnpp": NCSNpp,
    "adm": ADM,
    "edm2": EDM2,
    "dit": DiT,
    "ddpm": DDPM,
    "unet2d": UNet2D,
    "ncsn": NCSN,
    "ncsnv2_64": NCSNv2,
    "ncsnv2_128": NCSNv2At128,
    "ncsnv2_256": NCSNv2At256,
    "wideresnet": WideResNet,
    "adm_classifier": ADMClassifier,
    "mlp": MLP,
    "discriminator": Discriminator,
    "autoencoder": Autoencoder,
}

KINDS = {
    **dict.fromkeys(("wideresnet", "adm_classifier"), "classifier"),
    **{name: name for name in ("discriminator", "autoencoder")},
}
"""What a network is trained as; all others are score models ("score")."""
ENCODERS = ("wideresnet", "adm_classifier", "ncsnpp", "adm", "dit", "mlp")
"""Networks whose features a discriminator can use."""
HEADS = ("adm_classifier",)
"""Networks that can read a discriminator's features, in place of a block and pooling ("")."""
HEAD = "head_"  # before the names of that network's options

DERIVED = {  # fields of networks that other sections, or other fields, give
    *("name", "parent", "encoder", "reader", "frozen", "num_classes", "num_outputs", "low_res"),
    "image_channels",
    *("centered", "channels", "latent_channels", "regularization", "codebook_size", "adversarial"),
}
SHARED = frozenset({"remat", "dtype"})  # options of all parts of a network
LABELLED = "take 'ncsnpp' (with config.model.conditional=True), 'adm' or 'dit'"
NEEDS = {  # options of config.model: the network's field that each needs, and the change to make
    "remat": ("remat", "set it to False"),
    "learned_variance": ("learned_variance", "take 'ncsnpp', 'adm', 'dit', 'ddpm' or 'unet2d'"),
    "fourier_features": ("fourier_features", "leave it empty, or take 'ncsnpp'"),
    "periodic": ("periodic", "set it to False, or take 'ncsnpp'"),
    "low_res_size": ("low_res", "take 'ncsnpp' (with config.model.conditional=True) or 'adm'"),
    "class_conditional": ("num_classes", f"{LABELLED}, 'unet2d' or 'mlp'"),
    "augment_dim": ("augment_dim", LABELLED),
    "label_confidence": ("label_confidence", LABELLED),
    "text": ("text", f"{LABELLED}, or 'mlp'"),
    "vector_dim": ("vector_dim", f"{LABELLED}, or 'mlp'"),
    "attributes": ("attributes", f"{LABELLED}, or 'mlp'"),
}
CONDITIONS = (
    *("low_res_size", "class_conditional", "augment_dim", "label_confidence", "text"),
    *("vector_dim", "attributes"),
)
"""Options that need a network with config.model.conditional=True."""


def create(config: Config) -> nn.Module:
    """The network that config.model describes; call it as model.apply(variables, x, labels).

    Fields of config.model that the network does not have are ignored: score_sde's configs describe
    the SDE there too.

    Raises:
        ValueError: an unknown network, an unknown choice for one of its fields, impossible sizes,
            or an option of NEEDS that the network does not have.
    """
    options = config.model
    check_name("config.model.name", options.name, MODELS)
    if kind(config) != "discriminator":
        return _network(config, options.name)
    return _discriminator(config)


def options(name: str) -> frozenset[str]:
    """The fields of config.model that the network `name` takes."""
    own = frozenset(field.name for field in dataclasses.fields(MODELS[name])) - DERIVED
    if name != "discriminator":
        return own
    return own | {f"{HEAD}{field}" for field in options("adm_classifier") - SHARED}


def kind(config: Config) -> str:
    """The kind of config.model.name: "score", "classifier", "discriminator" or "autoencoder"."""
    return KINDS.get(config.model.name, "score")


def check_shape(config: Config, shape: tuple[int, ...]) -> None:
    """Raises ValueError, with the names of those that fit, if the network takes no such data.

    Args:
        config: of the network.
        shape: of one sample in model space.
    """
    if len(shape) in data_axes(network_class(config)):
        return
    its_kind, field, names = kind(config), "name", [*MODELS]
    if its_kind == "discriminator":
        its_kind, field, names = "score", "encoder", [*ENCODERS]
    of_kind = (name for name in names if KINDS.get(name, "score") == its_kind)
    fitting = ", ".join(repr(name) for name in of_kind if len(shape) in data_axes(MODELS[name]))
    raise ValueError(
        f"config.model.{field} = {config.model[field]!r} does not go with "
        f"{config.data.dataset!r}, which are {data_kind(shape)} of the shape {shape}: "
        + (f"choose {fitting}" if fitting else "no network of its kind takes them")
    )


def data_axes(network: Any) -> tuple[int, ...]:
    """The numbers of axes of the samples that a network takes, such as 3 for [H, W, C]."""
    points = getattr(network, "inputs", "") == "points"
    return getattr(network, "data_axes", (1,) if points else (3,))


def network_class(config: Config) -> type[nn.Module]:
    """The class of the network that sees the data; of a discriminator, that is its encoder."""
    name = config.model.encoder if kind(config) == "discriminator" else config.model.name
    check_name("config.model.name", name, MODELS)
    return MODELS[name]


def _discriminator(config: Config) -> Discriminator:
    """A discriminator: the encoder, and the head with the options head_*."""
    options = config.model
    head = options.get("head", "")
    check_name("config.model.encoder", options.encoder, ENCODERS)
    if head:
        check_name("config.model.head", head, HEADS)
    conditions = {"text": "text", "low_res_size": "smaller images", "vector_dim": "vectors"}
    conditions["attributes"] = "attributes"
    for field, what in conditions.items():
        if options.get(field):
            raise ValueError(
                f"config.model.{field} is {options[field]!r}, but a discriminator sees no {what}: "
                f"set it to {type(options[field])()!r}"
            )
    bare = config.copy_and_resolve_references()
    bare.model.class_conditional = False  # of the head alone
    encoder = _network(bare, options.encoder)
    classes = 0
    if options.get("class_conditional"):
        classes = config.data.num_classes
        check_at_least(1, **{"config.data.num_classes": classes})
    reader, frozen = _head(config, classes) if head else None, bool(options.get("pretrained"))
    return Discriminator(encoder, frozen, options.get("dropout", 0.0), reader, classes)


def _head(config: Config, classes: int) -> ADMHead:
    """The head that is an encoder of the features."""
    options = config.model
    fields = {field.name for field in dataclasses.fields(ADMHead)}
    own = (name for name in options if name.startswith(HEAD))
    given = {name.removeprefix(HEAD): options[name] for name in own}
    given |= {name: options[name] for name in SHARED & set(options)}
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in given.items()
        if name in fields - DERIVED
    }
    return ADMHead(**values, num_classes=classes)


def _network(config: Config, name: str) -> nn.Module:
    options, network = config.model, MODELS[name]
    fields = {field.name for field in dataclasses.fields(network)} - {"name"}
    _check_options(options, name, fields)
    values: dict[str, Any] = {
        field: tuple(options[field]) if isinstance(options[field], list) else options[field]
        for field in fields & set(options)
    }
    if "centered" in fields:
        latents = bool(config.data.get("autoencoder"))
        values["centered"] = latents or config.data.centered
    if options.get("class_conditional"):
        check_at_least(1, **{"config.data.num_classes": config.data.num_classes})
        values["num_classes"] = config.data.num_classes
    if options.get("low_res_size"):
        values["low_res"] = True
    if channels := image_channels(config):
        if "image_channels" not in fields:
            raise ValueError(
                f"config.image_condition.name is {config.image_condition.name!r}, but the network "
                f"{name!r} sees no images beside x: {LABELLED}"
            )
        values["image_channels"] = channels
    if config.get("objective", {}).get("name") == "mean_flow":
        if "vector_dim" not in fields:
            raise ValueError(
                f"config.objective.name is 'mean_flow', but the network {name!r} sees no second "
                f"time: {NEEDS['vector_dim'][1]}"
            )
        values["vector_dim"] = options.get("vector_dim", 0) + 1  # t - r
    if "num_outputs" in fields:
        values["num_outputs"] = config.data.num_classes
    if name == "autoencoder":
        values |= _autoencoder_values(config)
    return network(**values)


def _check_options(options: Config, name: str, fields: Collection[str]) -> None:
    """Raises ValueError for options or a dtype that the network cannot have."""
    for option, (field, change) in NEEDS.items():
        unconditional = option in CONDITIONS and not options.get("conditional", True)
        if options.get(option) and (field not in fields or unconditional):
            raise ValueError(
                f"config.model.{option} is {options[option]!r}, but the network {name!r} has no "
                f"such option: {change}"
            )
    if options.get("dtype", "float32") != "float32" and "dtype" not in fields:
        able = ", ".join(repr(name) for name, other in MODELS.items() if hasattr(other, "dtype"))
        raise ValueError(
            f"config.model.dtype is {options.dtype!r}, but the network {name!r} computes in "
            f"float32 alone: set it to that, or take one of {able}"
        )


def _autoencoder_values(config: Config) -> dict[str, Any]:
    """The fields of Autoencoder that config.autoencoder holds."""
    options = config.autoencoder
    check_name("config.autoencoder.regularization", options.regularization, ("kl", "vq"))
    codebook_size = options.vq.codebook_size
    if codebook_size is None:
        codebook_size = Autoencoder.codebook_size
    check_at_least(
        1,
        **{
            "config.autoencoder.latent_channels": options.latent_channels,
            "config.autoencoder.vq.codebook_size": codebook_size,
        },
    )
    return {
        "latent_channels": options.latent_channels,
        "regularization": options.regularization,
        "codebook_size": codebook_size,
        "channels": data_shape(config)[-1],
        "adversarial": bool(options.adversarial.weight),
    }


def in_float32(model: nn.Module) -> nn.Module:
    """The network with the same parameters that computes in float32, for exact likelihoods."""
    return model.clone(dtype="float32") if hasattr(model, "dtype") else model
