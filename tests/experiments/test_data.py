import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import cifar10, digits, points
from experiments import data, sharding
from experiments.datasets.lazy_images import LazyImages

MESH = sharding.make_mesh(digits.get_config())
ROWS, COLUMNS = sharding.of_batch(MESH), sharding.of_batch(MESH, axis=1)


def test_batches_visit_every_sample_once_an_epoch_and_start_anywhere():
    values = np.arange(60)
    stream = data.batches(values, seed=3, shape=(20,), start=0, placement=ROWS)
    epochs = [np.concatenate([next(stream) for _ in range(3)]) for _ in range(2)]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), values)
    assert (epochs[0] != epochs[1]).any()
    later = data.batches(values, seed=3, shape=(20,), start=4, placement=ROWS)
    np.testing.assert_array_equal(next(later), epochs[1][20:40])
    other = data.batches(values, seed=4, shape=(20,), start=0, placement=ROWS)
    assert (next(other) != epochs[0][:20]).any()


def test_batches_of_several_sequences_keep_them_together():
    images, labels = np.arange(60).reshape(60, 1), 2 * np.arange(60)
    plain = data.batches(images, seed=3, shape=(20,), start=2, placement=ROWS)
    both = data.batches((images, labels), seed=3, shape=(20,), start=2, placement=ROWS)
    unlabelled = data.batches((images, None), seed=3, shape=(20,), start=2, placement=ROWS)
    for _ in range(4):
        batch, classes = next(both)
        np.testing.assert_array_equal(classes, 2 * batch[:, 0])
        np.testing.assert_array_equal(batch, next(plain))
        np.testing.assert_array_equal(batch, next(unlabelled)[0])
    with pytest.raises(ValueError, match=r"one length, these have \[59, 60\]"):
        data.batches((images, labels[1:]), seed=3, shape=(20,), start=0, placement=ROWS)


def test_resident_values_are_the_same_batches():
    images = np.random.RandomState(0).randint(256, size=(60, 8, 8, 1)).astype(np.uint8)
    values = images, np.arange(60, dtype=np.int32), None
    streamed = data.batches(values, seed=3, shape=(2, 10), start=2, placement=COLUMNS)
    size = images.nbytes + 60 * 4
    resident, order = data.resident(MESH, values, size), np.arange(60, dtype=np.int32)
    indices = data.batches(order, seed=3, shape=(2, 10), start=2, placement=COLUMNS)
    fetch = jax.jit(data.fetch)
    for _ in range(4):
        batch = next(streamed)
        same = fetch(resident, next(indices))
        assert [leaf.dtype for leaf in same[:2]] == [np.uint8, np.int32]
        jax.tree.map(np.testing.assert_array_equal, same, batch)
        jax.tree.map(np.testing.assert_array_equal, fetch(None, batch), batch)


def test_values_that_are_too_large_or_not_decoded_are_not_resident():
    images = np.zeros((10, 8, 8, 1), np.uint8)
    lazy = LazyImages("none", np.arange(10), lambda _: None, (8, 8, 1))  # pyright: ignore
    assert data.resident(MESH, (images,), images.nbytes - 1) is None
    assert data.resident(MESH, (images,), 0) is None
    assert data.resident(MESH, (lazy, np.arange(10)), 2**30) is None


def test_a_folder_gives_the_batches_of_the_array(tmp_path):
    array = np.random.RandomState(0).randint(256, size=(12, 8, 8, 1)).astype(np.uint8)
    for i, image in enumerate(array):
        path = tmp_path / ("test" if i > 9 else "train") / f"{i:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image[..., 0]).save(path)
    config = digits.get_config()
    config.data.dataset, config.data.path = "folder", str(tmp_path)
    config.training.batch_size = 4
    lazy = data.batches(data.load(config).train, seed=3, shape=(4,), start=1, placement=ROWS)
    whole = data.batches(array[:10], seed=3, shape=(4,), start=1, placement=ROWS)
    for _ in range(5):
        np.testing.assert_array_equal(next(lazy), next(whole))

    Image.new("L", (8, 9)).save(tmp_path / "test/11.png")
    with pytest.raises(ValueError, match=r"test/11\.png cannot be used: it has 8 x 9 pixels"):
        data.load(config)


@pytest.mark.parametrize(("centered", "dequantize"), [*itertools.product((True, False), repeat=2)])
def test_model_space_covers_the_range_and_comes_back(centered, dequantize):
    config = digits.get_config()
    config.data.centered = centered
    grey = np.arange(17, dtype=np.uint8).reshape(1, 17, 1, 1).repeat(500, axis=0)
    x = data.to_model_space(config, 17, jax.random.key(0), jnp.asarray(grey), dequantize)
    low, high = data.data_range(config)
    unit = (np.asarray(x, np.float64) - low) / (high - low)
    if dequantize:
        np.testing.assert_array_equal(np.floor(unit * 17), grey)
        assert np.mean(unit * 17 - grey) == pytest.approx(0.5, abs=0.02)
    else:
        np.testing.assert_allclose(unit, grey / 16, atol=1e-6)
        np.testing.assert_array_equal(data.to_uint8(config, x), np.round(grey / 16 * 255))


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
        data.load(config)


def test_values_outside_their_declared_range_are_refused(monkeypatch):
    images = np.full((100, 8, 8, 1), 17, np.uint8)
    monkeypatch.setitem(data.LOADERS, "digits", lambda _: data.Dataset(images, images, 17))
    with pytest.raises(ValueError, match="grey level 17 is outside 0"):
        data.load(digits.get_config())
    bad = np.full((1000, 2), np.nan, np.float32)
    monkeypatch.setitem(data.LOADERS, "moons", lambda _: data.Dataset(bad, bad, None))
    with pytest.raises(ValueError, match="2000 numbers are not finite"):
        data.load(points.get_config("moons"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.arange(99), r"train data of 'digits': labels of shape \(99,\) for 100 samples"),
        (np.arange(100) - 1, "the label -1 is negative"),
    ],
)
def test_labels_that_do_not_fit_are_refused(monkeypatch, labels, message):
    images = np.zeros((100, 8, 8, 1), np.uint8)
    loaded = data.Dataset(images, images, 17, labels, np.arange(100))
    monkeypatch.setitem(data.LOADERS, "digits", lambda _: loaded)
    with pytest.raises(ValueError, match=message):
        data.load(digits.get_config())


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
    loaded = data.Dataset(images, images, 17, train_confidence=confidences)
    monkeypatch.setitem(data.LOADERS, "digits", lambda _: loaded)
    with pytest.raises(ValueError, match=message):
        data.load(digits.get_config())


def test_a_class_conditional_model_needs_labels_of_its_classes():
    dataset = data.load(digits.get_config())
    data.check_labels(dataset, 10)
    with pytest.raises(ValueError, match="have 10 classes, but the model has only 9"):
        data.check_labels(dataset, 9)
    with pytest.raises(ValueError, match="the test data have no labels"):
        data.check_labels(dataclasses.replace(dataset, test_labels=None), 10)


def test_an_unknown_data_set_is_refused_with_the_near_one():
    config = digits.get_config()
    config.data.dataset = "digit"
    with pytest.raises(ValueError, match="did you mean 'digits'"):
        data.load(config)
