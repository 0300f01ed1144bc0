import jax
import numpy as np
import pytest
from closed_forms import SDES, Gaussian, Mixture

import samplers


def draw(n_steps, sde, data, n):
    sampler = samplers.EulerMaruyama(n_steps)
    run = jax.jit(lambda key: sampler(key, sde, data.score_fn(sde), (n, 2)))
    samples = run(jax.random.key(0))
    assert samples.nfe == n_steps
    return np.asarray(samples.x, np.float64)


@pytest.mark.parametrize("name", SDES)
def test_moments_of_a_mixture(name):
    mixture = Mixture()
    x = draw(1000, SDES[name], mixture, 20_000)
    np.testing.assert_allclose(x.mean(0), mixture.mean, atol=0.03)
    np.testing.assert_allclose(np.cov(x.T), mixture.covariance, atol=0.04)


def test_the_variance_converges_at_first_order():
    """Weak order 1: the bias of the variance under VP halves when the steps double."""
    gaussian, sde = Gaussian(), SDES["vp"]
    _, std = gaussian.marginal(sde, sde.t_min)
    errors = [draw(n, sde, gaussian, 500_000).var() / float(std) ** 2 - 1 for n in (40, 80, 160)]
    orders = np.log2(np.abs(errors[:-1]) / np.abs(errors[1:]))
    np.testing.assert_allclose(orders, 1, atol=0.35)


def test_steps_are_checked():
    with pytest.raises(ValueError, match="n_steps is 0"):
        samplers.EulerMaruyama(0)
