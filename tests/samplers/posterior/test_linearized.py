import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import SDES, Gaussian

from samplers import posterior

SDE, DATA = SDES["vp"], Gaussian(0.3, 0.7)
SCORE = DATA.score_fn(SDE)
X, T = jax.random.normal(jax.random.key(0), (5, 3)), jnp.linspace(0.1, 0.9, 5)
Y = jnp.linspace(-1.0, 1.0, 10).reshape(5, 2)


def guided(method, operator, y, noise_std=0.2):
    return method.condition(SDE, SCORE, operator, y, noise_std)(X, T)


def first(x):
    return 2 * x[:, :2]


@pytest.mark.thorough
@pytest.mark.parametrize("method", [posterior.MomentMatching(2), posterior.PiGDM(0.7)])
def test_affine_operators_are_exact(method):
    linearized = posterior.Linearized(method)
    expected = guided(method, first, Y)
    np.testing.assert_allclose(guided(linearized, first, Y), expected, rtol=1e-4, atol=1e-5)
    shifted = guided(linearized, lambda x: first(x) + 0.4, Y + 0.4)
    np.testing.assert_allclose(shifted, expected, rtol=1e-4, atol=1e-5)
    assert linearized.products == method.products


def test_other_operators_are_taken_by_their_tangent_at_the_denoised_state():
    def square(x):
        return x[:, :2] ** 2

    mean = SDE.denoise(X, T, SCORE(X, T))
    slope = 2 * mean[:, :2]
    y = Y - mean[:, :2] ** 2 + slope * mean[:, :2]
    method = posterior.PiGDM(0.7)
    expected = guided(method, lambda x: slope * x[:, :2], y)
    made = guided(posterior.Linearized(method), square, Y)
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="operator is not linear"):
        guided(method, square, Y)
