import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import SDES, Gaussian

from samplers import posterior

MATRIX = np.random.RandomState(0).randn(2, 4).astype(np.float32)
DATA = Gaussian(0.3, 0.7)


def seen(x):
    return jnp.dot(x, MATRIX.T, precision="highest")


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("noise_std", [0.0, 0.2])
def test_it_is_exact_for_gaussian_data_of_its_standard_deviation(name, noise_std):
    sde, times = SDES[name], np.array([0.05, 0.2, 0.5, 0.9])
    random, a = np.random.RandomState(1), MATRIX.astype(np.float64)
    y = random.randn(4, 2)
    alpha, sigma = (np.asarray(f(times), np.float64) for f in (sde.alpha, sde.sigma))
    x = alpha[:, None] * random.randn(4, 4) + sigma[:, None] * random.randn(4, 4)
    method = posterior.PiGDM(data_std=DATA.std)
    conditional = method.condition(sde, DATA.score_fn(sde), seen, jnp.asarray(y), noise_std)
    score = jax.jit(conditional)(jnp.asarray(x, jnp.float32), jnp.asarray(times, jnp.float32))
    prior = DATA.std**2 * np.eye(4)
    gain = prior @ a.T @ np.linalg.inv(a @ prior @ a.T + noise_std**2 * np.eye(2))
    covariance = prior - gain @ a @ prior
    for k in range(4):
        mean = DATA.mean + gain @ (y[k] - a @ np.full(4, DATA.mean))
        variance = alpha[k] ** 2 * covariance + sigma[k] ** 2 * np.eye(4)
        exact = -np.linalg.solve(variance, x[k] - alpha[k] * mean)
        np.testing.assert_allclose(score[k], exact, rtol=2e-3, atol=2e-3 * np.abs(exact).max())


def test_impossible_options_are_refused():
    with pytest.raises(ValueError, match="data_std is 0"):
        posterior.PiGDM(data_std=0.0)
    with pytest.raises(ValueError, match="n_iterations is 0"):
        posterior.PiGDM(n_iterations=0)
