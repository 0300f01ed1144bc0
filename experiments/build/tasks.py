"""Tasks from configs, by the kind of model: makers by name in TASKS.

A new task is a new file with a class like those in experiments/tasks and a maker, and a line here.
config.model.name = the new name then chooses it.
"""

from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

import models
from experiments.build import frozen, pipelines, related, reports, restored
from experiments.build import guidance as build_guidance
from experiments.build.components import (
    diffusion,
    networks,
    objectives,
    optimization,
    sampling,
    specs,
)
from experiments.build.fields import choices, known_fields, sections
from experiments.pipeline.pipeline import Pipeline
from experiments.runs.samples import read_about, read_classes
from experiments.tasks.autoencoder import Autoencoder, Losses
from experiments.tasks.base import Records, Task
from experiments.tasks.classifier import Classifier
from experiments.tasks.discriminator import Discriminator
from experiments.tasks.few_steps import Consistency, MeanFlow
from experiments.tasks.joint import JointModel
from experiments.tasks.score_model import ScoreModel
from models.checked import check_attention
from models.config import Config
from sde_lib.checks import check_at_least, check_in

COUNTS = (  # of at least 1, or more where they are used
    *("sampling.n_samples", "eval.batch_size", "eval.num_samples", "eval.n_seeds"),
    *("eval.bound_steps", "edit.n_images", "detect.n_images", "detect.n_steps"),
    *("exposure_bias.n_samples", "ablate.n_samples", "ablate.n_seeds", "ablate.n_report"),
    *("study.posterior.n_measurements", "study.posterior.n_samples", "serve.port"),
    *("study.guidance.n_samples", "study.guidance.n_seeds", "study.memorisation.n_samples"),
    *("study.autoguidance.n_samples", "study.autoguidance.n_seeds"),
    *("study.grid.order", "study.grid.n_fine", "study.grid.n_samples"),
    *("study.discriminator.nfe", "study.discriminator.n_samples", "study.discriminator.n_data"),
    *("study.one_step.n_levels", "study.one_step.n_samples"),
    *("study.forward.n_times", "study.forward.n_images", "study.schedules.n_levels"),
    *("study.trajectories.steps", "study.trajectories.n_samples", "study.trajectories.n_paths"),
    *("study.langevin.n_iters", "study.langevin.n_samples"),
)
NOISE_STD = "config.study.posterior.noise_std"
DISCRIMINATOR = (  # fields of discriminators
    *("data.generated", "data.generated_test_fraction"),
    *("model.encoder", "model.head", "model.pretrained"),
)
NO_SCORE = (  # fields and sections of score models
    *("objective.soft_truncation", "objective.loss_history", "model.learned_schedule"),
    "objective.log_variance",
    *("model.label_dropout", "data.confidence", "sampling.low_res"),
    *("data.missing", "data.hidden_fraction"),
    "sampling.condition",
)
SCORE_SECTIONS = ("guidance", "image_condition", "latent")
REPORTS = ("likelihood", "accuracy", "reconstruction", "pictures", "quality", "spectrum")


def task(config: Config, mesh: Mesh | None = None) -> Task:
    """The task of config.model.name, with everything that its training needs.

    Args:
        config: of the training.
        mesh: the devices; None: as config.mesh arranges those that are here.

    Raises:
        ValueError: anything in the config that training cannot have.
    """
    known_fields.check(config, extended=True)
    optimization.training(config)  # checks its numbers
    specs.augmentation(config)
    sampling.likelihood(config)
    sampling.edit(config)
    choices.STUDY.check(config)
    sampling.fit(config)
    specs.transform(config)
    sections.check_needed(config, "model", "text", ("text_length", "text_width", "text_depth"))
    for name in ("data.num_classes", "sampling.batch_size", "study.autoguidance.n_iters"):
        check_at_least(0, **{f"config.{name}": sections.get(config, name)})
    counts = {f"config.{name}": sections.get(config, name) for name in COUNTS}
    check_at_least(1, **{name: count for name, count in counts.items() if count is not None})
    if (watts := config.training.device_watts) is not None:
        check_in("(0, inf)", **{"config.training.device_watts": watts})
    if (least := config.data.least_confidence) is not None:
        check_in("[0, 1]", **{"config.data.least_confidence": least})
    check_at_least(0, **{"config.ablate.n_shown": config.ablate.n_shown})
    check_in("[0, inf)", True, **{NOISE_STD: config.study.posterior.noise_std})
    check_in("(0, 1)", **{"config.study.memorisation.level": config.study.memorisation.level})
    name = config.model.name if config.model.name in TASKS else models.kind(config)
    if name != "autoencoder" and not config.data.autoencoder:
        _check_not_set(config, sections.fields_in("autoencoder"), "autoencoders")
    if name != "discriminator":
        _check_not_set(config, DISCRIMINATOR, "discriminators")
    return TASKS[name](config, mesh or optimization.mesh(config))


def score_model(config: Config, mesh: Mesh) -> ScoreModel:
    """The task of a score model. Other runs are loaded when training starts, not here."""
    model, sde = pipelines.untrained(config, mesh), diffusion.sde(config)
    _check_attention(config, model.diffused_shape)

    @cache
    def more() -> dict[str, Any]:
        return pipelines.guidance_of(config, None)

    def complete(model: Pipeline, folder: Path) -> Pipeline:
        return model.replace(**more(), decoder=pipelines.decoder(config, folder))

    def records() -> Records:
        if config.guidance.discriminator.run:
            raise ValueError(
                "config.guidance.discriminator.run guides a trained model, whose samples it knows: "
                "leave it out of mode train"
            )
        if build_guidance.has_auto(config):
            raise ValueError(
                "config.guidance.auto.run guides a trained model, which is better than its guide: "
                "leave it out of mode train"
            )
        more()  # refuses runs that cannot guide before training starts
        return {**frozen.confidence_record(config), **frozen.teacher_record(config)}

    make = JointModel if model.codec else ScoreModel
    return MAKERS.get(config.objective.name, lambda _: make)(config)(
        model,
        objectives.loss_of(config, sde, model.diffused_shape),
        objectives.held_out_loss(config, sde, model.diffused_shape),
        optimization.adam(config),
        specs.augmentation(config),
        diffusion.learned_schedule(config),
        objectives.loss_history(config),
        config.data.num_classes if config.model.class_conditional else 0,
        records,
        Path(config.data.autoencoder) if config.data.autoencoder else None,
        complete,
        lambda pipeline, dataset, losses: reports.subject(config, pipeline, dataset, losses),
        config.sampling.n_samples,
        config.data.hidden_fraction,
        objectives.log_variance(config),
    )


def consistency(config: Config) -> Callable[..., ScoreModel]:
    """The task of a consistency model, which loads its teacher once training starts."""
    if not config.objective.teacher:
        return Consistency
    return partial(Consistency, teacher=cache(partial(frozen.teacher, config)))


MAKERS: dict[str, Callable[[Config], Callable[..., ScoreModel]]] = {
    "consistency": consistency,
    "mean_flow": lambda config: MeanFlow,
}
"""Tasks of score models whose objective has one of its own, by config.objective.name."""


def classifier(config: Config, mesh: Mesh) -> Classifier:
    """The task of a classifier."""
    _check_no_score(config)
    return Classifier(*_classifier_fields(config, mesh))


def discriminator(config: Config, mesh: Mesh) -> Discriminator:
    """The task of a discriminator."""
    _check_no_score(config)
    source, encoder = Path(config.data.generated), None
    n_conditions = config.data.num_classes if config.model.class_conditional else 0
    if config.model.class_conditional:
        read_classes(source)  # refuses samples without them before anything is made
    fraction = config.data.generated_test_fraction
    if fraction is not None:
        check_in("[0, 1)", **{"config.data.generated_test_fraction": fraction})
    if config.model.pretrained:
        theirs, folder = frozen.encoder_config(config), Path(config.model.pretrained)
        field = "config.model.pretrained"
        encoder = lambda: restored.weights(theirs, folder, field=field)[0]  # noqa: E731
    about: Any = partial(read_about, source), source, encoder, n_conditions
    return Discriminator(*_classifier_fields(config, mesh), *about)


def autoencoder(config: Config, mesh: Mesh) -> Autoencoder:
    """The task of an autoencoder."""
    _check_no_score(config)
    if config.data.autoencoder:
        raise ValueError(
            "config.data.autoencoder gives latents, which are not for the network 'autoencoder': "
            "leave it out"
        )
    models.check_shape(config, specs.data_shape(config))
    _check_attention(config, specs.data_shape(config))
    _, options = choices.REGULARIZATION.read(config)
    options.pop("codebook_size", None)
    section = config.autoencoder
    sections.check_needed(config, "autoencoder.perceptual", "run", section.perceptual)
    sections.check_needed(config, "autoencoder.adversarial", "weight", section.adversarial)
    names = {
        "perceptual_weight": "autoencoder.perceptual.weight",
        "adversarial_weight": "autoencoder.adversarial.weight",
        "adversarial_start": "autoencoder.adversarial.start",
    }
    losses = Losses(**options, **sections.given(config, names))
    return Autoencoder(
        models.create(config),
        specs.data_shape(config),
        specs.scaling(config),
        losses,
        frozen.perceptual_distance(config) if section.perceptual.run else None,
        optimization.adam(config),
        mesh,
        config.eval.batch_size,
        {"config": config.to_dict(), "seed": config.seed},
        partial(frozen.perceptual_record, config),
    )


TASKS: dict[str, Callable[[Config, Mesh], Task]] = {
    "score": score_model,
    "classifier": classifier,
    "discriminator": discriminator,
    "autoencoder": autoencoder,
}


def _classifier_fields(config: Config, mesh: Mesh) -> tuple[Any, ...]:
    sde, shape = diffusion.sde(config), related.shape(config)
    _check_attention(config, shape)
    n_classes = 2 if models.kind(config) == "discriminator" else config.data.num_classes
    return (
        networks.noise_model(config, sde, shape),
        shape,
        specs.scaling(config),
        n_classes,
        objectives.noise_density(config, sde, shape),
        optimization.adam(config),
        mesh,
        config.seed,
        config.eval.batch_size,
    )


def _check_attention(config: Config, shape: tuple[int, ...]) -> None:
    """Raises ValueError for a config.model.attn_resolutions that the network does not have."""
    network: Any = models.create(config)
    if "attn_resolutions" in config.model:  # the network's own default may not fit
        encoder = network.encoder if models.kind(config) == "discriminator" else network
        check_attention(encoder, shape[0])


def _check_no_score(config: Config) -> None:
    """Raises ValueError for options of score models, or of components that are not chosen."""
    sampling.sampler(config)
    for choice in (choices.OBJECTIVE, choices.WEIGHTING):
        choice.read(config)
    whole = (field for name in SCORE_SECTIONS for field in sections.fields_in(name))
    fields = *NO_SCORE, *whole
    _check_not_set(config, fields, "score models")


def _check_not_set(config: Config, fields: Iterable[str], owners: str) -> None:
    """Raises ValueError for a field that is set, but belongs to other kinds of model."""
    for field in fields:
        if sections.is_set(config, field):
            raise ValueError(
                f"config.{field} is of {owners}, not of {config.model.name!r}: leave it out"
            )
