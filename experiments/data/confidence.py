"""Confidences of labels and captions (Dufour et al. 2024, arXiv 2405.20324).

A model is conditioned on them, or samples with a low one are left out.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.data.dataset import Dataset
from experiments.data.scaling import Scaling
from experiments.runs import parts
from sde_lib.checks import check_in

FIELD = "config.data.least_confidence"
Probabilities = Callable[[jax.Array], jax.Array]
"""Inside jit: probabilities [B, classes] of images [B, ...] in model space."""


def check(dataset: Dataset) -> Dataset:
    """The data set. Raises ValueError unless its labels or captions come with confidences."""
    if dataset.train_confidence is None or dataset.test_confidence is None:
        raise ValueError(
            "config.model.label_confidence and config.data.least_confidence need a confidence of "
            "each label or caption: give the folder of a trained classifier as "
            "config.data.confidence, or an .npz file of data with arrays 'train_confidence' and "
            "'test_confidence', or 'confidence' in the file of config.data.conditions "
            "(docs/howto/caption_confidence.md)"
        )
    return dataset


def above(dataset: Dataset, least: float) -> Dataset:
    """The data set without training samples of a confidence below `least`.

    The test data stay as they are.

    Raises:
        ValueError: a threshold outside [0, 1], or fewer than two samples that reach it.
    """
    check_in("[0, 1]", **{FIELD: least})
    assert dataset.train_confidence is not None
    rows = np.flatnonzero(dataset.train_confidence >= least)
    n = len(dataset.train)
    if len(rows) < 2:
        raise ValueError(
            f"{FIELD} is {least}: {len(rows)} of {n:,} training samples have such a confidence, "
            f"and two are needed; the largest is {dataset.train_confidence.max():g}"
        )
    note = f"left out: {n - len(rows):,} of {n:,} training samples, of a confidence below {least:g}"
    return dataclasses.replace(dataset.only("train", rows), notes=(*dataset.notes, note))


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
