import numpy as np
import pytest

from experiments.data.dataset import Dataset, DataSpec
from experiments.data.load import load
from experiments.data.sources import SOURCES, Source
from experiments.runs import devices
from experiments.training.options import Training
from experiments.training.step import make_batches

DIGITS, MOONS = DataSpec("digits", (8, 8, 1)), DataSpec("moons", (2,))
IMAGES = np.zeros((100, 8, 8, 1), np.uint8)


@pytest.fixture
def returns(monkeypatch):
    """returns(name, dataset): the source of that name returns this data set."""

    def replace(name, dataset):
        monkeypatch.setitem(SOURCES, name, Source(lambda spec: dataset, dataset.levels))

    return replace


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (np.zeros((140, 32, 32, 3), np.float32), "are float32, they must be uint8"),
        (np.zeros((140, 28, 28, 1), np.uint8), r"shape \(28, 28, 1\).*set config.data.image_size"),
        (np.zeros((140, 32, 32), np.uint8), "have 3 axes, they must have 4"),
        (np.zeros((1, 32, 32, 3), np.uint8), "there are 1 samples, at least 2 are needed"),
    ],
)
def test_data_of_another_type_or_shape_are_refused(tmp_path, train, message):
    path = str(tmp_path / "c.npz")
    np.savez(path, train=train, test=train)
    with pytest.raises(ValueError, match=message):
        load(DataSpec("cifar10", (32, 32, 3), path))


def test_fewer_training_samples_than_a_batch_are_refused():
    with pytest.raises(ValueError, match=r"100 training samples: config\.training\.batch_size"):
        next(make_batches((IMAGES, {}), Training(1, 128), devices.make_mesh(), 0))


def test_values_outside_their_declared_range_are_refused(returns):
    returns("digits", Dataset(IMAGES + np.uint8(17), IMAGES, 17))
    with pytest.raises(ValueError, match="grey level 17 is outside 0"):
        load(DIGITS)
    bad = np.full((1000, 2), np.nan, np.float32)
    returns("moons", Dataset(bad, bad, None))
    with pytest.raises(ValueError, match="2000 numbers are not finite"):
        load(MOONS)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.arange(99), r"train data of 'digits': labels of shape \(99,\) for 100 samples"),
        (np.arange(100) - 1, "the label -1 is negative"),
    ],
)
def test_labels_that_do_not_fit_are_refused(returns, labels, message):
    returns("digits", Dataset(IMAGES, IMAGES, 17, labels, np.arange(100)))
    with pytest.raises(ValueError, match=message):
        load(DIGITS)


@pytest.mark.parametrize(
    ("confidences", "message"),
    [
        (np.ones(99), r"train data of 'digits': confidences of shape \(99,\) for 100 samples"),
        (np.linspace(-0.1, 1, 100), r"confidences from -0.1 to 1.0: they must be in \[0, 1\]"),
        (np.full(100, np.nan), "confidences from nan to nan"),
    ],
)
def test_confidences_that_do_not_fit_are_refused(returns, confidences, message):
    returns("digits", Dataset(IMAGES, IMAGES, 17, train_confidence=confidences))
    with pytest.raises(ValueError, match=message):
        load(DIGITS)


def test_an_unknown_data_set_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="did you mean 'digits'"):
        load(DataSpec("digit", (8, 8, 1)))
