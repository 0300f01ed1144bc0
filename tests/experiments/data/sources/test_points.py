import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from configs import points as configs
from experiments.data.sources import points


@pytest.mark.parametrize("variant", configs.VARIANTS)
def test_points_are_scaled_and_reproducible(variant):
    config = configs.get_config(variant)
    dataset, again = points.load(config), points.load(config)
    assert dataset.train.shape == (points.N_POINTS, 2)
    assert dataset.test.shape == (points.N_TEST_POINTS, 2)
    assert 0.5 < np.std(dataset.train[:]) < 2
    np.testing.assert_array_equal(dataset.test[:], again.test[:])


def test_checkerboard_has_points_on_its_dark_squares_only():
    train = points.load(configs.get_config("checkerboard")).train[:]
    assert set(np.floor(train).sum(axis=1) % 2) == {0}


def test_mixture_density_is_that_of_its_samples():
    total, _ = integrate.dblquad(
        lambda y, x: float(np.exp(points.MIXTURE.log_prob(jnp.array([[x, y]]))[0])),
        *(-0.9, 0.9, -3.0, -1.0),
        epsabs=1e-4,
    )
    train = points.load(configs.get_config("mixture")).train[:]
    inside = np.mean((np.abs(train[:, 0]) < 0.9) & (train[:, 1] > -3) & (train[:, 1] < -1))
    assert inside == pytest.approx(total, abs=4 * np.sqrt(total / len(train)))
