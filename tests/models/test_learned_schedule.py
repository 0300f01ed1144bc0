import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import LearnedSchedule

SCHEDULE = LearnedSchedule(-8.0, 5.0, width=8)
U = jnp.linspace(0, 1, 1001)
START = jax.tree.map(np.asarray, SCHEDULE.init(jax.random.key(0), U))


def moved(scale):
    """Random parameters around the initial ones."""
    random = np.random.default_rng(0)
    return jax.tree.map(lambda p: p + scale * random.normal(size=p.shape).astype("f4"), START)


def rates(params):
    return np.asarray(jax.jvp(lambda u: SCHEDULE.apply(params, u), (U,), (jnp.ones_like(U),))[1])


@pytest.mark.thorough
def test_it_rises_between_its_ends_whatever_its_parameters():
    for scale in (0.5, 3.0):
        params = moved(scale)
        gamma = np.asarray(SCHEDULE.apply(params, U))
        np.testing.assert_allclose(gamma[[0, -1]], [-8, 5], rtol=1e-6)
        assert (np.diff(gamma) >= 0).all()
        assert (rates(params) > 0).all()
        assert np.trapezoid(rates(params), U) == pytest.approx(13, rel=0.01)


@pytest.mark.thorough
def test_it_starts_nearly_linear():
    gamma = np.asarray(SCHEDULE.apply(START, U))
    np.testing.assert_allclose(gamma, -8 + 13 * U, atol=0.5)
    assert 0.6 * 13 < rates(START).min() < rates(START).max() < 1.2 * 13


def test_the_formula_is_a_line_plus_sigmoids():
    """The formula is evaluated in float64."""
    params = moved(0.3)
    own = {name: np.float64(value) for name, value in params["params"].items()}

    def rise(u):
        slopes = 16 * np.exp(own["log_slope"])
        steps = np.exp(own["log_height"]) / 8 / (1 + np.exp(slopes * (own["centre"] - u[:, None])))
        return np.exp(own["log_share"]) * u + steps.sum(1)

    u = np.linspace(0, 1, 11)
    expected = -8 + 13 * (rise(u) - rise(u[:1])) / (rise(u[-1:]) - rise(u[:1]))
    np.testing.assert_allclose(SCHEDULE.apply(params, jnp.asarray(u)), expected, rtol=1e-5)
