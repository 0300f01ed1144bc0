"""The spectrum of samples with the exact score of fields, by the report's lines."""

import dataclasses

import numpy as np
import pytest

from configs import fields
from experiments.build import pipelines
from experiments.data.dataset import DataSpec
from experiments.data.sources import field
from experiments.evaluation import spectrum


@pytest.fixture
def exact(monkeypatch):
    """A model whose samples are the test set, and its data."""
    monkeypatch.setattr(field, "N_FIELDS", 100)
    config = fields.get_config("image")
    config.data.shape = (6, 8, 1)
    dataset = field.load(DataSpec("field", (6, 8, 1)))
    monkeypatch.setattr(spectrum.draw, "draw_all", lambda model, n: (dataset.test[:n], 1))
    return pipelines.untrained(config), dataset


@pytest.mark.parametrize("law", ["known", "unknown"])
def test_samples_of_the_law_have_ratios_of_one(exact, law):
    model, dataset = exact
    if law == "unknown":
        dataset = dataclasses.replace(dataset, laws=())
    found = spectrum.figures(model, dataset, 1000)
    ratios = [text.split() for name, text in found.items() if name.startswith("spectrum at ")]
    assert len(ratios) == 4
    for ratio, _, error, *source in ratios:
        assert float(ratio) == pytest.approx(1, abs=5 * float(error))
        assert source == ["of", "the", *("closed form" if law == "known" else "test set").split()]


def test_bits_of_the_law_are_its_density_s(exact):
    model, dataset = exact
    text = spectrum.figures(model, dataset, 20)["test bits/dim by the closed form"]
    bits = -np.asarray(dataset.laws[0].log_prob(dataset.test)) / 48 / np.log(2)
    assert text.startswith(f"{bits.mean():.3f} +- ")


def test_too_few_samples_are_refused(exact):
    with pytest.raises(ValueError, match="n_samples is 4: the report 'spectrum' needs at least 16"):
        spectrum.figures(*exact, 4)
