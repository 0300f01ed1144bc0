"""Tests of the mean-flow loss on Gaussian data, whose average velocities are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import Gaussian

import sde_lib
from sde_lib.batch import expand
from sde_lib.few_steps.mean_flow import (
    MeanFlow,
    average_and_target,
    average_velocity,
    mean_flow_loss,
)

SDES = {"flow": sde_lib.LinearFlow(), "vp": sde_lib.VP()}
DATA = Gaussian()


def exact(sde, data=DATA, factor=1.0):
    """The average velocities of the probability flow, times a factor."""

    def average(x, r, t):
        (mean_t, std_t), (mean_r, std_r) = (data.marginal(sde, each) for each in (t, r))
        x_r = expand(mean_r, x) + expand(std_r / std_t, x) * (x - expand(mean_t, x))
        length = expand(jnp.where(t > r, t - r, 1.0), x)
        now = sde.flow_drift(x, t, data.score_fn(sde)(x, t))
        return factor * jnp.where(expand(t > r, x), (x - x_r) / length, now)

    return MeanFlow(data.score_fn(sde), average)


def points(n=6):
    x = jnp.linspace(-2.0, 2.0, 3 * n).reshape(n, 3)
    return x, jnp.linspace(0.1, 0.3, n), jnp.linspace(0.5, 0.9, n)


@pytest.mark.parametrize("name", SDES)
def test_exact_average_velocities_are_their_own_target(name):
    sde, (x, r, t) = SDES[name], points()
    v = sde.flow_drift(x, t, DATA.score_fn(sde)(x, t))
    own, target = average_and_target(exact(sde).average, x, v, r, t)
    np.testing.assert_allclose(own, target, rtol=2e-3, atol=2e-3)
    own, target = average_and_target(exact(sde, factor=1.2).average, x, v, r, t)
    assert np.abs(own - target).max() > 0.05


def test_the_target_is_that_of_finite_differences():
    average = lambda x, r, t: jnp.sin(x * t[:, None]) + (r * t**2)[:, None]  # noqa: E731
    with jax.enable_x64(True):
        x, r, t = (np.asarray(each, np.float64) for each in points())
        v, h = jnp.cos(x), 1e-6
        _, target = average_and_target(average, jnp.asarray(x), v, jnp.asarray(r), jnp.asarray(t))
        rate = (average(x + h * v, r, t + h) - average(x - h * v, r, t - h)) / (2 * h)
        np.testing.assert_allclose(target, v - (t - r)[:, None] * rate, rtol=1e-7)


@pytest.mark.thorough
def test_the_gradient_of_the_loss_is_least_at_the_exact_velocities():
    """The single path's velocity has the mean v, so the gradient vanishes on average."""
    sde = sde_lib.LinearFlow()
    x0 = DATA.sample(jax.random.key(1), (100_000, 1))

    def loss(factor):
        about = {"interval_share": 1.0, "power": 0.0}
        return mean_flow_loss(jax.random.key(0), sde, exact(sde, factor=factor), x0, **about)[0]

    slopes = jax.jit(jax.jacfwd(loss))
    at = {factor: np.asarray(slopes(factor)) for factor in (0.9, 1.0, 1.1)}
    error = 4 * at[1.0].std() / np.sqrt(len(x0))
    assert abs(at[1.0].mean()) < error
    assert at[0.9].mean() < -error
    assert at[1.1].mean() > error


@pytest.mark.thorough
def test_equal_times_learn_the_velocity():
    sde, x0 = sde_lib.LinearFlow(), DATA.sample(jax.random.key(1), (64, 2))
    wrong = lambda x, r, t: jnp.where((r < t)[:, None], jnp.nan, 0.0) * x  # noqa: E731
    model = MeanFlow(DATA.score_fn(sde), wrong)
    loss, metrics = mean_flow_loss(jax.random.key(0), sde, model, x0, 0.0, 0.0)
    assert np.isfinite(loss).all()
    np.testing.assert_array_equal(loss, metrics["error"])
    _, metrics = mean_flow_loss(jax.random.key(0), sde, model, x0, 0.25)
    assert np.isnan(metrics["error"]).mean() == pytest.approx(0.25, abs=0.15)


@pytest.mark.thorough
def test_the_weight_has_no_gradient():
    sde, x0 = sde_lib.LinearFlow(), DATA.sample(jax.random.key(1), (64, 2))

    def loss(factor, power):
        score_fn = exact(sde, factor=factor)
        losses, metrics = mean_flow_loss(jax.random.key(0), sde, score_fn, x0, 0.0, power)
        return losses[0], metrics["error"][0]

    (_, error), (slope, _) = loss(0.5, 1.0), jax.jacfwd(loss)(0.5, 1.0)
    np.testing.assert_allclose(slope * (error + 1e-3), jax.jacfwd(loss)(0.5, 0.0)[0], rtol=1e-5)


@pytest.mark.thorough
def test_sample_i_depends_on_its_index_alone():
    sde, x0 = sde_lib.LinearFlow(), DATA.sample(jax.random.key(1), (8, 2))
    whole, _ = mean_flow_loss(jax.random.key(0), sde, exact(sde), x0)
    part, _ = mean_flow_loss(jax.random.key(0), sde, exact(sde), x0[5:], first_index=5)
    np.testing.assert_allclose(whole[5:], part, rtol=1e-5)


def test_what_has_no_average_velocities_is_refused():
    with pytest.raises(ValueError, match="a score_fn that is a MeanFlow"):
        average_velocity(lambda x, t: x)
    for options, message in (((1.5,), "interval_share is 1.5"), ((0.5, -1.0), "power is -1")):
        with pytest.raises(ValueError, match=message):
            mean_flow_loss(
                jax.random.key(0), SDES["vp"], exact(SDES["vp"]), jnp.ones((2, 2)), *options
            )
