"""The network of a config with its preconditioning, and whether its parts go together."""

import dataclasses
import warnings
from typing import Any

import jax
import jax.numpy as jnp

import models
import sde_lib
from experiments.build.checks.missing import missing
from experiments.build.fields import choices, sections
from experiments.pipeline.model import check_kind
from experiments.training.objective import Loss
from models import NoiseModel, few_steps
from models.config import Config
from models.dit import DiT, check_patches
from models.mixing import MixedModel

SIGMA_DATA = {  # components that use config.model.sigma_data
    "model.parametrization": ("edm", "energy"),
    "weighting.name": ("edm", "soft_min_snr"),
    "noise_density.name": ("v_diffusion", "cosine_interpolated"),
}


def noise_model(config: Config, sde: sde_lib.SDE, shape: tuple[int, ...]) -> NoiseModel:
    """The network with its preconditioning.

    Raises:
        ValueError: a network that does not go with its labels, its data or the objective.
    """
    _check_data(config, shape)
    network = models.create(config)
    encoder: Any = getattr(network, "encoder", network)
    if isinstance(encoder, DiT):
        check_patches(shape, encoder.patch_size)
    make = MixedModel if config.latent.name == "lsgm" else NoiseModel
    make = few_steps.MODELS.get(config.objective.name, make)
    made = make(network, models.preconditioning(config, sde), missing(config))
    if config.model.name != "autoencoder":
        made.preconditioning.check(encoder)
    learned = made.preconditioning.learned_variance
    if learned != (config.objective.name in choices.VARIATIONAL):
        raise ValueError(
            f"config.model.learned_variance is {learned}, config.objective.name "
            f"{config.objective.name!r}: the variance is learned by 'hybrid' or 'vlb', and by "
            "these alone"
        )
    if learned and not isinstance(sde, sde_lib.Table):
        raise ValueError(
            "config.model.learned_variance needs the levels of DDPM's chain: set "
            "config.training.continuous=False and config.training.sde='chain' or one of "
            f"{choices.DISCRETISED}"
        )
    return made


def uses_sigma_data(config: Config) -> bool:
    """True if a component that the config chooses uses config.model.sigma_data."""
    return any(sections.get(config, field) in names for field, names in SIGMA_DATA.items())


def check_sigma_data(config: Config) -> None:
    """Raises ValueError for a config.model.sigma_data that nothing in the config uses."""
    if sections.is_set(config, "model.sigma_data") and not uses_sigma_data(config):
        users = ", ".join(f"config.{field} = {names}" for field, names in SIGMA_DATA.items())
        raise ValueError(
            f"config.model.sigma_data is {config.model.sigma_data!r}, which does nothing here: "
            f"leave it out, or choose one of {users}"
        )


def _check_data(config: Config, shape: tuple[int, ...]) -> None:
    """Raises ValueError for a network that takes no data of this shape."""
    if config.data.autoencoder and len(shape) not in models.data_axes(models.network_class(config)):
        raise ValueError(
            f"config.data.autoencoder gives latents of the shape {shape}, which are not for the "
            f"network {config.model.name!r}: leave it out"
        )
    models.check_shape(config, shape)


def check_traced(sampler: Any, model: NoiseModel, loss: Loss | None) -> None:
    """Raises ValueError for a sampler or a loss that does not go with the SDE, by tracing them."""
    check_kind(sampler, model)
    sde, x = model.sde, jnp.zeros((1, 2))
    score_fn: sde_lib.ScoreFn = lambda x, t: x  # noqa: E731
    if model.preconditioning.learned_variance:
        score_fn = sde_lib.ScoreAndVariance(lambda x, t: (x, x))
    if model.gives == "mean_flow":
        score_fn = sde_lib.MeanFlow(score_fn, lambda x, r, t: x)
    if model.preconditioning.name == "energy":
        score_fn = sde_lib.ScoreAndEnergy.of(lambda x, t: jnp.sum(x**2, axis=1))
    if getattr(sampler, "variance", None) == "analytic":
        stand_in = sde_lib.AnalyticVariance((0.0,), (1.0,))
        sampler = dataclasses.replace(sampler, variance=stand_in)
    key = jax.random.key(0)
    with warnings.catch_warnings(action="ignore"):  # sampling itself will warn
        jax.eval_shape(lambda key: sampler(key, sde, score_fn, x.shape), key)
    if loss is not None:
        jax.eval_shape(lambda key: loss(key, sde, score_fn, x), key)
    jax.eval_shape(model.preconditioning.network_inputs, x, jnp.ones(1))
