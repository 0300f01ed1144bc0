"""What a model is told of a sample beside its noise: its class, how sure that is, a text.

Conditions are a dict, from the keyword arguments of a network to arrays with a row for each sample.
"""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

import models
from experiments.data import captions
from experiments.data.dataset import Dataset
from models.config import Config
from sde_lib.batch import expand, sample_keys

Conditions = dict[str, Any]
NOTHING = {"class_labels": -1, "text": 0}  # what stands for none of what can be left out


def of_data(config: Config, dataset: Dataset, part: Literal["train", "test"]) -> Conditions:
    """Of the data of that part, what the model takes; of a classifier, what it learns."""
    given = {}
    if takes_labels(config):
        given["class_labels"] = getattr(dataset, f"{part}_labels")
    if config.model.label_confidence:
        given["confidences"] = getattr(dataset, f"{part}_confidence")
    if config.model.text:
        given["text"] = captions.of_data(config, dataset, part)
    return given


def takes_labels(config: Config) -> bool:
    """Whether training needs the classes of the data: of a classifier, or as a condition."""
    return models.is_classifier(config) or config.model.class_conditional


def of_samples(config: Config, indices: jax.Array, given: Conditions | None = None) -> Conditions:
    """What config.sampling says to a model of the samples of these indices, [B]; `given` is said.

    Inside jit, a text is to be given: it may have to be read.
    """
    options, told = config.sampling, {}
    if config.model.class_conditional:
        told["class_labels"] = classes_in_turn(options.label, config.data.num_classes, indices)
    if config.model.label_confidence:
        told["confidences"] = jnp.full(indices.shape, options.confidence)
    if config.model.text and "text" not in (given or {}):
        texts = jnp.asarray(captions.of_samples(config))
        told["text"] = texts[indices % len(texts)]
    return told | (given or {})


def classes_in_turn(label: int, n_classes: int, indices: jax.Array) -> jax.Array:
    """The classes of samples: config.sampling.label, or with -1 all n_classes in turn."""
    return indices % n_classes if label < 0 else jnp.full_like(indices, label)


def left_out(config: Config, conditions: Conditions) -> Conditions:
    """What a model is told of nothing: no class, -1, and no text, zeros.

    A model with label_confidence and no label_dropout knows no such thing, but the same class at
    confidence 0 (Dufour et al. 2024).
    """
    none = dict(conditions)
    if "confidences" in none:
        none["confidences"] = jnp.zeros_like(none["confidences"])
    if config.model.label_dropout or "confidences" not in none:
        none = _without(none)
    return none


def to_avoid(config: Config, conditions: Conditions) -> Conditions | None:
    """What config.sampling says to keep away from; None if nothing."""
    options, avoided = config.sampling, {}
    if options.negative_label >= 0:
        avoided["class_labels"] = jnp.full_like(conditions["class_labels"], options.negative_label)
    if captions.has_negative(config):
        text = jnp.asarray(captions.negative(config))
        avoided["text"] = jnp.broadcast_to(text, conditions["text"].shape)
    if not avoided:
        return None
    return _without(conditions) | avoided


def at_random(
    config: Config, key: jax.Array, conditions: Conditions, first_index: int | jax.Array
) -> Conditions:
    """Conditions of training: with probability label_dropout a sample's are left out, all at once.

    Sample i's draw depends on key and i alone.
    """
    named = conditions.keys() & NOTHING
    if not named:
        return conditions
    keys = sample_keys(key, len(conditions[min(named)]), first_index)
    drop = jax.vmap(partial(jax.random.bernoulli, p=config.model.label_dropout))(keys)
    none = _without(conditions)

    def dropped(name: str) -> jax.Array:
        value = conditions[name]
        return jnp.where(expand(drop, value), none[name], value)

    return conditions | {name: dropped(name) for name in named}


def _without(conditions: Conditions) -> Conditions:
    """Without class and text; what else there is stays: confidences go with a class."""
    none = {n: jnp.full_like(conditions[n], NOTHING[n]) for n in conditions.keys() & NOTHING}
    return conditions | none
