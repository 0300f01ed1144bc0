import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import SDES, Gaussian, Mixture

import samplers
from samplers import posterior


def seen(x):
    return jnp.sum(x**2, axis=1, keepdims=True)


def norm(sde, score_fn, x, t, y):
    """|y - operator(E[x_0 | x_t])|, one number a sample."""
    return jnp.sqrt(jnp.sum((y - seen(sde.denoise(x, t, score_fn(x, t)))) ** 2, axis=1))


@pytest.mark.thorough
def test_a_step_of_the_chain_is_the_published_one():
    """Algorithm 1: the step without the measurement, less zeta' times the norm's gradient."""
    sde, zeta, n_steps = SDES["vp"], 0.3, 1000
    score_fn, key = Mixture().score_fn(sde), jax.random.key(0)
    x, z = jax.random.normal(key, (2, 5, 2))
    t, y = jnp.linspace(0.1, 1.0, 5), jnp.full((5, 1), 0.7)
    conditional = posterior.DPS(zeta, n_steps).condition(sde, score_fn, seen, y)
    ancestral = samplers.PREDICTORS["ancestral_sampling"]
    moved, plain = (
        ancestral(sde, fn, x, t, sde.t_max / n_steps, z)[0] for fn in (conditional, score_fn)
    )
    gradient = jax.grad(lambda x: jnp.sum(norm(sde, score_fn, x, t, y)))(x)
    np.testing.assert_allclose(moved - plain, -zeta * gradient, rtol=0.02, atol=1e-5)


@pytest.mark.thorough
def test_the_likelihood_s_guide_is_its_gradient():
    sde, noise_std = SDES["ve"], 0.4
    score_fn = Mixture().score_fn(sde)
    x, t = 2 * jax.random.normal(jax.random.key(0), (5, 2)), jnp.linspace(0.3, 0.7, 5)
    y = jnp.full((5, 1), 0.7)

    def log_prob(x):
        return jnp.sum(-0.5 * norm(sde, score_fn, x, t, y) ** 2 / noise_std**2)

    conditional = posterior.DPS(None).condition(sde, score_fn, seen, y, noise_std)
    guide = conditional(x, t) - score_fn(x, t)
    np.testing.assert_allclose(guide, jax.grad(log_prob)(x), rtol=1e-3, atol=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("method", [posterior.DPS(), posterior.DPS(None)])
def test_a_measurement_without_new_information_changes_nothing(method):
    """The norm is 0, and its gradient is not defined."""
    sde, x, t = SDES["vp"], jnp.ones((2, 3)), jnp.full(2, 0.5)
    score_fn = Gaussian().score_fn(sde)
    y = seen(sde.denoise(x, t, score_fn(x, t)))
    conditional = method.condition(sde, score_fn, seen, y, 0.1)
    np.testing.assert_allclose(conditional(x, t), score_fn(x, t), atol=1e-4)


@pytest.mark.thorough
def test_it_is_too_sure_even_of_gaussian_data():
    """N(0, 1) seen as 1 with noise of 1: the posterior is N(1/2, 1/2), which PiGDM gives."""
    sde, n, data = SDES["vp"], 2000, Gaussian(0.0, 1.0)
    y, solver = jnp.ones((n, 1)), samplers.Heun(30)

    def moments(method):
        about = sde, data.score_fn(sde), lambda x: x, y, (n, 1), 1.0
        x = jax.jit(lambda key: method(key, solver, *about).x)(jax.random.key(0))
        return float(jnp.mean(x)), float(jnp.var(x))

    np.testing.assert_allclose(moments(posterior.PiGDM()), (0.5, 0.5), atol=0.05)
    mean, variance = moments(posterior.DPS(None))
    assert mean > 0.6
    assert variance < 0.4


def test_impossible_options_are_refused():
    with pytest.raises(ValueError, match="step_size is 0"):
        posterior.DPS(0.0)
    with pytest.raises(ValueError, match="n_steps is 0"):
        posterior.DPS(n_steps=0)


@pytest.mark.thorough
@pytest.mark.parametrize("name", SDES)
def test_the_denoising_at_the_end_moves_by_the_step_at_most(name):
    """Also under VE, whose data have noise of sigma_min at t = 0."""
    sde, zeta, n_steps = SDES[name], 0.3, 100
    score_fn, x = Gaussian().score_fn(sde), jnp.full((4, 2), 0.8)
    y, t = jnp.full((4, 1), 0.7), jnp.full(4, sde.t_min)
    conditional = posterior.DPS(zeta, n_steps).condition(sde, score_fn, seen, y)
    moved, plain = (sde.denoise(x, t, fn(x, t)) for fn in (conditional, score_fn))
    gradient = jax.grad(lambda x: jnp.sum(norm(sde, score_fn, x, t, y)))(x)
    np.testing.assert_allclose(moved - plain, -zeta * gradient, rtol=0.02, atol=1e-5)


def test_a_later_start_keeps_the_step():
    """A sampler that starts half way makes the steps of a chain that is twice as long."""
    sde, asked = SDES["vp"], []

    def sampler(key, sde, score_fn, shape, first_index=0, n_frames=0, start=None):
        asked.append(score_fn(jnp.ones(shape), jnp.full(shape[0], 0.3)))
        return samplers.Samples(jnp.zeros(shape), 1, jnp.zeros((0, *shape)))

    sampler.n_steps = 20
    y, x = jnp.full((4, 1), 0.7), jnp.ones((4, 2))
    about = sampler, sde, Gaussian().score_fn(sde), seen, y, (4, 2)
    start = samplers.Start(x, sde.t_max / 2)
    posterior.DPS()(jax.random.key(0), *about, start=start)
    posterior.DPS(n_steps=40)(jax.random.key(0), *about, start=start)
    np.testing.assert_allclose(*asked, rtol=1e-6)


@pytest.mark.parametrize("name", ["adaptive_sde", "annealed_langevin", "probability_flow"])
def test_a_step_of_one_length_needs_a_chain_of_steps(name):
    """An adaptive solver would follow a guide that does not fade, and end at NaN."""
    sde, solver = SDES["vp"], samplers.create(name)
    about = solver, sde, Mixture().score_fn(sde), lambda x: x[:, :1], jnp.zeros((2, 1)), (2, 2)
    with pytest.raises(ValueError, match="choose a sampler with n_steps, or step_size=None"):
        posterior.DPS()(jax.random.key(0), *about)


@pytest.mark.slow
def test_the_likelihood_goes_with_adaptive_samplers():
    sde, solver, y = SDES["vp"], samplers.create("dpm_adaptive"), jnp.array([[-1.0], [0.7]])
    about = solver, sde, Mixture().score_fn(sde), lambda x: x[:, :1], y, (2, 2), 0.1
    x = posterior.DPS(step_size=None)(jax.random.key(0), *about).x
    np.testing.assert_allclose(x[:, :1], y, atol=0.3)
