import numpy as np
import pytest

from experiments.data.dataset import DataSpec
from experiments.data.sources import npz

IMAGES = np.random.RandomState(0).randint(256, size=(20, 4, 4, 3)).astype(np.uint8)


def load(folder, **arrays):
    path = str(folder / "images.npz")
    np.savez(path, **arrays)
    return npz.load(DataSpec("npz", (4, 4, 3), path))


def test_both_splits_are_read_with_their_labels_and_confidences(tmp_path):
    dataset = load(tmp_path, train=IMAGES[:15], test=IMAGES[15:])
    np.testing.assert_array_equal(dataset.train[:], IMAGES[:15])
    assert dataset.train_labels is dataset.test_labels is None
    labels = {"train_labels": np.arange(15), "test_labels": np.arange(5, dtype=np.uint8)}
    dataset = load(tmp_path, train=IMAGES[:15], test=IMAGES[15:], **labels)
    np.testing.assert_array_equal(dataset.train_labels, np.arange(15))
    assert dataset.test_labels.dtype == np.int32
    assert dataset.train_confidence is dataset.test_confidence is None
    sure = {"train_confidence": np.arange(15) / 15, "test_confidence": np.ones(5, int)}
    dataset = load(tmp_path, train=IMAGES[:15], test=IMAGES[15:], **labels, **sure)
    np.testing.assert_allclose(dataset.train_confidence, np.arange(15) / 15)
    np.testing.assert_array_equal(dataset.test_confidence, np.ones(5))
    assert dataset.test_confidence.dtype == np.float32


def test_one_array_is_split(tmp_path):
    dataset = load(tmp_path, arr_0=IMAGES, labels=np.arange(20))
    assert (len(dataset.train), len(dataset.test)) == (18, 2)
    np.testing.assert_array_equal(dataset.train[:], IMAGES[dataset.train_labels])
    np.testing.assert_array_equal(dataset.test[:], IMAGES[dataset.test_labels])
    assert load(tmp_path, arr_0=IMAGES).test_labels is None
    sure = load(tmp_path, arr_0=IMAGES, labels=np.arange(20), confidence=np.arange(20) / 20)
    np.testing.assert_allclose(sure.train_confidence, sure.train_labels / 20)
    np.testing.assert_allclose(sure.test_confidence, sure.test_labels / 20)


def test_files_with_other_arrays_are_refused(tmp_path):
    both = {"train": IMAGES, "test": IMAGES}
    for arrays in ({"train": IMAGES}, {"a": IMAGES, "b": IMAGES}, both | {"labels": [1]}, {}):
        with pytest.raises(ValueError, match=r"holds \[.*expected uint8 images"):
            load(tmp_path, **arrays)
    with pytest.raises(ValueError, match="train_labels are float64"):
        load(tmp_path, train=IMAGES, test=IMAGES, train_labels=np.ones(20))
    for name in ("labels", "confidence"):
        with pytest.raises(ValueError, match=f"19 {name} for 20 images"):
            load(tmp_path, arr_0=IMAGES, **{name: np.arange(19)})
    with pytest.raises(ValueError, match=r"labels is a single value, it must be an array"):
        load(tmp_path, arr_0=IMAGES, labels=3)
    with pytest.raises(ValueError, match="confidence is <U1, it must be numbers"):
        load(tmp_path, arr_0=IMAGES, confidence=["a"] * 20)
    with pytest.raises(
        ValueError, match=r"images\.npz: labels go up to 2147483660, beyond 32 bits"
    ):
        load(tmp_path, arr_0=IMAGES, labels=np.arange(20) + 2**31 - 7)
    for value in (None, np.array([IMAGES[0], IMAGES[0, :2]], object)):
        with pytest.raises(ValueError, match=r"'labels', cannot be read: it holds Python objects"):
            load(tmp_path, arr_0=IMAGES, labels=value)
    (tmp_path / "text.npz").write_text("text")
    for path in ("", "nowhere.npz", str(tmp_path / "text.npz")):
        with pytest.raises(ValueError, match=r"must be an \.npz file of uint8 images"):
            npz.load(DataSpec("npz", (4, 4, 3), path))
