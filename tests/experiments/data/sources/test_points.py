import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data.dataset import DataSpec
from experiments.data.sources import points


def load(variant):
    return points.load(DataSpec(variant, (2,)))


@pytest.mark.parametrize("variant", points.DRAWS)
def test_points_are_scaled_and_reproducible(variant):
    dataset, again = load(variant), load(variant)
    assert dataset.train.shape == (points.N_POINTS, 2)
    assert dataset.test.shape == (points.N_TEST_POINTS, 2)
    assert 0.5 < np.std(dataset.train[:]) < 2
    np.testing.assert_array_equal(dataset.test[:], again.test[:])


def test_checkerboard_has_points_on_its_dark_squares_only():
    train = load("checkerboard").train[:]
    assert set(np.floor(train).sum(axis=1) % 2) == {0}


@pytest.mark.thorough
def test_mixture_density_is_that_of_its_samples():
    """The integral over a box, by the midpoint rule, is the share of the samples in it."""
    x, y = np.mgrid[-0.9:0.9:0.02, -3.0:-1.0:0.02] + 0.01
    log_prob = points.MIXTURE.log_prob(jnp.stack([x.ravel(), y.ravel()], axis=1))
    total = np.exp(np.asarray(log_prob, float)).sum() * 0.02**2
    train = load("mixture").train[:]
    inside = np.mean((np.abs(train[:, 0]) < 0.9) & (train[:, 1] > -3) & (train[:, 1] < -1))
    assert inside == pytest.approx(total, abs=4 * np.sqrt(total / len(train)))
