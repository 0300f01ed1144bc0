import functools

import golden
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from closed_forms import SDES
from hypothesis import given, settings
from hypothesis import strategies as st

import sde_lib

STEPS = golden.load("sde_steps")
X = golden.channels_last(STEPS["x"])


def exact_sigma(name, t):
    """sigma(t) of the published formula, computed with 30 digits."""
    with mpmath.workdps(30):
        t = mpmath.mpf(float(t))
        b = t * (mpmath.mpf("0.1") + t * (mpmath.mpf(20) - mpmath.mpf("0.1")) / 2)
        return float(
            {
                "ve": mpmath.mpf("0.01") * mpmath.mpf(5000) ** t,
                "vp": mpmath.sqrt(-mpmath.expm1(-b)),
                "subvp": -mpmath.expm1(-b),
            }[name]
        )


@pytest.mark.parametrize("name", SDES)
def test_sigma_is_exact_near_zero(name):
    t = np.geomspace(1e-6, 1, 200).astype(np.float32)
    exact = [exact_sigma(name, each) for each in t]
    np.testing.assert_allclose(jax.jit(SDES[name].sigma)(t), exact, rtol=1e-5)


@functools.cache
def step_program(name):
    """Marginal, drift, diffusion and discretised step at t, compiled once per SDE."""
    sde = SDES[name]

    @jax.jit
    def run(t):
        f, g = sde.discretize(X, t, 1000)
        return *sde.marginal(X, t), sde.drift(X, t), sde.diffusion(t), f, g

    return run


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("k", range(5))
def test_agrees_with_the_published_code(name, k):
    mean, std, drift, diffusion, f, g = step_program(name)(np.full(4, STEPS["t"][k], np.float32))
    # The reference's own 1 - exp(.) in float32 is off near 0: there test_sigma_is_exact decides.
    std_tolerance = 2e-4 if STEPS["t"][k] > 0.01 or name == "ve" else 4e-2
    for quantity, value, tolerance in (
        ("mean", mean, 1e-5),
        ("std", std, std_tolerance),
        ("drift", drift, 1e-5),
        ("diffusion", diffusion, std_tolerance),
        ("discretized_drift", f, 2e-4),
        ("discretized_diffusion", g, std_tolerance),
    ):
        reference = golden.channels_last(STEPS[f"{name}/{k}/{quantity}"])
        if np.abs(reference).max() == 0:
            assert np.abs(value).max() < 1e-6
        else:
            golden.assert_close(value, reference, tolerance)


@pytest.mark.parametrize("name", SDES)
def test_prior_agrees_with_the_published_code(name):
    golden.assert_close(SDES[name].prior_logp(X), STEPS[f"{name}/prior_logp"], 1e-6)


@functools.cache
def inverses(name):
    """log-SNR by both of its forms, and the times of it by both of their inverses."""
    sde = SDES[name]

    @jax.jit
    def run(t):
        log_snr = sde.log_snr(t)
        times = sde.inverse_log_snr(log_snr), sde_lib.SDE.inverse_log_snr(sde, log_snr)
        return log_snr, sde_lib.SDE.log_snr(sde, t), times

    return run


@pytest.mark.parametrize("name", SDES)
@given(t=st.floats(1e-4, 1.0))
@settings(max_examples=25, deadline=None)
def test_log_snr_is_that_of_alpha_and_sigma_and_inverts(name, t):
    log_snr, derived, times = inverses(name)(np.float32(t))
    np.testing.assert_allclose(log_snr, derived, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(times, [t, t], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["ve", "vp"])
def test_ancestral_step_is_the_exact_posterior_as_steps_shrink(name):
    sde, t, n = SDES[name], jnp.float32(0.4), 10_000
    step, exact = sde.ancestral(t, n), sde_lib.SDE.ancestral(sde, t, n)
    for value, expected, tolerance in zip(step, exact, (1e-6, 5e-3, 5e-3), strict=True):
        np.testing.assert_allclose(value, expected, rtol=tolerance)


def test_discrete_levels_are_the_published_ones():
    """SMLD: sigma geometric, the largest first. DDPM: alpha^2 the product of 1 - beta_k."""
    sigma = 50 * (0.01 / 50) ** (np.arange(10) / 9)
    np.testing.assert_allclose(SDES["ve"].levels(10), np.log(1 / sigma**2), rtol=1e-12)
    alpha2 = np.cumprod(1 - np.linspace(0.1 / 1000, 20 / 1000, 1000))
    np.testing.assert_allclose(SDES["vp"].levels(1000), np.log(alpha2 / (1 - alpha2)), rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "n_levels", "message"),
    [("subvp", 1000, "train continuously"), ("vp", 20, "more than 20"), ("ve", 1, "at least 2")],
)
def test_impossible_levels_are_refused(name, n_levels, message):
    with pytest.raises(ValueError, match=message):
        SDES[name].levels(n_levels)


@pytest.mark.parametrize(
    ("family", "numbers"),
    [
        (sde_lib.VE, (1.0, 1.0)),
        (sde_lib.VE, (0.0, 1.0)),
        (sde_lib.VE, (0.01, np.inf)),
        (sde_lib.VP, (20.0, 0.1)),
        (sde_lib.SubVP, (0.0, 20.0)),
    ],
)
def test_impossible_numbers_are_refused(family, numbers):
    with pytest.raises(ValueError, match="needs 0 < "):
        family(*numbers)


def test_vp_chain_of_too_few_steps_is_refused():
    with pytest.raises(ValueError, match="more than 20 steps"):
        SDES["vp"].discretize(X, jnp.ones(4), 20)


def test_sdes_are_values():
    assert sde_lib.VE(0.01, 50.0) == sde_lib.VE()
    assert hash(sde_lib.VP()) == hash(sde_lib.VP(0.1, 20.0))
    assert "beta_max=20.0" in repr(sde_lib.VP())
    assert jax.jit(lambda sde: sde.sigma(1.0), static_argnums=0)(sde_lib.VE()) == pytest.approx(50)
