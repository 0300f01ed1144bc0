import dataclasses

import numpy as np
import pytest

from configs import cifar10, digits, points
from experiments.data import named
from experiments.data.dataset import Dataset


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (np.zeros((140, 32, 32, 3), np.float32), "are float32, they must be uint8"),
        (np.zeros((140, 28, 28, 1), np.uint8), r"shape \(28, 28, 1\).*set config.data.image_size"),
        (np.zeros((100, 32, 32, 3), np.uint8), "100 training samples"),
    ],
)
def test_data_that_does_not_fit_is_refused(tmp_path, train, message):
    config = cifar10.get_config()
    config.data.path = str(tmp_path / "c.npz")
    np.savez(config.data.path, train=train, test=train)
    with pytest.raises(ValueError, match=message):
        named.load_images(config)


def test_values_outside_their_declared_range_are_refused(monkeypatch):
    images = np.full((100, 8, 8, 1), 17, np.uint8)
    monkeypatch.setitem(named.LOADERS, "digits", lambda _: Dataset(images, images, 17))
    with pytest.raises(ValueError, match="grey level 17 is outside 0"):
        named.load_images(digits.get_config())
    bad = np.full((1000, 2), np.nan, np.float32)
    monkeypatch.setitem(named.LOADERS, "moons", lambda _: Dataset(bad, bad, None))
    with pytest.raises(ValueError, match="2000 numbers are not finite"):
        named.load_images(points.get_config("moons"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.arange(99), r"train data of 'digits': labels of shape \(99,\) for 100 samples"),
        (np.arange(100) - 1, "the label -1 is negative"),
    ],
)
def test_labels_that_do_not_fit_are_refused(monkeypatch, labels, message):
    images = np.zeros((100, 8, 8, 1), np.uint8)
    loaded = Dataset(images, images, 17, labels, np.arange(100))
    monkeypatch.setitem(named.LOADERS, "digits", lambda _: loaded)
    with pytest.raises(ValueError, match=message):
        named.load_images(digits.get_config())


@pytest.mark.parametrize(
    ("confidences", "message"),
    [
        (np.ones(99), r"train data of 'digits': confidences of shape \(99,\) for 100 samples"),
        (np.linspace(-0.1, 1, 100), r"confidences from -0.1 to 1.0: they must be in \[0, 1\]"),
        (np.full(100, np.nan), "confidences from nan to nan"),
    ],
)
def test_confidence_that_do_not_fit_are_refused(monkeypatch, confidences, message):
    images = np.zeros((100, 8, 8, 1), np.uint8)
    loaded = Dataset(images, images, 17, train_confidence=confidences)
    monkeypatch.setitem(named.LOADERS, "digits", lambda _: loaded)
    with pytest.raises(ValueError, match=message):
        named.load_images(digits.get_config())


def test_a_class_conditional_model_needs_labels_of_its_classes():
    dataset = named.load_images(digits.get_config())
    named.check_labels(dataset, 10)
    with pytest.raises(ValueError, match="have 10 classes, but the model has only 9"):
        named.check_labels(dataset, 9)
    with pytest.raises(ValueError, match="the test data have no labels"):
        named.check_labels(dataclasses.replace(dataset, test_labels=None), 10)


def test_an_unknown_data_set_is_refused_with_the_near_one():
    config = digits.get_config()
    config.data.dataset = "digit"
    with pytest.raises(ValueError, match="did you mean 'digits'"):
        named.load_images(config)
