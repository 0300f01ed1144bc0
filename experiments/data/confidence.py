"""Confidences of labels, for models that are conditioned on them (Dufour et al. 2024)."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from experiments.data.dataset import Dataset
from experiments.data.scaling import Scaling
from experiments.runs import parts

Probabilities = Callable[[jax.Array], jax.Array]
"""Inside jit: probabilities [B, classes] of images [B, ...] in model space."""


def check(dataset: Dataset) -> Dataset:
    """The data set. Raises ValueError unless its labels come with confidences."""
    if dataset.train_confidence is None or dataset.test_confidence is None:
        raise ValueError(
            "config.model.label_confidence needs a confidence of each label: give the folder of a "
            "trained classifier as config.data.confidence, or an .npz file with arrays "
            "'train_confidence' and 'test_confidence' (docs/howto/own_data.md)"
        )
    return dataset


def by_classifier(
    dataset: Dataset,
    probabilities: Probabilities,
    scaling: Scaling,
    seed: int,
    mesh: Mesh,
    batch_size: int,
) -> Dataset:
    """The data set with the probability that a classifier gives to each label as its confidence.

    Args:
        dataset: with labels; confidences that it has are replaced.
        probabilities: the classifier's.
        scaling: of the classifier's training data.
        seed: of the dequantisation.
        mesh: the devices.
        batch_size: samples at a time.
    """

    @jax.jit
    def confidence(batch, first_index):
        images, labels = batch
        x = scaling.to_model_each(jax.random.key(seed), images, first_index)
        rows = probabilities(x)
        return {"confidence": jnp.take_along_axis(rows, labels[:, None], axis=1)[:, 0]}

    def over(*values: Any):
        title = "confidences of the labels"
        return parts.over(mesh, values, batch_size, confidence, title=title)["confidence"]

    return dataclasses.replace(
        dataset,
        train_confidence=over(dataset.train, dataset.train_labels),
        test_confidence=over(dataset.test, dataset.test_labels),
    )
