"""The SDE of a config, and the noise levels of discrete training."""

from typing import Any

import models
import sde_lib
from experiments.build.fields import choices, sections
from models.config import Config
from sde_lib.checks import check_at_least


def sde(config: Config) -> sde_lib.SDE:
    """The SDE that config.training.sde names, with its numbers from config.model.

    In discrete training, one that preserves variance is that through the levels of DDPM's chain.

    Raises:
        ValueError: an unknown SDE, impossible numbers, or continuous training of a chain.
    """
    name, options = choices.SDE.read(config)
    if name == "chain":
        return _chain(config, bool(options.get("zero_terminal_snr")))
    made = choices.SDES[name][0](**options)
    if config.training.continuous or name not in choices.DISCRETISED:
        return made
    return sde_lib.Table(tuple(made.levels(config.model.num_scales).tolist()))


def _chain(config: Config, zero_terminal_snr: bool) -> sde_lib.SDE:
    schedule, options = choices.BETAS.read(config)
    if config.training.continuous:
        raise ValueError(
            "config.training.sde = 'chain' has config.model.num_scales noise levels: set "
            "config.training.continuous=False"
        )
    return sde_lib.chain(config.model.num_scales, schedule, zero_terminal_snr, **options)


def learned_schedule(config: Config) -> models.LearnedSchedule | None:
    """The learned noise schedule, between the ends of the SDE "log_linear"; None without one."""
    if not config.model.learned_schedule:
        return None
    own = config.objective.name, config.training.sde, config.training.continuous
    if own != ("vdm", "log_linear", True):
        raise ValueError(
            "config.model.learned_schedule belongs to config.objective.name = 'vdm' and "
            "config.training.sde = 'log_linear', here they are "
            f"{own[0]!r} and {own[1]!r}, with config.training.continuous = {own[2]} (needed: True)"
        )
    ends: Any = sde(config)
    return models.LearnedSchedule(ends.gamma_min, ends.gamma_max)


def n_levels(config: Config) -> int | None:
    """Noise levels of discrete training; None for continuous.

    Raises:
        ValueError: config.model.num_scales is out of range, or set without effect.
    """
    number = config.model.num_scales
    check_at_least(1, **{"config.model.num_scales": number})
    network = models.network_class(config)
    used = not config.training.continuous or hasattr(network, "num_scales")
    if sections.is_set(config, "model.num_scales") and not used:
        raise ValueError(
            f"config.model.num_scales is {number}, which does nothing in continuous training of "
            f"{config.model.name!r}: leave it out, or set config.training.continuous=False"
        )
    return None if config.training.continuous else config.model.num_scales
