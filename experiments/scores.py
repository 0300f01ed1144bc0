"""A trained model as a score function, evaluated on all devices."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

import models
from experiments import sharding
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
    class_labels: jax.Array | None = None,
    confidences: jax.Array | None = None,
) -> ScoreFn:
    """Inside jit: models.score_fn, without dropout.

    class_labels and the confidences in them, [B], reach a model that takes them, and no other.
    """
    params = sharding.gather(mesh, params)
    labels = class_labels if config.model.class_conditional else None
    trust = confidences if config.model.label_confidence else None
    return sharding.spread(
        mesh,
        models.score_fn(config, sde, model, params, class_labels=labels, confidences=trust),
    )


def sampling_score_fn(
    config: Config, sde: SDE, model: nn.Module, mesh: Mesh, params: Any, indices: jax.Array
) -> ScoreFn:
    """Inside jit: the score that samples of these indices, [B], are drawn by.

    Of a model with classes it is that of config.sampling's label and confidence, with classifier-
    free guidance by cfg_weight and negative_label. What it starts from is the score without a
    class, or, of a model with label_confidence and no label_dropout, that of the same class at
    confidence 0 (Dufour et al. 2024).
    """
    options = config.sampling

    def condition(classes, confidence=options.confidence):
        return classes, jnp.full(classes.shape, confidence)

    classes = sampled_classes(config, config.data.num_classes, indices)
    if not is_guided(config):
        return score_fn(config, sde, model, mesh, params, *condition(classes))
    params = sharding.gather(mesh, params)  # here, and not in every call

    def conditional_score_fn(x, t, condition):
        return score_fn(config, sde, model, mesh, params, *condition)(x, t)

    none = jnp.full_like(classes, -1) if config.model.label_dropout else classes
    negative = options.negative_label >= 0
    two_terms = negative and options.negative_terms == 2
    return guidance.classifier_free(
        conditional_score_fn,
        condition(classes),
        schedule(config, sde, options.cfg_weight),
        None if two_terms else condition(none, 0.0),
        condition(jnp.full_like(classes, options.negative_label)) if negative else None,
    )


def is_guided(config: Config) -> bool:
    """Whether config.sampling asks for more than the score of the class.

    So does a schedule, of the weight 1 too; that of "interval" is 1 everywhere. With a classifier,
    and nothing else said, it is the classifier's.
    """
    options = config.sampling
    scheduled = options.guidance_schedule not in ("constant", "interval")
    scheduled &= config.model.class_conditional and not options.classifier
    return scheduled or options.cfg_weight != 1 or options.negative_label >= 0


def sampled_classes(config: Config, n_classes: int, indices: jax.Array) -> jax.Array:
    """The classes of samples: config.sampling.label, or with -1 all n_classes in turn."""
    label = config.sampling.label
    return indices % n_classes if label < 0 else jnp.full_like(indices, label)


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
    if not model.class_conditional:
        if is_guided(config):
            raise ValueError(
                "config.sampling.cfg_weight and negative_label need a model with classes "
                "(config.model.class_conditional); to guide another one, give "
                "config.sampling.classifier"
            )
        if options.label >= 0 and not options.classifier:
            raise ValueError(
                "config.sampling.label needs a model with classes (config.model.class_conditional),"
                " or a guide: give config.sampling.classifier"
            )
        return
    check_label(config, n_classes)
    negative = options.negative_label
    if not -1 <= negative < n_classes or negative == options.label >= 0:
        raise ValueError(
            f"config.sampling.negative_label is {negative}: it must be a class, 0 to "
            f"{n_classes - 1}, other than config.sampling.label = {options.label}, or -1 for none"
        )
    two_terms = negative >= 0 and options.negative_terms == 2
    if is_guided(config) and not (two_terms or model.label_dropout or model.label_confidence):
        raise ValueError(
            f"config.sampling.cfg_weight = {options.cfg_weight} and negative_label = {negative} "
            "need the score without a class, which this model has not learned: train one with "
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
