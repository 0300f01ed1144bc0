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
    return exact_model(monkeypatch, "image")


def exact_model(monkeypatch, variant):
    monkeypatch.setattr(field, "N_FIELDS", 100)
    config = fields.get_config(variant)
    config.data.shape = (6, 8, 1)
    dataset = field.load(DataSpec(config.data.dataset, (6, 8, 1)))
    monkeypatch.setattr(spectrum.draw, "draw_all", lambda model, n: (dataset.test[:n], 1))
    return pipelines.untrained(config), dataset


@pytest.mark.thorough
@pytest.mark.parametrize("law", ["known", "unknown"])
def test_samples_of_the_law_have_ratios_of_one(exact, law):
    model, dataset = exact
    if law == "unknown":
        dataset = dataclasses.replace(dataset, laws=())
    found = spectrum.figures(model, dataset, 500)
    ratios = [text.split() for name, text in found.items() if name.startswith("spectrum at ")]
    assert len(ratios) == 4
    for ratio, _, error, *source in ratios:
        assert float(ratio) == pytest.approx(1, abs=5 * float(error))
        expected = "closed form" if law == "known" else "test set, training set"
        assert " ".join(source).startswith(f"of the {expected}")


@pytest.mark.thorough
def test_the_chance_of_the_test_set_is_a_part_of_the_errors(exact):
    model, dataset = exact
    found = []
    for test in (dataset.test, dataset.test[:20]):
        about = dataclasses.replace(dataset, laws=(), test=test)
        text = next(iter(spectrum.figures(model, about, 500).values()))
        found.append([float(word) for word in text.replace(",", "").split() if "." in word])
    (ratio, error, _), (_, larger, training) = found
    assert larger > 2 * error > 0
    assert training == pytest.approx(ratio, abs=5 * larger)


def test_bits_of_the_law_are_its_density_s(exact):
    model, dataset = exact
    text = spectrum.figures(model, dataset, 20)["test bits/dim by the closed form"]
    bits = -np.asarray(dataset.laws[0].log_prob(dataset.test)) / 48 / np.log(2)
    assert text.startswith(f"{bits.mean():.3f} +- ")


def test_a_model_of_classes_is_compared_class_by_class(monkeypatch):
    exact, dataset = exact_model(monkeypatch, "by_length")
    asked = []

    def draw_all(model, n):
        asked.append(model.conditions.members[0].labels[0])
        return dataset.test[dataset.test_labels == asked[-1]][:n], 1

    monkeypatch.setattr(spectrum.draw, "draw_all", draw_all)
    found = spectrum.figures(exact, dataset, 100)
    assert asked == [0, 1, 2]
    ratios = [text.split() for name, text in found.items() if name.startswith("spectrum, corr")]
    assert len(ratios) == 12
    for ratio, _, error, *_ in ratios:
        assert float(ratio) == pytest.approx(1, abs=5 * float(error))
    each = np.stack([law.log_prob(dataset.test) for law in dataset.laws])
    bits = -each[dataset.test_labels, np.arange(500)].mean() / 48 / np.log(2)
    assert found["test bits/dim by the closed form"].startswith(f"{bits:.3f} +- ")


@pytest.mark.thorough
def test_a_model_of_vectors_is_compared_sample_by_sample(monkeypatch):
    model, dataset = exact_model(monkeypatch, "by_parameters")
    found = spectrum.figures(model, dataset, 400)
    ratios = [text.split() for name, text in found.items() if name.startswith("spectrum at")]
    assert len(ratios) == 4
    for ratio, _, error, *_ in ratios:
        assert float(ratio) == pytest.approx(1, abs=5 * float(error))
    laws = map(dataset.law_of, dataset.test_conditions["vector"][:3])
    each = [law.log_prob(x[None])[0] for law, x in zip(laws, dataset.test, strict=False)]
    together = spectrum.log_density(
        dataset.test[:3],
        np.stack([dataset.law_of(v).power for v in dataset.test_conditions["vector"][:3]]),
    )
    np.testing.assert_allclose(together, each, rtol=1e-5)
    assert "test bits/dim by the closed form" in found


def test_too_few_samples_are_refused(exact):
    with pytest.raises(ValueError, match="n_samples is 4: the report 'spectrum' needs at least 16"):
        spectrum.figures(*exact, 4)


def test_incomplete_test_samples_are_left_out(exact):
    model, dataset = exact
    model = model.replace(scaling=dataclasses.replace(model.scaling, missing=True))
    test = np.array(dataset.test)
    test[::2, 0, 0] = np.nan
    gaps = dataclasses.replace(dataset, test=test, laws=())
    kept = dataclasses.replace(dataset, test=test[1::2], laws=())
    assert spectrum.figures(model, gaps, 500) == spectrum.figures(model, kept, 500)
    test[:, 0, 0] = np.nan
    assert spectrum.figures(model, gaps, 500) == {
        "spectrum": "not measured, as no test sample is complete"
    }
