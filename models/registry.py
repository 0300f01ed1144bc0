"""Every network by its name in config.model.name."""

import dataclasses
from typing import Any

import flax.linen as nn

from models.adm import ADM
from models.autoencoder import Autoencoder
from models.config import Config
from models.ddpm import DDPM
from models.discriminator import Discriminator
from models.dit import CONDITIONING, DiT
from models.layers import ACTIVATIONS
from models.mlp import MLP
from models.ncsnpp import NCSNpp
from models.ncsnv2 import NCSN, NCSNv2, NCSNv2At128, NCSNv2At256
from models.text import KINDS
from models.wideresnet import WideResNet
from sde_lib.checks import check_at_least, check_name

MODELS: dict[str, type[nn.Module]] = {
    "ncsnpp": NCSNpp,
    "adm": ADM,
    "dit": DiT,
    "ddpm": DDPM,
    "ncsn": NCSN,
    "ncsnv2_64": NCSNv2,
    "ncsnv2_128": NCSNv2At128,
    "ncsnv2_256": NCSNv2At256,
    "wideresnet": WideResNet,
    "mlp": MLP,
    "discriminator": Discriminator,
    "autoencoder": Autoencoder,
}

CLASSIFIERS = {"wideresnet", "discriminator"}
ENCODERS = ("wideresnet", "ncsnpp", "adm", "dit", "mlp")
"""Networks that give features, to a discriminator."""

CHOICES = {
    "resblock_type": ("ddpm", "biggan"),
    "progressive": ("none", "output_skip", "residual"),
    "progressive_input": ("none", "input_skip", "residual"),
    "progressive_combine": ("sum", "cat"),
    "embedding_type": ("fourier", "positional"),
    "conditioning": CONDITIONING,
    "text": KINDS,
    "nonlinearity": tuple(ACTIVATIONS),
    "dtype": ("float32", "bfloat16"),
}


def create(config: Config) -> nn.Module:
    """The network that config.model describes; call it as model.apply(variables, x, labels).

    Fields of config.model that the network does not have are left alone: score_sde's configs
    describe the SDE there too.

    Raises:
        ValueError: an unknown network, an unknown choice for one of its fields, sizes that it
            cannot have, or remat, learned_variance, dtype, class_conditional, augment_dim,
            label_confidence, text, low_res_size or fourier_features of a network without it.
    """
    options = config.model
    check_name("config.model.name", options.name, MODELS)
    if not is_discriminator(config):
        return _network(config, options.name)
    check_name("config.model.encoder", options.encoder, ENCODERS)
    told = {"class_conditional": "classes", "text": "text", "low_res_size": "smaller images"}
    for field, what in told.items():
        if options.get(field):
            raise ValueError(
                f"config.model.{field} is {options[field]!r}, but a discriminator sees no {what}: "
                f"set it to {type(options[field])()!r}"
            )
    encoder = _network(config, options.encoder)
    return Discriminator(encoder, bool(options.pretrained), options.get("dropout", 0.0))


def _network(config: Config, name: str) -> nn.Module:
    options, network = config.model, MODELS[name]
    for field, choices in CHOICES.items():
        if field in options:
            check_name(f"config.model.{field}", options[field], choices)
    fields = {field.name for field in dataclasses.fields(network)} - {"name"}
    if options.get("remat") and "remat" not in fields:
        raise ValueError(
            f"config.model.remat is True, but the network {name!r} has no blocks whose "
            "activations could be computed again: set it to False"
        )
    if options.get("learned_variance") and "learned_variance" not in fields:
        raise ValueError(
            f"config.model.learned_variance is True, but the network {name!r} gives no variance: "
            "take 'ncsnpp', 'adm', 'dit' or 'ddpm', or set it to False"
        )
    if options.get("dtype", "float32") != "float32" and "dtype" not in fields:
        able = ", ".join(repr(name) for name, other in MODELS.items() if hasattr(other, "dtype"))
        raise ValueError(
            f"config.model.dtype is {options.dtype!r}, but the network {name!r} computes in "
            f"float32 alone: set it to that, or take one of {able}"
        )
    if options.get("fourier_features") and "fourier_features" not in fields:
        raise ValueError(
            f"config.model.fourier_features is {options.fourier_features}, but the network "
            f"{name!r} has no such features of its input: leave it empty, or take 'ncsnpp'"
        )
    conditional = options.get("conditional", True)
    if options.get("low_res_size") and ("low_res" not in fields or not conditional):
        raise ValueError(
            f"config.model.low_res_size is {options.low_res_size}, but the network {name!r} sees "
            "no smaller images: take 'ncsnpp' (with config.model.conditional=True) or 'adm'"
        )
    for field in ("class_conditional", "augment_dim", "label_confidence", "text"):
        known = "num_classes" if field == "class_conditional" else field
        if options.get(field) and (known not in fields or not conditional):
            raise ValueError(
                f"config.model.{field} is {options[field]}, but the network {name!r} sees no "
                "labels: take 'ncsnpp' (with config.model.conditional=True), 'adm' or 'dit'"
            )
    if options.get("text"):
        sizes = {"text_length", "text_width", "text_depth"} & set(options)
        check_at_least(1, **{f"config.model.{size}": options[size] for size in sizes})
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
    if "num_outputs" in fields:
        values["num_outputs"] = config.data.num_classes
    if name == "autoencoder":
        values |= _of_autoencoder(config, fields)
    return network(**values)


def _of_autoencoder(config: Config, fields: set[str]) -> dict[str, Any]:
    options = config.autoencoder
    name = "config.autoencoder.regularization"
    check_name(name, options.regularization, ("kl", "vq"))
    numbers = ("latent_channels", "codebook_size")
    check_at_least(1, **{f"config.autoencoder.{number}": options[number] for number in numbers})
    derived = {"channels": config.data.num_channels, "adversarial": options.adversarial_weight > 0}
    known = options.to_dict() | derived
    return {field: known[field] for field in fields & set(known)}


def in_float32(model: nn.Module) -> nn.Module:
    """The network with the same parameters that computes in float32, for exact likelihoods."""
    return model.clone(dtype="float32") if hasattr(model, "dtype") else model


def is_classifier(config: Config) -> bool:
    """Whether config.model gives logits of classes, and no score."""
    return config.model.name in CLASSIFIERS


def is_discriminator(config: Config) -> bool:
    """Whether config.model tells samples of a model from the data."""
    return config.model.name == "discriminator"


def is_autoencoder(config: Config) -> bool:
    """Whether config.model makes latents of images, and images of these."""
    return config.model.name == "autoencoder"


def encoder_name(config: Config) -> str:
    """The network that sees the data: that of config.model, or of a discriminator its encoder."""
    return config.model.encoder if is_discriminator(config) else config.model.name


def encoder_is_classifier(config: Config) -> bool:
    """Whether that network is a classifier's, which sees the data unscaled."""
    return encoder_name(config) in CLASSIFIERS
