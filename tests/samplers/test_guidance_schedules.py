import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import SDES

import sde_lib
from samplers import guidance, guidance_schedules

OPTIONS = {
    "clamp_linear": {"least": 1.5},
    "power_cosine": {"power": 2.0},
    "interval": {"low": 0.5, "high": 5.0},
}
VP = SDES["vp"]
T = np.linspace(0, 1, 10_001)


def weights(name, sde=VP, t=T, w=3.0, **options):
    schedule = guidance.SCHEDULES[name](w, sde, **(options or OPTIONS.get(name, {})))
    return np.asarray(schedule(jnp.asarray(t, jnp.float32)))


@pytest.mark.parametrize(
    ("name", "noise", "middle", "data"),
    [
        ("constant", 1, 1, 1),
        ("linear", 0, 1, 2),
        ("inverse_linear", 2, 1, 0),
        ("cosine", 0, 1, 2),
        ("sine", 2, 1, 0),
        ("v", 2, 0, 2),
        ("lambda", 0, 2, 0),
    ],
)
def test_the_weight_is_the_mean_from_noise_to_data(name, noise, middle, data):
    """The mean by the trapezoidal rule; the ends, at t_max and 0; what a linear piece is."""
    w = weights(name)
    np.testing.assert_allclose(np.trapezoid(w, T), 3, rtol=1e-4)
    np.testing.assert_allclose(w[[-1, 5000, 0]], 3 * np.array([noise, middle, data]), atol=1e-4)
    quarters = {"cosine": 1 - np.sqrt(0.5), "sine": 1 + np.sqrt(0.5)}
    quarter = quarters.get(name, (noise + middle) / 2)
    np.testing.assert_allclose(w[7500], 3 * quarter, rtol=1e-4, atol=1e-4)
    steps = np.diff(w) * np.sign(data - noise)
    assert name in ("constant", "v", "lambda") or (steps <= 1e-6).all()  # t runs from data to noise


def test_parametrised_schedules_are_their_formulas():
    p = 1 - T
    np.testing.assert_allclose(weights("clamp_linear"), np.maximum(1.5, 6 * p), atol=1e-5)
    np.testing.assert_allclose(weights("clamp_linear", least=0.0), weights("linear"))
    exact = 1.5 * (1 - np.cos(np.pi * p**2))
    np.testing.assert_allclose(weights("power_cosine"), exact, atol=1e-5)
    np.testing.assert_allclose(2 * weights("power_cosine", power=1.0), weights("cosine"), atol=1e-5)


def test_an_interval_is_of_noise_levels():
    for sde in (VP, sde_lib.EDM(), SDES["ve"]):
        t = sde.inverse_noise_level(jnp.array([0.49, 0.51, 4.99, 5.01]))
        np.testing.assert_array_equal(weights("interval", sde, t), [1, 3, 3, 1])
        outside = weights("interval", sde, t, low=0.5, high=np.inf, outside=0.0)
        np.testing.assert_array_equal(outside, [0, 3, 3, 3])


@pytest.mark.parametrize("name", guidance.SCHEDULES)
def test_edm_has_the_weights_of_vp_at_its_noise_levels(name):
    """Progress is 0 at EDM's own t_max, and stays there."""
    high = float(VP.noise_level(1.0))
    t = np.linspace(0.01, 1, 7)
    level = np.asarray(VP.noise_level(t))
    edm = weights(name, sde_lib.EDM(t_max=high), level)
    np.testing.assert_allclose(edm, weights(name, t=t), atol=1e-4)
    ends = weights(name, sde_lib.EDM(), [100.0, 80.0])
    np.testing.assert_allclose(ends, weights(name, t=[1.0, 1.0]), atol=1e-5)


def test_a_weight_may_be_traced():
    t = jnp.array([0.2, 0.7])

    @jax.jit
    def all_weights(w):
        make = guidance_schedules.create
        return {name: make(name, w, VP, **OPTIONS.get(name, {}))(t) for name in guidance.SCHEDULES}

    for name, w in all_weights(3.0).items():
        np.testing.assert_allclose(w, weights(name, t=t), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cosin", {}, "guidance schedule 'cosin' is unknown: did you mean 'cosine'"),
        ("linear", {"power": 2.0}, "'linear': .*'power'; it takes no options"),
        ("interval", {"low": 1.0, "high": None}, "missing .*'high'; it takes low, high, outside"),
        ("interval", {"low": 2.0, "high": 1.0}, "low is 2.0 and high 1.0"),
        ("interval", {"low": 1.0, "high": 2.0, "outside": -1.0}, "outside is -1.0"),
        ("power_cosine", {"power": 0.0}, "power is 0.0: it must be positive"),
        ("clamp_linear", {"least": np.nan}, "least is nan: it must be at least 0"),
    ],
)
def test_mistakes_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        guidance_schedules.create(name, 1.0, VP, **options)


@pytest.mark.parametrize("name", guidance.SCHEDULES)
def test_impossible_weights_are_refused(name):
    for weight in (-1.0, np.inf):
        with pytest.raises(ValueError, match=f"weight is {weight}: it must be at least 0"):
            guidance_schedules.create(name, weight, VP, **OPTIONS.get(name, {}))
