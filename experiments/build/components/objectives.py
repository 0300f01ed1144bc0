"""The training loss of a config, with its noise density and weighting."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp

import models
import sde_lib
from experiments.build.checks import couplings
from experiments.build.components import diffusion, specs
from experiments.build.fields import choices
from experiments.training.objective import Loss
from models import log_variance as log_variances
from models.config import Config
from models.learned_schedule import SCHEDULE
from sde_lib.checks import check_at_least


def noise_density(
    config: Config, sde: sde_lib.SDE, shape: tuple[int, ...] | None = None
) -> sde_lib.noise_density.Quantile | None:
    """The density of noise levels in training; None: t is uniform.

    `shape` is that of a sample in model space; None: as the data set has it.
    """
    name, options = choices.NOISE_DENSITY.read(config)
    return sde_lib.noise_density.create(
        name,
        sde,
        **options,
        sigma_data=config.model.sigma_data,
        image_size=specs.side(shape or specs.data_shape(config)),
    )


def weighting(config: Config, sde: sde_lib.SDE) -> sde_lib.weighting.Weighting | None:
    """The weighting of the loss over noise levels; None for none."""
    name, options = choices.WEIGHTING.read(config)
    if name == "elbo":
        number = diffusion.n_levels(config)
        if number is None:
            raise ValueError(
                "config.weighting.name = 'elbo' is of a chain of noise levels: set "
                "config.training.continuous=False, or take config.training.likelihood_weighting"
            )
        return sde_lib.variational.elbo_weighting(sde.levels(number), **options)
    return sde_lib.weighting.create(name, config.model.sigma_data, **options)


def loss_of(
    config: Config, sde: sde_lib.SDE, shape: tuple[int, ...] | None = None
) -> Callable[[Any], Loss]:
    """The training loss by the parameters, of which those of a schedule or log variance are a part.

    Given None, "vdm" draws noise levels uniformly in log-SNR, and no loss has a log variance.
    """
    name, options = choices.OBJECTIVE.read(config)
    strata = {
        "stratified": config.objective.stratified,
        "n_strata": config.training.batch_size,
    }
    if name == "vdm":
        return _vdm_loss(config, strata)
    if name in choices.VARIATIONAL:
        vlb_weight = 1e-3 if config.objective.vlb_weight is None else config.objective.vlb_weight
        scale = specs.scaling(config)
        loss: Loss = partial(
            sde_lib.variational_loss,
            vlb_weight=vlb_weight if name == "hybrid" else None,
            **strata,
            data_range=scale.range,
            levels=None if scale.dequantize else scale.levels,
        )
        return lambda params: loss
    if name in choices.FEW_STEPS:
        loss = _few_steps_loss(config, sde, shape, name, options | strata)
        return lambda params: loss
    objectives = {
        "denoising": sde_lib.denoising_score_matching,
        "cross_entropy": sde_lib.cross_entropy_loss,
        "explicit": sde_lib.explicit_score_matching,
        "sliced": sde_lib.sliced_score_matching,
        "sliced_vr": partial(sde_lib.sliced_score_matching, variance_reduction=True),
    }
    for option in ("log_variance", "coupling", "bridge"):
        options.pop(option, None)
    options |= couplings.losses(config, sde) if name == "denoising" else {}
    if name == "cross_entropy":
        _check_continuous(config)
    else:
        options |= {
            "noise_density": noise_density(config, sde, shape),
            "weighting": weighting(config, sde),
            "n_levels": diffusion.n_levels(config),
        }
    loss = partial(objectives[name], **options | strata)
    network = log_variance(config)

    def of_params(params: Any) -> Loss:
        if network is None or params is None:
            return loss
        of_label = partial(network.apply, {"params": log_variances.parameters(params)})
        return partial(loss, log_variance=lambda t: of_label(jnp.log(sde.noise_level(t)) / 4))

    return of_params


def _vdm_loss(config: Config, strata: dict[str, Any]) -> Callable[[Any], Loss]:
    """The diffusion loss by the parameters, those of a learned schedule among them."""
    schedule = diffusion.learned_schedule(config)

    def vdm(params: Any) -> Loss:
        if params is None or schedule is None:
            return partial(sde_lib.diffusion_loss, **strata)
        gamma: Any = partial(schedule.apply, {"params": params[SCHEDULE]})
        return partial(sde_lib.diffusion_loss, **strata, schedule=lambda u: -gamma(u))

    return vdm


def _few_steps_loss(
    config: Config,
    sde: sde_lib.SDE,
    shape: tuple[int, ...] | None,
    name: str,
    options: dict[str, Any],
) -> Loss:
    """The loss of a consistency model, without its teacher, or of a mean flow."""
    _check_continuous(config)
    if config.data.missing:
        raise ValueError(
            f"config.objective.name = {name!r} needs complete data, but config.data.missing is "
            f"{config.data.missing!r}: leave one of them out"
        )
    options.pop("teacher", None)
    options["noise_density"] = noise_density(config, sde, shape)
    if name == "mean_flow":
        return partial(sde_lib.mean_flow_loss, **options)
    stages = {field.name for field in dataclasses.fields(sde_lib.Curriculum)} & options.keys()
    curriculum = sde_lib.Curriculum(**{stage: options.pop(stage) for stage in stages})
    return partial(sde_lib.consistency_loss, curriculum=curriculum, **options)


def _check_continuous(config: Config) -> None:
    if diffusion.n_levels(config) is not None:
        raise ValueError(
            "config.training.continuous is False, but config.objective.name = "
            f"{config.objective.name!r} is an integral over t: set it to True"
        )


def held_out_loss(config: Config, sde: sde_lib.SDE, shape: tuple[int, ...] | None = None) -> Loss:
    """The training loss for held-out data: soft truncation would cut all of them at one time."""
    loss: Any = loss_of(config, sde, shape)(None)
    if config.objective.soft_truncation is None:
        return loss
    return partial(loss, soft_truncation=None)


def log_variance(config: Config) -> models.LogVariance | None:
    """The learned log variance of the loss; None without one.

    Raises:
        ValueError: an SDE without one noise level, or an EDM2 with another number of features.
    """
    features = config.objective.log_variance or 0
    check_at_least(0, **{"config.objective.log_variance": features})
    if not features:
        return None
    if config.training.sde == "cld":
        raise ValueError(
            "config.objective.log_variance is of a noise level, which config.training.sde = 'cld' "
            "does not have: leave it out"
        )
    if config.model.get("logvar_channels", features) not in (0, features):
        raise ValueError(
            f"config.objective.log_variance is {features}, config.model.logvar_channels "
            f"{config.model.logvar_channels}: set both to the same number"
        )
    return models.LogVariance(features)


def loss_history(config: Config) -> tuple[int, int] | None:
    """(noise levels, terms kept of each) of the loss history; None without."""
    n = config.objective.loss_history or 0
    check_at_least(0, **{"config.objective.loss_history": n})
    if n and config.training.n_microbatches > 1:
        raise ValueError(
            "config.objective.loss_history is of whole batches: set config.training.n_microbatches="
            "1"
        )
    return (config.model.num_scales, n) if n else None
