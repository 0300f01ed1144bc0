"""Pipelines from configs: a model without weights for training, or a trained run."""

from pathlib import Path
from typing import Any

from jax.sharding import Mesh

import models
from experiments.build import alike, conditions, data, guidance, published, related, restored
from experiments.build.checks import couplings
from experiments.build.components import (
    codecs,
    diffusion,
    networks,
    objectives,
    optimization,
    sampling,
    specs,
)
from experiments.build.fields import choices, configs, known_fields, migrate, sections
from experiments.data import latents, scaling
from experiments.pipeline.cascade import SuperResolution
from experiments.pipeline.pipeline import Pipeline
from experiments.runs import files
from models.config import Config
from sde_lib.checks import check_name


def load(
    source: str | Path,
    step: int | None = None,
    overrides: dict[str, Any] | None = None,
    ema_length: float | None = None,
) -> Pipeline:
    """A trained model, from its run's folder or from a published file, folder or name.

    Args:
        source: a run's folder; or what mode import takes.
        step: of the checkpoint; None: the last.
        overrides: values of config fields by their full names, such as "sampling.method".
        ema_length: the override "eval.ema_length", one length.

    Raises:
        ValueError: there is no such model, or one that is no score model; an override that is
            unknown, or that a trained model cannot have.
    """
    path, overrides = files.expand(source), dict(overrides or {})
    if ema_length is not None:
        overrides["eval.ema_length"] = (ema_length,)
    if published.is_published(path):
        if step is not None:
            raise ValueError(f"step is {step}, but {source} is no run with checkpoints: omit it")
        found = published.open_(path)
        config = related.in_latents(with_overrides(found.config(), overrides))
        check_score(config, path)
        if (length := average_length(config)) is not None:
            raise ValueError(
                f"config.eval.ema_length is {length}, but {source} is a published model, without "
                "snapshots of its averages: leave it out"
            )
        made = untrained(config)
        about = {"step": found.found.step or 0, "decoder": data.published_decoder(config)}
        made = made.replace(params=found.params(config, made.shape), **about)
        return made.replace(**guidance_of(config, made.params))
    config = configs.load(path)
    configs.add_own_options(config, overrides)
    configs.check_overrides(known_overrides(config, overrides), path)
    return trained(with_overrides(config, overrides), path, step)


def known_overrides(config: Config, overrides: dict[str, Any]) -> dict[str, Any]:
    """The overrides. Raises ValueError for one of no field, or of a field that has moved."""
    known = configs.fields(config)
    for field in overrides:
        if new := migrate.new_name(field):
            raise ValueError(f"config.{field} is now config.{new}")
        check_name("the override", field, known)
    return overrides


def with_overrides(config: Config, overrides: dict[str, Any]) -> Config:
    """The config with other values, and without options of components that they replace."""
    configs.add_own_options(config, overrides)
    before = config.copy_and_resolve_references()
    for field, value in known_overrides(config, overrides).items():
        sections.put(config, field, value)
    sections.reset_options(config, before, choices.CHOICES, overrides)
    configs.expand_paths(config)
    return config


def check_score(config: Config, source: Path) -> None:
    """Raises ValueError for a model that is no score model."""
    if (kind := models.kind(config)) != "score":
        raise ValueError(
            f"{source} holds the model {config.model.name!r}, {'an' if kind[0] == 'a' else 'a'} "
            f"{kind}, which has no samples: give a score model"
        )


def trained(config: Config, folder: Path, step: int | None = None) -> Pipeline:
    """The trained model of a run, sampled and scored as the config says."""
    check_score(config, folder)
    configs.check_same(config, folder, configs.USE)
    made = untrained(config)  # refuses what is impossible before the weights are read
    weights = restored.weights(config, folder, step, average_length(config))
    return _with_weights(made, config, folder, *weights)


def average_length(config: Config) -> float | None:
    """The length of the average that config.eval.ema_length asks for; None: the checkpoint's."""
    lengths = config.eval.ema_length
    if len(lengths) > 1:
        raise ValueError(
            f"config.eval.ema_length is {lengths}: give one length here; --mode=evaluate compares "
            "several"
        )
    return lengths[0] if lengths else None


def with_weights(
    model: Pipeline, config: Config, folder: Path, step: int | None = None
) -> Pipeline:
    """A model with the weights of another step or length of its run, and its compiled programs."""
    length = average_length(config)
    params, step = restored.weights(config, folder, step, length)
    guided = model.guides or model.auto
    more = guidance_of(config, params, folder) if guided else {}
    return model.replace(params=params, step=step, ema_length=length, **more)


def as_config(model: Pipeline, config: Config, folder: Path) -> Pipeline:
    """The trained model of a run, sampled and edited as another config of the run says."""
    configs.check_same(config, folder, configs.USE)
    return _with_weights(untrained(config), config, folder, model.params, model.step)


def _with_weights(made: Pipeline, config: Config, folder: Path, params: Any, step: int) -> Pipeline:
    about: Any = {"step": step, "ema_length": average_length(config), "folder": folder}
    made = made.replace(params=params, decoder=decoder(config, folder), **about)
    made = made.replace(conditions=made.conditions.of_run(folder))
    made = made.with_scaling(scaling.of_run(made.scaling, folder))
    alike.check_moments(config, made.scaling)
    return made.replace(**guidance_of(config, params, folder))


def untrained(config: Config, mesh: Mesh | None = None) -> Pipeline:
    """The model that the config describes, without weights, decoder, guides and base.

    No other run is loaded for it.

    Args:
        config: of the model.
        mesh: the devices; None: as config.mesh arranges those that are here.
    """
    known_fields.check(config, extended=True)
    sde, shape = diffusion.sde(config), related.shape(config)
    codec, sampler = codecs.codec(config), sampling.sampler(config)
    model = networks.noise_model(config, sde, codec.latent_shape(shape) if codec else shape)
    loss = objectives.loss_of(config, sde, shape)(None)
    networks.check_traced(sampler, model, loss)
    networks.check_sigma_data(config)
    guidance.given_options(config)
    its_conditions = conditions.conditions(config)
    return Pipeline(
        model,
        None,
        shape,
        specs.scaling(config),
        sampler,
        data.lazily(config),
        its_conditions,
        guidance.classifier_free(config, sde, its_conditions),
        likelihood=sampling.likelihood(config),
        codec=codec,
        super_resolution=super_resolution(config),
        grey_levels=grey_levels(config),
        n_levels=diffusion.n_levels(config),
        bound_steps=config.eval.bound_steps,
        mesh=mesh or optimization.mesh(config),
        seed=config.seed,
        batch_size=config.sampling.batch_size,
        only_eta=couplings.only_eta(config),
    )


def guidance_of(config: Config, params: Any, folder: Path | None = None) -> dict[str, Any]:
    """The fields of a Pipeline that other runs give: its guides, and its base in a cascade.

    Args:
        config: of the model.
        params: its parameters, whose samples a discriminator that guides must know.
        folder: its run's, whose earlier checkpoint may guide; None without one.
    """
    sde = diffusion.sde(config)
    return {
        "guides": guidance.guides(config, sde, params),
        "auto": guidance.auto(config, sde, params, folder),
        "base": base(config),
    }


def decoder(config: Config, folder: Path) -> latents.Decoder | None:
    """The decoder of a run that learned latents; None for other runs."""
    if not config.data.autoencoder:
        return None
    return latents.load_decoder(data.autoencoder(config), folder)


def grey_levels(config: Config) -> bool:
    """True for a model of the grey levels themselves: the objective "vdm"."""
    if config.objective.name != "vdm":
        return False
    if specs.scaling(config).levels not in range(1, 257):  # it sums over all of them
        raise ValueError(
            "config.objective.name = 'vdm' is for data of at most 256 grey levels: for floats and "
            "latents, set likelihood_weighting and importance_sampling, its diffusion loss"
        )
    if config.data.uniform_dequantization:
        raise ValueError(
            "config.objective.name = 'vdm' is the bound of the grey levels themselves: set "
            "config.data.uniform_dequantization=False"
        )
    return True


def super_resolution(config: Config) -> SuperResolution | None:
    """The low-resolution condition of a super-resolution model; None for other models."""
    model, options = config.model, config.sampling
    if not model.low_res_size:
        for name in ("model.low_res_noise", "sampling.low_res_noise", "sampling.low_res"):
            value = sections.get(config, name)
            if value:
                raise ValueError(
                    f"config.{name} is {value!r}, but the model makes no images larger: train one "
                    "with config.model.low_res_size, or leave it out"
                )
        return None
    if config.data.autoencoder:
        raise ValueError(
            f"config.model.low_res_size is {model.low_res_size}: it is for images, not for the "
            "latents of config.data.autoencoder; leave one of them out"
        )
    if not options.low_res:
        for name in ("label", "labels", "prompt", "embeddings", "condition"):
            if sections.is_set(config, f"sampling.{name}"):
                raise ValueError(
                    f"config.sampling.{name} is {options[name]!r}, but test images are made larger,"
                    " which are of classes and texts already: give config.sampling.low_res, the "
                    "folder of a run, or leave it out"
                )
    shape = specs.data_shape(config)
    if len(shape) != 3 or shape[0] != shape[1]:
        raise ValueError(
            f"config.model.low_res_size is {model.low_res_size}: it is for square images, and the "
            f"data have the shape {shape}; set it to 0"
        )
    noise = model.low_res_noise, options.low_res_noise
    return SuperResolution(model.low_res_size, shape[0], *noise)


def base(config: Config) -> Pipeline | None:
    """The model in config.sampling.low_res, whose samples are made larger; None without one.

    It has its own SDE, sampler and guidance; a label or a prompt is given once for both.

    Raises:
        ValueError: there is no run, or one of other images or without the conditions of this model.
    """
    if not config.sampling.low_res:
        return None
    folder = Path(config.sampling.low_res)
    theirs = related.config(config, folder, "config.sampling.low_res", "score")
    size, options = config.model.low_res_size, config.sampling
    needed = {
        "shape of images": ((size, size, specs.data_shape(config)[-1]), related.shape(theirs)),
        "range of data": (specs.scaling(config).range, specs.scaling(theirs).range),
    }
    if config.model.class_conditional:
        needed["number of classes"] = config.data.num_classes, theirs.data.num_classes
    for field, names in (
        ("class_conditional", ("label", "labels")),
        ("text", ("prompt", "embeddings")),
    ):
        if config.model[field]:
            needed[f"config.model.{field}"] = config.model[field], theirs.model[field]
            theirs.sampling.update({name: options[name] for name in names})
    for what, (ours, other) in needed.items():
        if ours != other:
            raise ValueError(
                f"the {what} of config.sampling.low_res, {folder}, is {other!r}, and here must be "
                f"{ours!r}: give another run, or train one like that"
            )
    theirs.seed, theirs.sampling.condition = config.seed, options.condition
    return trained(theirs, folder)
