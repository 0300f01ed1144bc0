import affine
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import SDES, Gaussian, Mixture

import samplers
import sde_lib
from sde_lib.batch import expand, fold_in, normal, sample_keys


@pytest.mark.thorough
@pytest.mark.parametrize("name", SDES)
def test_moments_of_a_mixture(name):
    mixture, sde, n = Mixture(), SDES[name], 8000
    sampler = samplers.EulerMaruyama(250)
    samples = jax.jit(lambda key: sampler(key, sde, mixture.score_fn(sde), (n, 2)))(
        jax.random.key(0)
    )
    assert samples.nfe == 250
    x = np.asarray(samples.x, np.float64)
    np.testing.assert_allclose(x.mean(0), mixture.mean, atol=0.03)
    np.testing.assert_allclose(np.cov(x.T), mixture.covariance, atol=0.04)


@pytest.mark.thorough
def test_the_sampler_is_a_loop_of_euler_maruyama_steps():
    """Equal steps from t_max to t_min, with the keys of PredictorCorrector."""
    sde, key, shape, n = SDES["vp"], jax.random.key(1), (3, 2), 4
    score_fn = Gaussian().score_fn(sde)
    keys, x = sample_keys(key, 3), sde.prior_sample(key, shape)
    dt = (sde.t_max - sde.t_min) / n
    for k in range(n):
        t = jnp.full(3, sde.t_max - k * dt)
        z = normal(fold_in(fold_in(keys, k), 0), shape)
        x = x - dt * sde.reverse_drift(x, t, score_fn(x, t))
        x = x + expand(sde.diffusion(t), x) * np.sqrt(dt) * z
    samples = samplers.EulerMaruyama(n)(key, sde, score_fn, shape)
    np.testing.assert_allclose(samples.x, x, rtol=1e-4, atol=1e-5)
    assert samples.nfe == n


def test_the_variance_converges_at_first_order():
    """Weak order 1: the bias of the variance under VP halves when the steps double."""
    gaussian, sde = Gaussian(), SDES["vp"]
    _, std = gaussian.marginal(sde, sde.t_min)
    errors = []
    for n in (80, 160, 320):
        steps = samplers.PredictorCorrector(n, "euler_maruyama", "none", denoise=False)
        _, variance = affine.moments(steps, sde, gaussian.score_fn(sde))
        errors.append(variance[0, 0] / float(std) ** 2 - 1)
    orders = np.log2(np.abs(errors[:-1]) / np.abs(errors[1:]))
    np.testing.assert_allclose(orders, 1, atol=0.1)


def test_steps_are_checked():
    with pytest.raises(ValueError, match="n_steps is 0"):
        samplers.EulerMaruyama(0)


@pytest.mark.parametrize("std", [0.05, 0.5])
@pytest.mark.parametrize("sampler", [samplers.EulerMaruyama(200), samplers.PredictorCorrector(100)])
def test_under_edm_the_steps_are_where_the_data_are(sampler, std):
    """Even steps in t, the noise level, were off by factors of 1.9 to 2.7."""
    sde, truth = sde_lib.EDM(), sde_lib.GaussianMixture((1.0,), ((0.0,) * 16,), std)
    draw = jax.jit(lambda key: sampler(key, sde, truth.score_fn(sde), (256, 16)).x)
    np.testing.assert_allclose(np.std(draw(jax.random.key(0))), std, rtol=0.1)
