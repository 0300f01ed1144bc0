"""Frozen networks of other runs that a training uses: encoders, teachers, perceptual distances.

The record of each tells a run that goes on whether they are still those that it began with.
"""

import hashlib
from pathlib import Path
from typing import Any

import models
from experiments.build import alike, related, restored
from experiments.build.components import diffusion, networks, specs
from experiments.build.fields import sections
from experiments.evaluation.features import load as load_features
from experiments.runs import devices, parts
from experiments.tasks import perceptual
from experiments.tasks.base import Records
from experiments.tasks.few_steps import Teacher
from models import torch_import
from models.config import Config

FREE = {"name", "parent", "remat", "dtype", "dropout", "num_outputs"}
"""Fields in which an encoder may differ from the network whose weights it has."""


def encoder_config(config: Config) -> Config:
    """The config of the run in config.model.pretrained, whose weights the encoder has.

    An encoder that sees the noise level alone goes with any SDE under which it sees the same.

    Raises:
        ValueError: no run, or one of another network, noise or data.
    """
    folder = Path(config.model.pretrained)
    related.check_run(folder, "config.model.pretrained")
    theirs = related.beside(config, folder)
    own, its = (models.preconditioning(each, diffusion.sde(each)) for each in (config, theirs))
    any_sde = own.any_sde and own.sees_alike(its)
    alike.check_noise(config, theirs, folder, "encoder", "config.model.pretrained", any_sde)
    if theirs.model.class_conditional:
        raise ValueError(
            f"the network in {folder} is conditioned on classes, which a discriminator is not: "
            "take another config.model.pretrained"
        )
    fields = {"model.name": (config.model.encoder, theirs.model.name)}
    if theirs.model.name == config.model.encoder:
        ours: Any = models.create(config)
        ours, other = ours.encoder, models.create(theirs)
        names = set(vars(type(ours))["__dataclass_fields__"]) - FREE
        fields |= {f"model.{name}": (getattr(ours, name), getattr(other, name)) for name in names}
        named = its.inputs != "unscaled" and not any_sde
        for name in ("parametrization", "sigma_data", "label_scale") if named else ():
            fields[f"model.{name}"] = config.model[name], theirs.model[name]
    for name, (own, other) in fields.items():
        if own != other:
            raise ValueError(
                f"the network in {folder} has {name} = {other!r}, the encoder here {own!r}: take "
                "the fields of config.model from that run"
            )
    return theirs


def perceptual_distance(config: Config) -> perceptual.Distance:
    """The perceptual distance by config.autoencoder.perceptual.run.

    That is a file of Inception's weights, or the folder of a classifier of these images, which sees
    them at its SDE's least noise.

    Raises:
        ValueError: neither of these, or a classifier of images of another shape or range.
    """
    path = Path(config.autoencoder.perceptual.run)
    if path.is_file():
        shape = specs.data_shape(config)
        if len(shape) != 3:
            raise ValueError(
                f"config.autoencoder.perceptual.run is {str(path)!r}, weights of Inception, which "
                f"sees images, and the data are {models.data_kind(shape)}: give the folder of a "
                "classifier of them, or leave it out"
            )
        params = torch_import.inception(load_features(path))
        return perceptual.distance(perceptual.inception_layers(params, specs.scaling(config)))
    if not path.exists():
        raise ValueError(
            f"config.autoencoder.perceptual.run is {str(path)!r}: give a file of Inception's "
            "weights, or the folder of a classifier"
        )
    field = "config.autoencoder.perceptual.run"
    theirs = related.config(config, path, field, "classifier")
    aspects = ("shape of data", "range of data")
    alike.check_equal(config, theirs, path, "classifier", field, aspects)
    model = networks.noise_model(theirs, diffusion.sde(theirs), related.shape(theirs))
    params, _ = restored.weights(theirs, path, field=field)
    params = devices.fetch(params)  # a train step closes over them
    return perceptual.distance(perceptual.classifier_layers(model, params))


def confidence_record(config: Config) -> Records:
    """The record of the classifier whose confidences a run learns from; {} without one."""
    if not config.data.confidence:
        return {}
    return _record(config, "data.confidence", "the confidences", "confidence.json")


def teacher_record(config: Config) -> Records:
    """The record of the teacher of a consistency model; {} without one."""
    if not config.objective.teacher:
        return {}
    _teacher_config(config)  # refuses one that does not fit
    return _record(config, "objective.teacher", "a teacher", "teacher.json", "score")


def perceptual_record(config: Config) -> Records:
    """The record of the network of the perceptual distance; {} without one."""
    if not config.autoencoder.perceptual.run:
        return {}
    return _record(
        config, "autoencoder.perceptual.run", "the perceptual distance", "perceptual.json"
    )


def _record(config: Config, field: str, what: str, name: str, kind: str = "classifier") -> Records:
    path = Path(sections.get(config, field))
    if path.is_file():
        about: dict[str, Any] = {"model": hashlib.sha256(path.read_bytes()).hexdigest()}
    else:
        theirs = related.config(config, path, f"config.{field}", kind)
        params, step = restored.weights(theirs, path, field=f"config.{field}")
        about = {"model": parts.digest(params), "step": step}
    changed = f"the model was trained with {what} of another model than that now in {path}"
    return {name: (about, f"{changed}: choose another --workdir")}


ALIKE = (
    *("class_conditional", "label_confidence", "augment_dim"),
    *("text", "vector_dim", "attributes"),
)
"""Conditions that a teacher must have like its student."""


def teacher(config: Config) -> Teacher:
    """The teacher in config.objective.teacher, with its weights.

    Raises:
        ValueError: no run, no score model, or one of another SDE, shape, data or conditions.
    """
    theirs, folder = _teacher_config(config), Path(config.objective.teacher)
    model = networks.noise_model(theirs, diffusion.sde(theirs), related.shape(theirs))
    params = devices.fetch(restored.weights(theirs, folder, field="config.objective.teacher")[0])
    return Teacher(lambda params, conditions: model.score_fn(params, **conditions), params)


def _teacher_config(config: Config) -> Config:
    folder = Path(config.objective.teacher)
    theirs = related.config(config, folder, "config.objective.teacher", "score")
    _check_teacher(config, theirs, folder)
    return theirs


def _check_teacher(config: Config, theirs: Config, folder: Path) -> None:
    """Raises ValueError for a teacher whose probability flow is not that of the student's data."""
    name = theirs.objective.name
    if name == "consistency" or theirs.latent.name:
        field = "latent.name" if theirs.latent.name else "objective.name"
        raise ValueError(
            f"config.objective.teacher, {folder}, was trained with config.{field}="
            f"{theirs.latent.name or name!r} and has no probability flow of data: give a run of "
            "the objective 'denoising'"
        )
    if theirs.objective.bridge or theirs.source.name not in ("", "reflow"):
        raise ValueError(
            f"config.objective.teacher, {folder}, was trained with a source or with bridges, and "
            "has no probability flow from noise: give another run"
        )
    alike.check_noise(config, theirs, folder, "teacher", "config.objective.teacher")
    for field in ALIKE:
        here, there = (each.model.get(field) or None for each in (config, theirs))
        if here != there:
            raise ValueError(
                f"config.model.{field} is {here!r}, and {there!r} in the teacher, {folder}: set it "
                "alike, or give another config.objective.teacher"
            )
    low_res = config.model.low_res_size, theirs.model.low_res_size
    images = config.image_condition.name, theirs.image_condition.name
    if low_res[0] != low_res[1] or images[0] != images[1]:
        raise ValueError(
            f"the teacher in config.objective.teacher, {folder}, sees other images beside x: set "
            "config.model.low_res_size and config.image_condition as it has them"
        )
