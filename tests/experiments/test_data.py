import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate
from sklearn.datasets import load_digits

from configs import cifar10, digits, points
from experiments import data


def test_digits_are_split_as_promised():
    dataset = data.load(digits.get_config())
    order = np.random.RandomState(0).permutation(1797)
    images = load_digits().images
    np.testing.assert_array_equal(dataset.test[..., 0], images[order[:297]])
    np.testing.assert_array_equal(dataset.train[..., 0], images[order[297:]])
    assert (dataset.levels, dataset.train.max(), dataset.train.dtype) == (17, 16, np.uint8)


@pytest.mark.parametrize("variant", points.VARIANTS)
def test_points_are_scaled_and_reproducible(variant):
    config = points.get_config(variant)
    dataset, again = data.load(config), data.load(config)
    assert dataset.train.shape == (data.N_POINTS, 2)
    assert dataset.test.shape == (data.N_TEST_POINTS, 2)
    assert 0.5 < dataset.train.std() < 2
    np.testing.assert_array_equal(dataset.test, again.test)


def test_checkerboard_has_points_on_its_dark_squares_only():
    points_ = data.load(points.get_config("checkerboard")).train
    assert set(np.floor(points_).sum(axis=1) % 2) == {0}


def test_mixture_density_is_that_of_its_samples():
    total, _ = integrate.dblquad(
        lambda y, x: float(np.exp(data.mixture_log_prob(jnp.array([[x, y]]))[0])),
        *(-0.9, 0.9, -3.0, -1.0),
        epsabs=1e-4,
    )
    train = data.load(points.get_config("mixture")).train
    inside = np.mean((np.abs(train[:, 0]) < 0.9) & (train[:, 1] > -3) & (train[:, 1] < -1))
    assert inside == pytest.approx(total, abs=4 * np.sqrt(total / len(train)))


def test_batches_visit_every_sample_once_an_epoch_and_start_anywhere():
    values = np.arange(60)
    stream = data.batches(values, seed=3, batch_size=20, start=0)
    epochs = [np.concatenate([next(stream) for _ in range(3)]) for _ in range(2)]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), values)
    assert (epochs[0] != epochs[1]).any()
    later = data.batches(values, seed=3, batch_size=20, start=4)
    np.testing.assert_array_equal(next(later), epochs[1][20:40])
    other = data.batches(values, seed=4, batch_size=20, start=0)
    assert (next(other) != epochs[0][:20]).any()


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


def test_cifar10_says_how_to_supply_it_and_is_read(tmp_path):
    config = cifar10.get_config()
    with pytest.raises(ValueError, match=r"must be supplied as an \.npz file"):
        data.load(config)
    images = np.random.RandomState(0).randint(256, size=(140, 32, 32, 3)).astype(np.uint8)
    config.data.path = str(tmp_path / "c.npz")
    np.savez(config.data.path, train=images)
    with pytest.raises(ValueError, match=r"lacks \['test'\]"):
        data.load(config)
    np.savez(config.data.path, train=images, test=images[:5])
    np.testing.assert_array_equal(data.load(config).test, images[:5])


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


def test_an_unknown_data_set_is_refused_with_the_near_one():
    config = digits.get_config()
    config.data.dataset = "digit"
    with pytest.raises(ValueError, match="did you mean 'digits'"):
        data.load(config)
