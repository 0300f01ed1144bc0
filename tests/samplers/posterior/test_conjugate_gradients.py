"""Conjugate gradients against numpy, for systems with a solution and without one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import SDES, Gaussian

from samplers import posterior
from samplers.posterior.conjugate_gradients import solve

RANDOM = np.random.RandomState(0)
MATRICES = {
    "wide": RANDOM.randn(2, 4),
    "tall": RANDOM.randn(6, 4),
    "of rank 2": RANDOM.randn(6, 2) @ RANDOM.randn(2, 4),
    "repeated": np.repeat(RANDOM.randn(2, 4), 2, axis=0),
    "masked": np.diag([1.0, 1.0, 0.0, 0.0]),
}
FACTOR = RANDOM.randn(4, 4)
COVARIANCE = FACTOR @ FACTOR.T + 0.5 * np.eye(4)


def by(matrix):
    matrix = jnp.asarray(matrix, jnp.float32)
    return lambda x: jnp.dot(x, matrix.T, precision="highest")


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("variance", [0.0, 0.3])
def test_it_is_the_solution_or_without_one_that_of_least_squares(name, variance):
    """Any residual: one that no x has gives the nearest that there is, and more steps keep it."""
    a, root = MATRICES[name], np.linalg.cholesky(COVARIANCE)
    residual = RANDOM.randn(5, len(a))
    inverse = np.linalg.pinv(a @ COVARIANCE @ a.T + variance * np.eye(len(a)), rcond=1e-6)
    expected = residual @ inverse.T @ a @ COVARIANCE
    if variance == 0:
        expected = residual @ np.linalg.pinv(a @ root, rcond=1e-6).T @ root.T
    about = by(a), by(a.T), by(COVARIANCE), jnp.asarray(residual, jnp.float32)
    for n_iterations in (6, 60):
        made = jax.jit(
            lambda n=n_iterations: solve(*about, jnp.full(5, variance), jnp.zeros((5, 4)), n)
        )()
        np.testing.assert_allclose(made, expected, atol=3e-3 * np.abs(expected).max())


@pytest.mark.parametrize("noise_std", [0.0, 0.01])
@pytest.mark.parametrize("method", [posterior.PiGDM(0.7, 30), posterior.MomentMatching(30)])
@pytest.mark.parametrize("wrap", [lambda method: method, posterior.Linearized])
def test_a_measurement_that_no_state_has_is_taken_for_the_nearest(method, noise_std, wrap):
    """Twice the same value, measured as -1 and 3: the score is that of their mean, 1, twice."""
    sde, data = SDES["vp"], Gaussian(0.3, 0.7)

    def twice(x):
        return jnp.concatenate([x[:, :1], x[:, :1]], axis=1)

    x, t = jax.random.normal(jax.random.key(0), (4, 3)), jnp.linspace(0.05, 0.9, 4)
    scores = [
        wrap(method).condition(sde, data.score_fn(sde), twice, jnp.tile(y, (4, 1)), noise_std)(x, t)
        for y in (jnp.array([-1.0, 3.0]), jnp.array([1.0, 1.0]))
    ]
    np.testing.assert_allclose(*scores, rtol=1e-3, atol=1e-3)
