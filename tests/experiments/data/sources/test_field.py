import numpy as np
import pytest

from experiments.data.dataset import DataSpec
from experiments.data.load import load
from experiments.data.sources import field
from sde_lib.gaussian_field import bands


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(field, "N_FIELDS", 600)
    monkeypatch.setattr(field, "N_TEST_FIELDS", 300)


@pytest.mark.parametrize("shape", [(16, 1), (6, 8, 1), (4, 4, 4, 1)], ids=str)
def test_fields_have_their_law_and_are_the_same_each_time(shape):
    dataset = load(DataSpec("field", shape))
    assert dataset.train.shape == (600, *shape)
    assert dataset.test.shape == (300, *shape)
    (law,) = dataset.laws
    for band in law.bands(dataset.train):
        assert band.ratio == pytest.approx(1, abs=5 * band.error)
    np.testing.assert_array_equal(load(DataSpec("field", shape)).train, dataset.train)


def test_the_class_says_the_correlation_length():
    dataset = load(DataSpec("field_by_length", (6, 8, 1)))
    assert dataset.n_classes == len(dataset.laws) == 3
    assert dataset.classes[1] == "correlation length 1.5"
    for label, law in enumerate(dataset.laws):
        for band in law.bands(dataset.train[dataset.train_labels == label]):
            assert band.ratio == pytest.approx(1, abs=5 * band.error)


def test_the_vector_says_the_correlation_length_and_the_standard_deviation():
    dataset = load(DataSpec("field_by_parameters", (6, 8, 1)))
    vectors = dataset.train_conditions["vector"]
    assert vectors.shape == (600, 2)
    for column, (low, high) in zip(vectors.T, field.RANGES, strict=True):
        assert low <= column.min() < 1.2 * low < high / 1.2 < column.max() <= high
    power = np.stack([dataset.law_of(vector).power for vector in vectors])
    np.testing.assert_allclose(power.mean((1, 2)), vectors[:, 1] ** 2, rtol=1e-5)
    for band in bands(dataset.train, power):
        assert band.ratio == pytest.approx(1, abs=5 * band.error)
    large = vectors[:, 0] > 1.5
    for band in bands(dataset.train[large], power[large]):
        assert band.ratio == pytest.approx(1, abs=5 * band.error)


@pytest.mark.parametrize("shape", [(2,), (8, 2), (6, 8, 3)], ids=str)
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="fields are of one channel, on one to three sides"):
        load(DataSpec("field", shape))
