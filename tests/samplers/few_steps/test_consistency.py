"""Tests of multistep consistency sampling, with the exact consistency function of a Gaussian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import Gaussian

import samplers
import sde_lib
from sde_lib.batch import expand

DATA = Gaussian()
SDES = {"edm": sde_lib.EDM(), "flow": sde_lib.LinearFlow(), "vp": sde_lib.VP()}


def exact(sde):
    """The score whose estimate of the data is the end of the probability flow."""

    def score(x, t):
        mean, std = DATA.marginal(sde, t)
        end = DATA.mean + DATA.std * (x - expand(mean, x)) / expand(std, x)
        return (expand(sde.alpha(t), x) * end - x) / expand(sde.sigma(t), x) ** 2

    return score


@pytest.mark.thorough
@pytest.mark.parametrize("name", SDES)
def test_one_step_is_the_end_of_the_probability_flow(name):
    sde, key = SDES[name], jax.random.key(0)
    samples = samplers.Consistency()(key, sde, exact(sde), (5, 3))
    mean, std = DATA.marginal(sde, jnp.full(5, sde.t_max))
    x = sde.prior_sample(key, (5, 3))
    expected = DATA.mean + DATA.std * (x - expand(mean, x)) / expand(std, x)
    np.testing.assert_allclose(samples.x, expected, rtol=1e-3, atol=1e-3)
    assert samples.nfe == 1


@pytest.mark.thorough
@pytest.mark.parametrize("n_steps", [1, 2, 4])
def test_samples_have_the_moments_of_the_data_after_any_number_of_steps(n_steps):
    sde, shape = sde_lib.EDM(), (20_000, 1)
    sampler = samplers.Consistency(n_steps)
    samples = jax.jit(lambda key: sampler(key, sde, exact(sde), shape))(jax.random.key(0))
    assert samples.nfe == n_steps
    assert float(samples.x.mean()) == pytest.approx(DATA.mean, abs=0.02)
    assert float(samples.x.std()) == pytest.approx(DATA.std, abs=0.015)


def test_levels_are_those_of_a_grid_of_one_step_more_without_the_last():
    sde = sde_lib.EDM()
    for n in (1, 2, 4):
        whole = samplers.noise_levels.noise_levels(sde, "karras", 80.0, 0.002, n + 1, None, True)
        made = samplers.Consistency(n).levels(sde, 80.0, 0.002)
        np.testing.assert_allclose(made, whole[:-1])
    given = samplers.Consistency(2, grid=(80.0, 0.8))
    np.testing.assert_allclose(given.levels(sde, 80.0, 0.8), (80.0, 0.8))
