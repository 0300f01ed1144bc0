import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import SDES, Correlated

import samplers
from samplers import measurement, posterior
from sde_lib.batch import expand

DATA = Correlated((0.5, -0.5), ((1.0, 0.0), (0.7, 0.4)))
MASK = jnp.array([1.0, 0.0])
N = 4000


def published(key, sde, score_fn, y, n_steps):
    """score_sde's get_pc_inpainter, with its predictor "reverse_diffusion" and no corrector."""
    times = jnp.linspace(sde.t_max, 1e-3, n_steps)

    def step(k, state):
        x, _ = state
        t = jnp.full(N, times[k])
        first, second = jax.random.normal(jax.random.fold_in(key, k), (2, N, 2))
        f, g = sde.discretize(x, t, n_steps)
        g = expand(g, x)
        x_mean = x - f + g**2 * score_fn(x, t)
        x = x_mean + g * first
        mean, std = sde.marginal(y, t)
        x = (1 - MASK) * x + MASK * (mean + expand(std, x) * second)
        return x, (1 - MASK) * x_mean + MASK * mean

    x = sde.prior_sample(key, (N, 2))
    return jax.lax.fori_loop(0, n_steps, step, (x, x))[1]


@pytest.mark.thorough
def test_it_is_the_published_algorithm():
    sde, n_steps = SDES["vp"], 40
    score_fn, y = DATA.score_fn(sde), jnp.tile(jnp.array([1.5, 0.0]), (N, 1))
    expected = jax.jit(lambda key: published(key, sde, score_fn, y, n_steps))(jax.random.key(1))
    solver = samplers.PredictorCorrector(n_steps, "reverse_diffusion", "none")
    about = sde, score_fn, lambda x: MASK * x, y, (N, 2)
    method = posterior.Replacement()
    x = jax.jit(lambda key: method(key, solver, *about).x)(jax.random.key(0))
    np.testing.assert_allclose(x[:, 0], 1.5, atol=1e-6)
    np.testing.assert_allclose(x[:, 1].mean(), expected[:, 1].mean(), atol=0.04)
    np.testing.assert_allclose(x[:, 1].std(), expected[:, 1].std(), atol=0.03)


@pytest.mark.thorough
def test_the_unmeasured_part_agrees_too_little_with_the_measured_one():
    """The mean of the second coordinate given 1.5 for the first is 0.2; it stays below."""
    sde, y = SDES["vp"], jnp.full((N, 1), 1.5)
    exact = -0.5 + 0.7 * (1.5 - 0.5)
    about = sde, DATA.score_fn(sde), lambda x: x[:, :1], y, (N, 2)

    def mean(method):
        solver = samplers.EulerAncestral(60)
        return float(
            jax.jit(lambda key: method(key, solver, *about).x)(jax.random.key(0))[:, 1].mean()
        )

    assert abs(mean(posterior.MomentMatching(2)) - exact) < 0.03
    assert mean(posterior.Replacement()) < exact - 0.05


@pytest.mark.thorough
@pytest.mark.parametrize("operator", [measurement.grey, measurement.downsampling(2)])
def test_the_measurement_comes_back(operator):
    x0 = jax.random.normal(jax.random.key(0), (3, 4, 4, 3))
    about = SDES["vp"], lambda x, t: -x, operator, operator(x0), x0.shape
    samples = posterior.Replacement()(jax.random.key(0), samplers.EulerAncestral(5), *about)
    np.testing.assert_allclose(operator(samples.x), operator(x0), atol=1e-5)


def test_a_measurement_with_noise_is_refused():
    about = SDES["vp"], lambda x, t: -x, lambda x: x[:, :1], jnp.zeros((1, 1)), (1, 2), 0.1
    with pytest.raises(ValueError, match="replacement is for exact measurements"):
        posterior.Replacement()(jax.random.key(0), samplers.Euler(4), *about)


@pytest.mark.thorough
def test_operators_whose_transpose_is_no_pseudoinverse_are_refused():
    sde = SDES["vp"]
    operator = measurement.blur(1.0)
    y = jnp.zeros((1, 6, 6, 1))
    with pytest.raises(ValueError, match="needs an operator A with A A"):
        posterior.Replacement()(
            jax.random.key(0), samplers.Euler(4), sde, lambda x, t: -x, operator, y, y.shape
        )


def test_adaptive_samplers_are_refused():
    sde, y = SDES["vp"], jnp.zeros((1, 1))
    about = sde, DATA.score_fn(sde), lambda x: x[:, :1], y, (1, 2)
    with pytest.raises(ValueError, match="the adaptive ProbabilityFlow"):
        posterior.Replacement()(jax.random.key(0), samplers.ProbabilityFlow(), *about)
