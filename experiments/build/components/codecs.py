"""Codecs from configs: encoder and decoder (LSGM) or flow (INDM), trained with the score model.

A new codec is a class like those of experiments/pipeline/codec.py and a maker, and a line here.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import models
from experiments.build.components import specs
from experiments.build.fields import choices, sections
from experiments.pipeline.codec import Codec, Coder, Flow
from models.autoencoder import Autoencoder
from models.config import Config
from models.flow import CouplingFlow, check_halves
from models.vector_autoencoder import VectorAutoencoder
from sde_lib.checks import check_at_least

LEAST = {"num_layers": 0, "num_res_blocks": 0}
"""Least values of options that need not be positive."""
NOT_HERE = {  # fields that do not go with a codec
    "data.autoencoder": "which gives latents already",
    "data.auto": "which is advice for noise on the data",
    "data.missing": "which is for models of the data themselves",
    "data.augment": "which changes the data that the likelihood is of",
    "training.init_from": "whose weights are of a score network alone",
}
IMAGES_ALONE = ("ch_mult", "attn_resolutions")
OF_LATENTS = ("guidance.classifier_free", "guidance.schedule", "guidance.form")
"""Sections of guidance that latents can have; the others know noisy data."""


def codec(config: Config) -> Codec | None:
    """The codec that config.latent describes; None without one.

    Raises:
        ValueError: an impossible option, data that it cannot take, or other fields that do not go
            with it.
    """
    name, options = choices.LATENT.read(config)
    options = {option: value for option, value in options.items() if value != ()}
    if not name:
        return None
    for field, why in NOT_HERE.items():
        if value := sections.get(config, field):
            raise ValueError(
                f"config.{field} is {value!r}, {why}: leave it out, or leave out config.latent.name"
            )
    for field in filter(partial(sections.is_set, config), sections.fields_in("guidance")):
        if not field.startswith(OF_LATENTS):
            raise ValueError(
                f"config.{field} is {sections.get(config, field)!r}, which guides noisy data, but "
                f"with config.latent.name={name!r} it is latents that are noisy: leave it out"
            )
    if config.objective.name != "cross_entropy":
        raise ValueError(
            f"config.objective.name is {config.objective.name!r}, which has no bound of the "
            f"likelihood for config.latent.name={name!r}: set it to 'cross_entropy'"
        )
    for option, value in options.items():
        each = value if isinstance(value, tuple | list) else (value,)
        numbers = {f"config.latent.{option}": number for number in each}
        check_at_least(LEAST.get(option, 1), **numbers)
    return CODECS[name](config, options)


def indm(config: Config, options: dict[str, Any]) -> Flow:
    """The flow of INDM."""
    check_halves(specs.data_shape(config))
    scaling = specs.scaling(config)
    if scaling.levels and not scaling.dequantize:
        raise ValueError(
            "config.data.uniform_dequantization is False, but a flow is trained by the density, "
            "which has no bound at the grey levels themselves: set it to True"
        )
    return Flow(CouplingFlow(**options))


def lsgm(config: Config, options: dict[str, Any]) -> Coder:
    """The encoder and decoder of LSGM, whose decoder gives means and log-variances."""
    shape, scaling = specs.data_shape(config), specs.scaling(config)
    levels = None if scaling.dequantize else scaling.levels
    channels = options.pop("channels", shape[-1] if len(shape) == 1 else 4)
    sizes: dict[str, Any] = {"latent_channels": channels, "channels": 2 * shape[-1]}
    if len(shape) == 1:
        for name in IMAGES_ALONE:
            if name in options:
                raise ValueError(
                    f"config.latent.{name} is {options[name]!r}, which is for images, and the data "
                    f"are {models.data_kind(shape)}: leave it out"
                )
        network = VectorAutoencoder(**sizes, **options)
        return Coder(network, (channels,), scaling.range, levels)
    options = {"nf": 32, "ch_mult": (1, 2), "num_res_blocks": 1} | options
    factor = 2 ** (len(options["ch_mult"]) - 1)
    if any(side % factor for side in shape[:-1]):
        raise ValueError(
            f"config.latent.ch_mult has {len(options['ch_mult'])} levels, which halve the sides "
            f"{len(options['ch_mult']) - 1} times, but the data have the shape {shape}: give fewer"
        )
    heights = [shape[0] // 2**level for level in range(len(options["ch_mult"]))]
    for height in options.get("attn_resolutions", ()):
        if height not in heights:
            raise ValueError(
                f"config.latent.attn_resolutions has {height}, but the levels of config.latent."
                f"ch_mult are {', '.join(map(str, heights))} pixels high: give some of these"
            )
    network = Autoencoder(**sizes, **options, centered=config.data.centered)
    latent = *(side // factor for side in shape[:-1]), channels
    return Coder(network, latent, scaling.range, levels)


CODECS: dict[str, Callable[[Config, dict[str, Any]], Codec]] = {"lsgm": lsgm, "indm": indm}
