"""Tests of sampling by average velocities, with those of a Gaussian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import Gaussian

import samplers
import sde_lib
from sde_lib.batch import expand

DATA = Gaussian()
SDES = {"flow": sde_lib.LinearFlow(), "vp": sde_lib.VP()}


def end(sde, x, t, r):
    """The point at r of the probability flow through x at t."""
    (mean, std), (mean_r, std_r) = (DATA.marginal(sde, each) for each in (t, r))
    return expand(mean_r, x) + expand(std_r / std, x) * (x - expand(mean, x))


def exact(sde):
    def average(x, r, t):
        return (x - end(sde, x, t, r)) / expand(t - r, x)

    return sde_lib.MeanFlow(DATA.score_fn(sde), average)


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("n_steps", [1, 2, 4])
def test_any_number_of_steps_gives_the_end_of_the_probability_flow(name, n_steps):
    sde, key = SDES[name], jax.random.key(0)
    made = samplers.MeanFlow(n_steps)(key, sde, exact(sde), (5, 3), first_index=7, n_frames=n_steps)
    x = sde.prior_sample(key, (5, 3), 7)
    expected = end(sde, x, jnp.full(5, sde.t_max), jnp.zeros(5))
    np.testing.assert_allclose(made.x, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(made.path[-1], made.x)
    assert made.nfe == n_steps


def test_samples_start_from_given_states():
    sde, x = SDES["flow"], jnp.ones((2, 3))
    start = samplers.Start(x, 0.4)
    made = samplers.MeanFlow(2)(jax.random.key(0), sde, exact(sde), (2, 3), start=start)
    expected = end(sde, x, jnp.full(2, 0.4), jnp.zeros(2))
    np.testing.assert_allclose(made.x, expected, rtol=1e-4)


def test_a_score_without_average_velocities_is_refused():
    with pytest.raises(ValueError, match="name='mean_flow'"):
        samplers.MeanFlow()(jax.random.key(0), SDES["vp"], lambda x, t: -x, (2, 3))
    with pytest.raises(ValueError, match="n_steps is 0"):
        samplers.MeanFlow(0)
