import sys
import types

import numpy as np
import pytest

from experiments.data.dataset import DataSpec
from experiments.data.load import load
from experiments.data.sources.packaged import photographs

SHAPE = (48, 64, 3)


def columns(width=300, height=100):
    """A photograph whose grey level is the column, so that crops show where they are from."""
    grey = np.linspace(0, 250, width).astype(np.uint8)
    return np.broadcast_to(grey[None, :, None], (height, width, 3))


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(photographs, "N_CROPS", 60)
    monkeypatch.setattr(photographs, "N_TEST_CROPS", 24)


@pytest.fixture
def scikit_image(few, monkeypatch):
    """In place of scikit-image: photographs of columns."""
    module = types.SimpleNamespace(**dict.fromkeys(photographs.SCIKIT_IMAGE, columns))
    monkeypatch.setitem(sys.modules, "skimage.data", module)
    monkeypatch.setattr(photographs, "_included_in_scikit_learn", lambda: {"china": columns()})
    return module


def test_crops_of_the_two_included_photographs(few):
    spec = DataSpec("sample_images", SHAPE, test_fraction=0.25)
    dataset = load(spec)
    assert (dataset.train.shape, dataset.test.shape) == ((60, *SHAPE), (24, *SHAPE))
    assert dataset.classes == ("china", "flower")
    assert dataset.train.dtype == np.uint8
    assert len(np.unique(dataset.train, axis=0)) > 50
    np.testing.assert_array_equal(load(spec).test, dataset.test)


def test_test_crops_are_from_another_region_than_training_crops(scikit_image):
    dataset = load(DataSpec("photographs", SHAPE, test_fraction=0.4))
    assert dataset.classes == ("china", *photographs.SCIKIT_IMAGE)
    assert dataset.train.max() <= 0.6 * 250 < dataset.test.min() + 1
    width = dataset.train[..., 0].max(axis=(1, 2)) - dataset.train[..., 0].min(axis=(1, 2))
    scales = np.unique(np.round(63 * 250 / 299 / width, 1))
    np.testing.assert_allclose(scales, [0.7, 1.0])  # at 0.5 the test part has 60 columns


def test_a_crop_for_which_there_is_no_room_is_refused(scikit_image):
    with pytest.raises(ValueError, match=r"'china' has 100 x 300 pixels, .* or that share larger"):
        load(DataSpec("photographs", SHAPE, test_fraction=0.1))
    with pytest.raises(ValueError, match=r"is \(48, 64, 1\), but crops of photographs are RGB"):
        load(DataSpec("photographs", (48, 64, 1), test_fraction=0.4))


def test_photographs_that_are_missing_are_refused(scikit_image, monkeypatch):
    def missing():
        raise ModuleNotFoundError("it needs pooch")

    scikit_image.coffee, spec = missing, DataSpec("photographs", SHAPE, test_fraction=0.4)
    with pytest.raises(ValueError, match=r"\(it needs pooch\): install .* or choose config.data.d"):
        load(spec)
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    with pytest.raises(ValueError, match=r"pip install -e '.\[scikit-image\]'"):
        load(spec)
