"""The spectrum of samples beside that of the data: of fields, series, images and volumes."""

import dataclasses
import math
from collections.abc import Iterator

import jax
import numpy as np

from experiments.data.dataset import Dataset
from experiments.data.lazy_arrays import complete_samples
from experiments.pipeline import draw
from experiments.pipeline.conditions import Vector
from experiments.pipeline.model import TrainedModel
from sde_lib.gaussian_field import Band, bands, mean_power
from sde_lib.gaussian_field import log_prob as log_density

LEAST = 16  # samples, whose spectra differ by chance
Lines = Iterator[tuple[Band, str]]
"""Ratios by bands of frequencies, and their texts."""


def figures(model: TrainedModel, dataset: Dataset, n: int) -> dict[str, str]:
    """Ratios of the power of n samples to the data's by bands of frequencies, as texts by name.

    The data's is the closed form where the law of the data is known, class by class if the model
    has classes, and sample by sample if it has vectors. Then the test set's bits/dim by the law is
    there too. Otherwise it is the mean over the test set, whose chance is a part of the errors, and
    that of as many training samples is beside it. Samples with missing values are left out.

    Raises:
        ValueError: too few samples.
    """
    if n < LEAST:
        raise ValueError(
            f"config.sampling.n_samples is {n}: the report 'spectrum' needs at least {LEAST}"
        )
    if model.missing:
        whole = complete_samples(dataset.test)
        if not len(whole):
            return {"spectrum": "not measured, as no test sample is complete"}
        dataset = dataclasses.replace(dataset, test=whole)
    if dataset.law_of and "vector" in model.conditions.kinds:
        return _by_vector(model, dataset, n)
    labels = model.conditions.has_classes and bool(dataset.laws)
    found: dict[str, str] = {}
    for label in range(len(dataset.laws)) if labels else (None,):
        drawn = model if label is None else model.asked(None, label, None)
        x = model.to_data(draw.draw_all(drawn, n)[0])
        laws = dataset.laws if label is None else dataset.laws[label : label + 1]
        title = "spectrum" if label is None else f"spectrum, {dataset.classes[label]},"
        power = np.mean([law.power for law in laws], axis=0) if laws else None
        found |= _named(title, _of_test_set(x, dataset) if power is None else _of_law(x, power))
    if dataset.laws:
        found["test bits/dim by the closed form"] = _exact_bits(dataset, labels)
    return found


def _by_vector(model: TrainedModel, dataset: Dataset, n: int) -> dict[str, str]:
    """The figures of samples by the law that each has by its own condition vector."""
    law_of, vector = dataset.law_of, model.conditions.kinds["vector"]
    assert law_of
    assert isinstance(vector, Vector)

    def powers(rows: np.ndarray) -> np.ndarray:
        return np.stack([law_of(row).power for row in rows])

    x = model.to_data(draw.draw_all(model, n)[0])
    asked = powers(vector.of_samples(np.arange(n), lambda: dataset))
    found = _named("spectrum", _of_law(x, asked, "closed form given the vector"))
    test = np.asarray(dataset.test[:])
    log_prob = np.asarray(log_density(test, powers(dataset.test_conditions["vector"])))
    return found | {"test bits/dim by the closed form": _bits(log_prob, test)}


def _named(title: str, lines: Lines) -> dict[str, str]:
    """Texts by the title and the band of each."""
    return {
        f"{title} at {band.low:.2f} to {band.high:.2f} radians a step": text for band, text in lines
    }


def _of_law(x: np.ndarray, power: np.ndarray, source: str = "closed form") -> Lines:
    """The power of samples over that of a law, or of the law of each."""
    for band in bands(x, power):
        yield band, f"{band.ratio:.3f} +- {band.error:.3f} of the {source}"


def _of_test_set(x: np.ndarray, dataset: Dataset) -> Lines:
    """The power of samples, and of as many training samples, over that of the test set."""
    test, n = np.asarray(dataset.test[:]), len(dataset.train)
    train = dataset.train[np.linspace(0, n - 1, min(n, len(x))).astype(int)]
    whole, power = complete_samples(train), mean_power(test)
    theirs = bands(whole, power) if len(whole) >= LEAST else None
    for i, (ours, exact) in enumerate(zip(bands(x, power), bands(test, power), strict=True)):
        error = math.hypot(ours.error, ours.ratio * exact.error)
        text = f"{ours.ratio:.3f} +- {error:.3f} of the test set"
        yield ours, text + (f", training set {theirs[i].ratio:.3f}" if theirs else "")


def _exact_bits(dataset: Dataset, labelled: bool) -> str:
    """Bits/dim of the test set by its law, given the classes or over all of them."""
    test = np.asarray(dataset.test[:])
    each = np.stack([law.log_prob(test) for law in dataset.laws])
    if labelled and dataset.test_labels is not None:
        log_prob = each[dataset.test_labels, np.arange(len(test))]
    else:
        log_prob = np.asarray(jax.nn.logsumexp(each, axis=0)) - np.log(len(each))
    return _bits(log_prob, test)


def _bits(log_prob: np.ndarray, test: np.ndarray) -> str:
    bits = -log_prob / np.prod(test.shape[1:]) / np.log(2)
    return f"{bits.mean():.3f} +- {bits.std(ddof=1) / np.sqrt(len(bits)):.3f}"
