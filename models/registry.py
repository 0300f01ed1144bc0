"""Every network by its name in config.model.name."""

import dataclasses
from typing import Any

import flax.linen as nn

from models.config import Config
from models.mlp import MLP
from models.ncsnpp import ACTIVATIONS, NCSNpp
from sde_lib.checks import check_name

MODELS: dict[str, type[nn.Module]] = {"ncsnpp": NCSNpp, "mlp": MLP}

CHOICES = {
    "resblock_type": ("ddpm", "biggan"),
    "progressive": ("none", "output_skip", "residual"),
    "progressive_input": ("none", "input_skip", "residual"),
    "progressive_combine": ("sum", "cat"),
    "embedding_type": ("fourier", "positional"),
    "nonlinearity": tuple(ACTIVATIONS),
}


def create(config: Config) -> nn.Module:
    """The network that config.model describes; call it as model.apply(variables, x, labels).

    Fields of config.model that the network does not have are left alone: score_sde's configs
    describe the SDE there too.

    Raises:
        ValueError: an unknown network, or an unknown choice for one of its fields.
    """
    options = config.model
    check_name("config.model.name", options.name, MODELS)
    for field, choices in CHOICES.items():
        if field in options:
            check_name(f"config.model.{field}", options[field], choices)
    network = MODELS[options.name]
    fields = {field.name for field in dataclasses.fields(network)} & set(options) - {"name"}
    values: dict[str, Any] = {
        field: tuple(options[field]) if isinstance(options[field], list) else options[field]
        for field in fields
    }
    if network is NCSNpp:
        values["centered"] = config.data.centered
    return network(**values)
