import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import SDES

import sde_lib
from samplers import guidance_schedules
from samplers.guidance import SCHEDULES

OPTIONS = {
    "clamp_linear": {"least": 1.5},
    "power_cosine": {"power": 2.0},
    "interval": {"low": 0.5, "high": 5.0},
}
VP = SDES["vp"]
LIKE_VP = sde_lib.EDM(t_max=float(VP.noise_level(1.0)))
T = np.linspace(0, 1, 10_001)


def weights(name, sde=VP, t=T, w=3.0, **options):
    schedule = SCHEDULES[name](w, sde, **{**OPTIONS.get(name, {}), **options})
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


@pytest.mark.thorough
def test_an_interval_is_of_noise_levels():
    for sde in (VP, sde_lib.EDM(), SDES["ve"]):
        t = sde.inverse_noise_level(jnp.array([0.49, 0.51, 4.99, 5.01]))
        np.testing.assert_array_equal(weights("interval", sde, t), [1, 3, 3, 1])
        outside = weights("interval", sde, t, low=0.5, high=np.inf, outside=0.0)
        np.testing.assert_array_equal(outside, [0, 3, 3, 3])
        removed = weights("interval", sde, t, removed=True)
        np.testing.assert_array_equal(removed, [3, 1, 1, 3])


@pytest.mark.parametrize("name", SCHEDULES)
def test_any_schedule_is_clamped_then_offset_then_limited_to_an_interval(name):
    """Without an interval of its own; the weights of the convention s_c + w (s_c - s) are w + 1."""
    plain = weights(name, **({"low": 0.0, "high": np.inf} if name == "interval" else {}))
    least = 1.5 if name == "clamp_linear" else 1.0
    changed = weights(name, least=least, most=4.0, offset=0.5, low=0.5, high=5.0)
    level = np.asarray(VP.noise_level(jnp.asarray(T, jnp.float32)))
    expected = np.where((level > 0.5) & (level <= 5.0), np.clip(plain, least, 4.0) + 0.5, 1.0)
    np.testing.assert_allclose(changed, expected, rtol=1e-6)


def test_tents_that_are_not_normalised():
    p = 1 - T
    np.testing.assert_allclose(weights("lambda", w=0.25), np.minimum(p, T), atol=1e-6)
    np.testing.assert_allclose(weights("v", w=0.25, offset=0.5), np.maximum(p, T), atol=1e-6)


@jax.jit
def all_weights(w, t_vp, level):
    """Weights of VP, of an EDM that starts where VP does, and of EDM at its start and beyond."""

    def make(sde, t):
        create = guidance_schedules.create
        return {name: create(name, w, sde, **OPTIONS.get(name, {}))(t) for name in SCHEDULES}

    return make(VP, t_vp), make(LIKE_VP, level), make(sde_lib.EDM(), jnp.array([100.0, 80.0]))


@pytest.mark.thorough
def test_edm_has_the_weights_of_vp_at_its_noise_levels():
    """The weight may be traced. Progress is 0 at EDM's own t_max, and stays there."""
    t = jnp.linspace(0.01, 1, 7)
    of_vp, of_edm, ends = all_weights(3.0, t, VP.noise_level(t))
    for name in SCHEDULES:
        np.testing.assert_allclose(of_vp[name], weights(name, t=t), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(of_edm[name], of_vp[name], atol=1e-4)
        np.testing.assert_allclose(ends[name], of_vp[name][-1], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cosin", {}, "guidance schedule 'cosin' is unknown: did you mean 'cosine'"),
        ("linear", {"power": 2.0}, "'linear' has no option 'power'; it takes least, most, offset"),
        (
            "interval",
            {"low": 1.0, "high": None},
            "'interval' needs the option 'high'",
        ),
        ("cosine", {"removed": True}, "removed is True, but there is no interval"),
        ("cosine", {"least": 2.0, "most": 1.0}, "least is 2.0 and most 1.0"),
        ("cosine", {"offset": np.inf}, "offset is inf"),
        ("interval", {"low": 2.0, "high": 1.0}, "low is 2.0 and high 1.0"),
        ("interval", {"low": 1.0, "high": 2.0, "outside": -1.0}, "outside is -1.0"),
        ("power_cosine", {"power": 0.0}, "power is 0.0: it must be positive"),
        ("clamp_linear", {"least": np.nan}, "least is nan: it must be at least 0"),
    ],
)
def test_mistakes_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        guidance_schedules.create(name, 1.0, VP, **options)


@pytest.mark.parametrize("name", SCHEDULES)
def test_impossible_weights_are_refused(name):
    for weight in (-1.0, np.inf):
        with pytest.raises(ValueError, match=f"weight is {weight}: it must be at least 0"):
            guidance_schedules.create(name, weight, VP, **OPTIONS.get(name, {}))
