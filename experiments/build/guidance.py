"""Guidance from config.guidance, with the runs that guide.

A section of config.guidance is used if the option that it needs (NEEDS) is set; setting another one
alone is an error. A guide of experiments/pipeline/guidance.py that is not named here is made from
its section's options.
"""

import inspect
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

import models
from experiments.build import alike, published, related, restored
from experiments.build.checks import couplings
from experiments.build.components import diffusion, networks, sampling
from experiments.build.fields import choices, sections
from experiments.pipeline.autoguidance import Autoguidance
from experiments.pipeline.classifier_free import ClassifierFree
from experiments.pipeline.conditions import Conditions
from experiments.pipeline.guidance import GUIDES, Classifier, Discriminator, Guide, LogRatio
from experiments.runs import folder as folders
from experiments.runs import parts
from experiments.tasks.discriminator import RECORD
from models.config import Config
from samplers.guidance import FORMS, Form
from sde_lib import SDE
from sde_lib.checks import check_at_least, check_in

LOG = logging.getLogger(__name__)
MOST_LOG_RATIO = math.log((1 - 1e-5) / 1e-5)  # of d in [1e-5, 1 - 1e-5] (Kim et al. 2023)
NEEDS = {"classifier": "run", "discriminator": "run", "time_shift": "window"}


def classifier_free(config: Config, sde: SDE, conditions: Conditions) -> ClassifierFree:
    """Classifier-free guidance. If only another model guides, schedule and form are its own."""
    names = ("weight", "negative_terms", "channels")
    options = {name: f"guidance.classifier_free.{name}" for name in names}
    schedule, given = sampling.guidance_schedule(config, sde), sections.given(config, options)
    own: dict[str, Any] = {"schedule": schedule, "form": form(config)}
    auto = has_auto(config)
    others = bool(config.guidance.classifier.run) or auto
    if others or not conditions.droppable:
        if schedule.varies and not others:
            raise ValueError(
                "config.guidance.schedule is set, but there is nothing to guide: "
                "give config.guidance.classifier_free.weight of a model with conditions, "
                "config.guidance.classifier.run or config.guidance.auto.run, or leave it out"
            )
        own = own if "weight" in given else {}
    made = ClassifierFree(**given, **own)
    named = config.guidance.form.name
    if named != "linear" and not (auto or made.changes(conditions)):
        raise ValueError(
            f"config.guidance.form.name is {named!r}, which does nothing without guidance by two "
            f"scores: give config.{options['weight']} or config.guidance.auto.run, or leave it out"
        )
    terms = sections.get(config, options["negative_terms"])
    if terms is not None and not conditions.has_negative:
        raise ValueError(
            f"config.{options['negative_terms']} is {terms}, which does nothing without a negative "
            "condition: give negative_label or negative_prompt, or leave it out"
        )
    if made.channels is not None and not made.changes(conditions):
        raise ValueError(
            f"config.{options['channels']} is {made.channels}, which does nothing without guidance:"
            f" give config.{options['weight']}, or leave it out"
        )
    return made


def form(config: Config) -> Form:
    """The form of classifier-free guidance and autoguidance."""
    name, options = choices.GUIDANCE_FORM.read(config)
    return FORMS[name](**options)


def has_auto(config: Config) -> bool:
    """True if a worse model guides.

    Raises:
        ValueError: a weight without such a model, or a step or length out of range.
    """
    options = config.guidance.auto
    check_at_least(0, **{"config.guidance.auto.step": options.step or 0})
    check_in("(0, inf)", True, **{"config.guidance.auto.ema_length": options.ema_length})
    if options.step is None and options.ema_length is None:
        sections.check_needed(config, "guidance.auto", "run", options)
        return bool(options.run)
    return True


def auto(config: Config, sde: SDE, params: Any, own: Path | None) -> Autoguidance | None:
    """Autoguidance by the run in config.guidance.auto.run, or by the model's own, less trained.

    Args:
        config: of the model that is guided.
        sde: its SDE.
        params: its parameters.
        own: its run's folder; None without one.

    Raises:
        ValueError: no such run or step; a model of another SDE, of other data or conditions; or the
            very model that is guided.
    """
    if not has_auto(config):
        return None
    run, step = config.guidance.auto.run, config.guidance.auto.step
    if not (run or own):
        raise ValueError(
            "config.guidance.auto has a step or ema_length, but the model is not from a run with "
            "checkpoints: give config.guidance.auto.run too"
        )
    folder = Path(run) if run else own
    assert folder is not None
    field = "config.guidance.auto.run"
    theirs = related.config(config, folder, field, "score")
    alike.check_noise(config, theirs, folder, "guide model", field)
    alike.check_equal(config, theirs, folder, "guide model", field, ["conditions"])
    kinds = [(c.objective.name == "consistency", couplings.only_eta(c)) for c in (config, theirs)]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"the guide model, {folder}, and the model have scores of different kinds: give a run "
            "with the same config.objective, config.coupling and config.source"
        )
    model = networks.noise_model(theirs, sde, related.shape(theirs))
    length = config.guidance.auto.ema_length
    weights, step = restored.weights(theirs, folder, step, length, field if run else "")
    if parts.digest(weights) == parts.digest(params):
        raise ValueError(
            f"the guide model, {folder} at step {step}, is the model itself: set "
            "config.guidance.auto.step to an earlier one, ema_length to another average, or run to "
            "the folder of a worse model"
        )
    options = sections.given(config, {"weight": "guidance.auto.weight"})
    schedule = sampling.guidance_schedule(config, sde)
    return Autoguidance(model, weights, **options, schedule=schedule, form=form(config))


def guides(config: Config, sde: SDE, params: Any = None) -> tuple[Guide, ...]:
    """The guides that config.guidance asks for, in their order.

    Args:
        config: of the model that is guided.
        sde: its SDE.
        params: its parameters, whose samples a discriminator must know.
    """
    made: dict[str, Guide] = {}
    for name, options in given_options(config).items():
        loads = name in LOADERS
        guide = LOADERS[name](config, sde, params) if loads else GUIDES[name](**options)
        if getattr(guide, "changes", True):
            made[name] = guide
    order = list(made)
    if config.guidance.epsilon_scaling.guided and {"epsilon_scaling", "discriminator"} <= set(made):
        order.remove("epsilon_scaling")
        order.insert(order.index("discriminator") + 1, "epsilon_scaling")
    return tuple(made[name] for name in order)


def given_options(config: Config) -> dict[str, dict[str, Any]]:
    """The options of each guide that the config asks for, by its name.

    Raises:
        ValueError: an option without the one that it needs, or a number out of range.
    """
    found = {}
    for name, kind in GUIDES.items():
        section = config.guidance.get(name)
        if section is None:
            continue
        if name in NEEDS:
            sections.check_needed(config, f"guidance.{name}", NEEDS[name], section)
        options = {k: v for k, v in section.items() if v is not None and v != ""}
        guided = options.pop("guided", None)
        if guided is not None and not config.guidance.discriminator.run:
            raise ValueError(
                f"config.guidance.{name}.guided is {guided}, but no discriminator guides: give "
                "config.guidance.discriminator.run, or leave it out"
            )
        if not options:
            if guided is not None:
                sections.check_needed(config, f"guidance.{name}", "scale", section)
            continue
        if name not in LOADERS:
            kind(**options)
        found[name] = options
    return found


def classifier(config: Config, sde: SDE, params: Any) -> Classifier:
    """Guidance by the classifier in config.guidance.classifier.run.

    Raises:
        ValueError: no classifier, or one of other noise or data, or without the class.
    """
    folder = Path(config.guidance.classifier.run)
    field = "config.guidance.classifier.run"
    theirs = related.config(config, folder, field, "classifier")
    alike.check_noise(config, theirs, folder, "classifier", field)
    model = networks.noise_model(theirs, sde, related.shape(theirs))
    weights, _ = restored.weights(theirs, folder, field=field)

    def log_probs(params: Any, x: Any, t: Any) -> Any:
        return nn.log_softmax(model.outputs(params)(x, t))

    options = sections.given(config, {"weight": "guidance.classifier.weight"})
    schedule = sampling.guidance_schedule(config, sde)
    about = log_probs, weights, theirs.data.num_classes, sampling.labels(config)
    return Classifier(*about, **options, schedule=schedule)


def discriminator(config: Config, sde: SDE, params: Any) -> Discriminator:
    """Guidance by the discriminator in config.guidance.discriminator.run.

    Raises:
        ValueError: no discriminator, or one of other noise or data, or of the samples of another
            model than that of params, or of classes that the model does not have.
    """
    log_ratio, weights = load_discriminator(config, sde, params)
    names = ("weight", "weight_2nd_order", "boost", "sigma_min", "sigma_max")
    options = sections.given(config, {name: f"guidance.discriminator.{name}" for name in names})
    if "class_labels" in inspect.signature(log_ratio).parameters:
        if not config.model.class_conditional:
            raise ValueError(
                f"the discriminator in {config.guidance.discriminator.run} knows classes, which "
                "the model does not: give one of an unconditional model"
            )
        options |= {"labels": sampling.labels(config), "n_classes": config.data.num_classes}
    return Discriminator(log_ratio, weights, **options)


def load_discriminator(config: Config, sde: SDE, params: Any) -> tuple[LogRatio, Any]:
    """log_ratio(weights, x, t) = log d / (1 - d) of a discriminator d, and its weights.

    It is the difference of the logits, less the log odds of data and samples in training, with d
    clipped to [1e-5, 1 - 1e-5] as published. That of a discriminator with classes takes
    class_labels too. The weights are those of config.guidance.discriminator.step, or the last.
    """
    folder = Path(config.guidance.discriminator.run)
    field = "config.guidance.discriminator.run"
    theirs = related.config(config, folder, field, "discriminator")
    any_sde = models.preconditioning(theirs, diffusion.sde(theirs)).any_sde
    alike.check_noise(config, theirs, folder, "discriminator", field, any_sde)
    model = networks.noise_model(theirs, sde, related.shape(theirs))
    if theirs.model.class_conditional and theirs.data.num_classes < config.data.num_classes:
        raise ValueError(
            f"the discriminator in {folder} knows {theirs.data.num_classes} classes, but "
            f"config.data.num_classes is {config.data.num_classes}: train one of the model's own"
        )
    log_odds = _log_odds(folder, params)
    step = config.guidance.discriminator.step
    weights, _ = restored.weights(theirs, folder, step, field=field)

    def log_ratio(params: Any, x: Any, t: Any, **classes: Any) -> Any:
        logits = model.outputs(params, **classes)(x, t)
        ratio = logits[:, 1] - logits[:, 0] - log_odds
        return jnp.clip(ratio, -MOST_LOG_RATIO, MOST_LOG_RATIO)

    def of_classes(params: Any, x: Any, t: Any, class_labels: Any) -> Any:
        return log_ratio(params, x, t, class_labels=class_labels)

    def of_none(params: Any, x: Any, t: Any) -> Any:
        return log_ratio(params, x, t)

    return of_classes if theirs.model.class_conditional else of_none, weights


def _log_odds(folder: Path, params: Any) -> float:
    """The log odds of data and samples in a discriminator's training; 0 of an imported one.

    Raises:
        ValueError: it was trained on samples of another model than that of params.
    """
    if (folder / published.RECORD).exists() and not (folder / RECORD).exists():
        LOG.warning(
            "the discriminator in %s was imported: it is not known whether it was trained on "
            "samples of this model, without which it guides wrongly",
            folder,
        )
        return 0.0
    about = {"model": "none", "step": 0}
    if (folder / RECORD).exists():
        about = folders.read_record(folder / RECORD)
    ours = parts.digest(params)
    if about["model"] != ours:
        raise ValueError(
            f"the discriminator in {folder} knows samples of the model {about['model']}, at step "
            f"{about['step']}; the one to be guided is {ours}, another or at another step. Make "
            "samples of it by --mode=generate, and train a discriminator of them"
        )
    return about["log_odds"]


LOADERS: dict[str, Callable[[Config, SDE, Any], Guide]] = {
    "classifier": classifier,
    "discriminator": discriminator,
}
