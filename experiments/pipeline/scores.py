"""A trained model as a score function, evaluated on all devices."""

from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh

import models
from experiments.data import captions
from experiments.pipeline import conditions
from experiments.pipeline.conditions import Conditions
from experiments.runs import sharding
from models.config import Config
from samplers import guidance, guidance_schedules
from sde_lib import SDE, ScoreFn
from sde_lib.checks import check_positive


def score_fn(
    config: Config,
    sde: SDE,
    model: nn.Module,
    mesh: Mesh,
    params: Any,
    told: Conditions | None = None,
) -> ScoreFn:
    """Inside jit: models.score_fn, without dropout; `told` are the conditions of its samples."""
    params = sharding.gather(mesh, params)
    return sharding.spread(mesh, models.score_fn(config, sde, model, params, **(told or {})))


def sampling_score_fn(
    config: Config,
    sde: SDE,
    model: nn.Module,
    mesh: Mesh,
    params: Any,
    indices: jax.Array,
    given: Conditions | None = None,
) -> ScoreFn:
    """Inside jit: the score that samples of these indices, [B], are drawn by.

    That given what config.sampling says of them (experiments/conditions.py), with classifier-free
    guidance by cfg_weight, and away from negative_label and negative_prompt. `given` are further
    conditions, or others in place of those.
    """
    told = conditions.of_samples(config, indices, given)
    if not is_guided(config):
        return score_fn(config, sde, model, mesh, params, told)
    params = sharding.gather(mesh, params)  # here, and not in every call

    def conditional_score_fn(x, t, told):
        return score_fn(config, sde, model, mesh, params, told)(x, t)

    negative = conditions.to_avoid(config, told)
    two_terms = negative is not None and config.sampling.negative_terms == 2
    return guidance.classifier_free(
        conditional_score_fn,
        told,
        schedule(config, sde, config.sampling.cfg_weight),
        None if two_terms else conditions.left_out(config, told),
        negative,
    )


def is_guided(config: Config) -> bool:
    """Whether config.sampling asks for more than the score given a class or a text.

    So does a schedule, of the weight 1 too; that of "interval" is 1 everywhere. With a classifier,
    and nothing else said, it is the classifier's.
    """
    options = config.sampling
    scheduled = options.guidance_schedule not in ("constant", "interval")
    scheduled &= is_conditional(config) and not options.classifier
    negative = options.negative_label >= 0 or captions.has_negative(config)
    return scheduled or options.cfg_weight != 1 or negative


def is_conditional(config: Config) -> bool:
    """Whether the model knows what can be left out: classes, or texts."""
    return bool(config.model.class_conditional or config.model.text)


def schedule(
    config: Config, sde: SDE, weight: float | jax.Array, outside: float = 1.0
) -> guidance.Weight:
    """config.sampling.guidance_schedule of a weight: as it is if constant, else a function of t.

    Args:
        outside: the weight beyond the noise levels of "interval": 1 is the score of the class in
            classifier-free guidance; of a gradient, 0 leaves it out.

    Raises:
        ValueError: an unknown schedule, options that are missing or not its own, or a weight that
            is negative or not finite.
    """
    name, options = config.sampling.guidance_schedule, config.sampling
    own = {field: options[f"schedule_{field}"] for field in ("low", "high", "least", "power")}
    if name == "interval":
        own["outside"] = outside
    made = guidance_schedules.create(name, weight, sde, **own)
    return weight if name == "constant" else made


def check(config: Config, sde: SDE) -> None:
    """Raises ValueError for what config.sampling cannot ask of the model, or of any."""
    model, options, n_classes = config.model, config.sampling, config.data.num_classes
    captions.check(config)
    check_positive(or_zero=True, **{"config.sampling.cfg_weight": options.cfg_weight})
    schedule(config, sde, options.cfg_weight)
    if not 0 <= options.confidence <= 1:
        raise ValueError(
            f"config.sampling.confidence is {options.confidence}: it must be in [0, 1]"
        )
    if options.confidence != 1 and not model.label_confidence:
        raise ValueError("config.sampling.confidence needs a model with label_confidence")
    if options.negative_terms not in (2, 3):
        raise ValueError(
            f"config.sampling.negative_terms is {options.negative_terms}: it must be 3, or 2 to "
            "leave out the score without a class"
        )
    if options.guidance_schedule != "constant" and not (is_guided(config) or options.classifier):
        raise ValueError(
            f"config.sampling.guidance_schedule is {options.guidance_schedule!r}, but there is "
            "nothing to guide: give config.sampling.cfg_weight or classifier, or leave it out"
        )
    negative = options.negative_label
    if model.class_conditional:
        check_label(config, n_classes)
        if not -1 <= negative < n_classes or negative == options.label >= 0:
            raise ValueError(
                f"config.sampling.negative_label is {negative}: it must be a class, 0 to "
                f"{n_classes - 1}, other than config.sampling.label = {options.label}, or -1 for "
                "none"
            )
    elif negative >= 0 or (options.label >= 0 and not options.classifier):
        name = "negative_label" if negative >= 0 else "label"
        raise ValueError(
            f"config.sampling.{name} needs a model with classes (config.model.class_conditional), "
            "or a guide: give config.sampling.classifier"
        )
    if not is_guided(config):
        return
    if not is_conditional(config):
        raise ValueError(
            "config.sampling.cfg_weight needs a model with classes (config.model.class_conditional)"
            " or text (config.model.text); to guide another one, give config.sampling.classifier"
        )
    avoids = negative >= 0 or captions.has_negative(config)
    two_terms = avoids and options.negative_terms == 2
    by_confidence = model.label_confidence and not model.text
    if not ((two_terms and not model.text) or model.label_dropout or by_confidence):
        raise ValueError(
            f"config.sampling.cfg_weight = {options.cfg_weight} and what is negative need the "
            "score without a class or text, which this model has not learned: train one with "
            "config.model.label_dropout=0.1, or guide by config.sampling.classifier"
        )


def check_label(config: Config, n_classes: int) -> None:
    """Raises ValueError for a config.sampling.label that is none of n_classes."""
    label = config.sampling.label
    if not -1 <= label < n_classes:
        raise ValueError(
            f"config.sampling.label is {label}: it must be a class, 0 to {n_classes - 1}, or -1 for"
            " all in turn"
        )
