import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import SDES, Gaussian, Mixture

import samplers
from samplers import posterior
from samplers.posterior import twisted_smc
from samplers.posterior.base import Draw
from samplers.posterior.twisted_smc import resample

MATRIX = np.array([[1.0, 0.3]], np.float32)


def seen(x):
    return x @ MATRIX.T


def particles(method, solver, sde, score_fn, operator, y, noise_std, n=8):
    """Particles of n runs, [n K, D], with weights that add up to 1 in each run."""
    y = jnp.full((n, 1), y)
    measured = method.measured(sde, operator, y, noise_std)

    @jax.jit
    def run(key):
        return method.particles(measured, score_fn, Draw(key, solver, (n, 2)))[0]

    cloud = run(jax.random.key(0))
    weights = jax.nn.softmax(cloud.log_weights, axis=0) / n
    return np.asarray(cloud.z, np.float64).reshape(-1, 2), np.asarray(weights).ravel()


@pytest.mark.thorough
def test_the_posterior_s_weights_are_within_3_percent():
    sde, mixture, y, noise_std = SDES["vp"], Mixture(), 0.1, 0.3
    exact = mixture.given(MATRIX, np.array([y]), noise_std)
    method = posterior.TwistedSMC(1000, data_std=0.6)
    solver = samplers.EulerAncestral(300, sigma_max=10.0)
    about = sde, mixture.score_fn(sde), seen, y, noise_std
    x, weights = particles(method, solver, *about, n=32)
    found = weights @ exact.component_shares(x)
    np.testing.assert_allclose(found, exact.weights, rtol=0.03)
    np.testing.assert_allclose(weights @ x, exact.mean, atol=0.02)
    centred = x - weights @ x
    covariance = centred.T @ (weights[:, None] * centred)
    np.testing.assert_allclose(covariance, exact.covariance, atol=0.03)


@pytest.mark.thorough
def test_samples_are_drawn_with_the_posterior_s_weights():
    sde, mixture, n = SDES["vp"], Mixture(), 3000
    exact = mixture.given(MATRIX, np.array([0.1]), 0.3)
    method, solver = posterior.TwistedSMC(8, data_std=0.6), samplers.EulerAncestral(50)
    about = sde, mixture.score_fn(sde), seen, jnp.full((n, 1), 0.1), (n, 2), 0.3
    samples = jax.jit(lambda key: method(key, solver, *about))(jax.random.key(0))
    assert samples.nfe == 8 * 50
    found = exact.component_shares(np.asarray(samples.x)).mean(0)
    np.testing.assert_allclose(found, exact.weights, atol=0.03)


@pytest.mark.thorough
@pytest.mark.parametrize("name", SDES)
def test_gaussian_data_have_the_exact_posterior_in_few_steps(name):
    """The chain is exact for data N(m, data_std^2 I)."""
    sde, data, noise_std = SDES[name], Gaussian(0.3, 0.7), 0.4
    method, solver = posterior.TwistedSMC(2000, data_std=data.std), samplers.EulerAncestral(8)
    x, weights = particles(method, solver, sde, data.score_fn(sde), seen, 1.0, noise_std)
    row, prior = MATRIX[0].astype(float), data.std**2
    gain = prior * row / (prior * row @ row + noise_std**2)
    mean = data.mean + gain * (1.0 - data.mean * row.sum())
    np.testing.assert_allclose(weights @ x, mean, atol=0.02)
    centred = x - weights @ x
    covariance = centred.T @ (weights[:, None] * centred)
    expected = prior * (np.eye(2) - np.outer(gain, row))
    np.testing.assert_allclose(covariance, expected, atol=0.03)


@pytest.mark.thorough
def test_a_nonlinear_measurement_has_the_posterior_of_bayes_rule():
    """The distance from the origin, which leaves an arc of each component."""
    sde, mixture, y, noise_std = SDES["vp"], Mixture(), 1.0, 0.2

    def distance(x):
        return jnp.sqrt(jnp.sum(x**2, axis=1, keepdims=True) + 1e-12)

    ticks = np.linspace(-4, 4, 401, dtype=np.float32)
    mesh = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
    logs = mixture.log_prob(jnp.asarray(mesh)) - 0.5 * ((y - distance(mesh)[:, 0]) / noise_std) ** 2
    p = np.asarray(jax.nn.softmax(logs), np.float64)
    method, solver = posterior.TwistedSMC(500, data_std=0.6), samplers.EulerAncestral(100)
    about = sde, mixture.score_fn(sde), distance, y, noise_std
    x, weights = particles(method, solver, *about, n=32)
    np.testing.assert_allclose(weights @ x, p @ mesh, atol=0.05)
    np.testing.assert_allclose(weights @ x**2, p @ mesh**2, atol=0.04)
    np.testing.assert_allclose(weights @ (x[:, 0] > 0), p @ (mesh[:, 0] > 0), atol=0.03)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "solver", [samplers.EulerMaruyama(12), samplers.Heun(12), samplers.DDIM(12)]
)
def test_the_steps_are_between_the_levels_of_any_sampler_with_steps(solver):
    sde, n = SDES["vp"], 2
    about = sde, Mixture().score_fn(sde), seen, jnp.zeros((n, 1)), (n, 2), 0.3
    samples = posterior.TwistedSMC(4)(jax.random.key(0), solver, *about)
    assert samples.nfe == 4 * 12
    assert np.abs(samples.x).max() < 4


def test_samplers_without_steps_are_refused():
    sde = SDES["vp"]
    about = sde, Mixture().score_fn(sde), seen, jnp.zeros((2, 1)), (2, 2), 0.3
    with pytest.raises(ValueError, match="ProbabilityFlow has none: choose a sampler"):
        posterior.TwistedSMC(4)(jax.random.key(0), samplers.ProbabilityFlow(), *about)


def test_resampling_keeps_the_proportions():
    log_weights = jnp.log(jnp.array([0.5, 0.25, 0.25, 1e-9, 0, 0, 0, 0]))
    taken, weights = resample(jax.random.key(0), log_weights, 1.0)
    np.testing.assert_array_equal(np.bincount(taken, minlength=8), [4, 2, 2, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(weights, 0.0)
    taken, weights = resample(jax.random.key(0), log_weights, 0.0)
    np.testing.assert_array_equal(taken, np.arange(8))
    np.testing.assert_array_equal(weights, log_weights)


def test_impossible_options_are_refused():
    with pytest.raises(ValueError, match="n_particles is 0"):
        posterior.TwistedSMC(0)
    with pytest.raises(ValueError, match="resample_below is 2"):
        posterior.TwistedSMC(resample_below=2.0)


@pytest.mark.parametrize("name", ["heun", "stochastic_runge_kutta"])
def test_the_noise_levels_are_those_of_the_sampler(name):
    sampler = samplers.create(name, n_steps=5, sigma_max=5.0)
    _, levels = twisted_smc._enter(SDES["ve"], Draw(jax.random.key(0), sampler, (2, 2)))
    np.testing.assert_array_equal(levels, sampler.levels(SDES["ve"], 5.0, levels[-1]))
    assert levels[0] == pytest.approx(5.0)
