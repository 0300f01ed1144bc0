import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import Gaussian
from scipy.interpolate import PchipInterpolator

import samplers
import sde_lib

BETAS = np.linspace(0.1 / 1000, 20 / 1000, 1000)  # DDPM's
SDE = sde_lib.from_betas(BETAS)
ALPHA2 = np.cumprod(1 - BETAS)
GRID = np.float32(np.arange(1000) / 999)


@jax.jit
def marginal(t):
    return SDE.alpha(t), SDE.sigma(t)


def test_levels_are_those_of_the_chain():
    alpha, sigma = marginal(GRID)
    np.testing.assert_allclose(alpha, np.sqrt(ALPHA2), rtol=2e-5)
    np.testing.assert_allclose(sigma, np.sqrt(1 - ALPHA2), rtol=2e-5)
    np.testing.assert_allclose(SDE.levels(1000), np.log(ALPHA2 / (1 - ALPHA2)), rtol=1e-9)


def test_ancestral_steps_are_ddpm_s():
    a, v, std = jax.jit(lambda t: SDE.ancestral(t, 999))(GRID[1:])
    np.testing.assert_allclose(a, np.sqrt(1 - BETAS[1:]), rtol=2e-6)
    np.testing.assert_allclose(v, BETAS[1:], rtol=2e-4)
    np.testing.assert_allclose(std**2, v, rtol=1e-6)


def test_discretised_steps_carry_one_level_to_the_next():
    """Both moments, over every other level too: a subsampled chain keeps its noise levels."""
    t, step = GRID[::2], jax.jit(lambda x, t: SDE.discretize(x, t, 999 / 2))
    f, g = step(np.ones((499, 1), np.float32), t[1:])
    alpha, sigma = (values[::2] for values in marginal(GRID))
    np.testing.assert_allclose((1 + f[:, 0]) * alpha[:-1], alpha[1:], rtol=1e-5)
    grown = np.sqrt(((1 + f[:, 0]) * sigma[:-1]) ** 2 + g**2)
    np.testing.assert_allclose(grown, sigma[1:], rtol=1e-5)


def test_drift_and_diffusion_belong_to_alpha_and_sigma():
    t, vp = np.linspace(0.0005, 0.9995, 37), sde_lib.VP(0.1, 20.0)  # the limit of many levels

    @jax.jit
    def rates(t):
        exact = sde_lib.SDE.drift_coefficient(SDE, t), sde_lib.SDE.diffusion(SDE, t)
        return (SDE.drift_coefficient(t), SDE.diffusion(t)), exact, vp.diffusion(t)

    ours, exact, limit = rates(t)
    np.testing.assert_allclose(ours[0], exact[0], rtol=1e-3)
    np.testing.assert_allclose(ours[1], exact[1], rtol=1e-3)
    np.testing.assert_allclose(ours[1][3:], limit[3:], rtol=0.02)


@pytest.mark.parametrize(
    "table",
    [
        pytest.param(SDE, id="ddpm"),
        *(  # of steps so different in size that the cubics are flat at one end or both
            pytest.param(sde_lib.Table(tuple(8 - 16 * np.cumsum(steps) / steps.sum())), id="wild")
            for steps in np.exp(3 * np.random.default_rng(0).standard_normal((1, 40)))
        ),
    ],
)
def test_log_snr_falls_and_is_inverted_at_levels_exactly(table):
    """Elsewhere to 1e-6 in log-SNR, and one unit in the last place of t."""
    last = len(table.log_snrs) - 1
    levels = np.asarray(table.log_snrs, np.float32)
    between = np.linspace(levels[0], levels[-1], 5000, dtype=np.float32)
    t = np.asarray(jax.jit(table.inverse_log_snr)(np.r_[levels, between, 20.0, -20.0]))
    np.testing.assert_array_equal(t[: last + 1], np.float32(np.arange(last + 1) / last))
    np.testing.assert_array_equal(t[-2:], [0.0, 1.0])
    t = t[last + 1 : -2]
    assert (np.diff(t) >= 0).all()
    exact = PchipInterpolator(np.arange(last + 1) / last, table.log_snrs)  # in float64
    of_an_ulp = np.spacing(t) * np.abs(exact(np.float64(t), 1))
    error = np.abs(exact(np.float64(t)) - between)
    assert (error <= 1e-6 + of_an_ulp).all()
    np.testing.assert_allclose(
        jax.jit(table.log_snr)(t), exact(np.float64(t)), rtol=1e-6, atol=1e-4
    )


def test_levels_that_float32_cannot_tell_apart_have_an_inverse():
    table = sde_lib.Table((1.0, -8.0, -8.0 - 1e-9))
    two = sde_lib.Table((1.0, -1.0))

    @jax.jit
    def inverses():
        of_two = two.inverse_log_snr(jnp.array([1.0, 0.0, -1.0]))
        return table.inverse_log_snr(jnp.array([1.0, -8.0])), of_two

    for times, expected in zip(inverses(), ([0.0, 0.5], [0.0, 0.5, 1.0]), strict=True):
        np.testing.assert_array_equal(times, expected)


def test_the_inverse_has_no_loop():
    jaxpr = str(jax.make_jaxpr(SDE.inverse_log_snr)(jnp.zeros(3)))
    assert "while" not in jaxpr
    assert "scan" not in jaxpr


@pytest.mark.thorough
def test_gaussian_likelihood_is_the_closed_form():
    data = Gaussian()

    @jax.jit
    def likelihoods(key):
        mean, std = data.marginal(SDE, 0.0)
        x = mean + std * jax.random.normal(key, (64, 2))
        result = sde_lib.log_likelihood(key, SDE, data.score_fn(SDE), x, probe="exact")
        latent, log_det = data.flow(SDE, x, 0.0)
        return result.log_prob, SDE.prior_logp(latent) + log_det

    log_prob, exact = likelihoods(jax.random.key(0))
    np.testing.assert_allclose(log_prob, exact, atol=1e-3)


@pytest.mark.thorough
def test_sampling_visits_every_level_once():
    """A thousand steps: at labels 999 to 1, then Tweedie's formula at label 0, as DDPM does."""
    seen = []

    def score_fn(x, t):
        jax.debug.callback(lambda t: seen.append(float(t[0])), t)
        return -x

    sampler = samplers.PredictorCorrector(1000, "ancestral_sampling", "none")
    jax.block_until_ready(
        jax.jit(lambda key: sampler(key, SDE, score_fn, (1, 2)).x)(jax.random.key(0))
    )
    jax.effects_barrier()
    np.testing.assert_allclose(np.sort(seen)[::-1] * 999, np.arange(999, -1, -1), atol=1e-3)


@pytest.mark.parametrize("betas", [[0.1], [0.1, 1.0], [0.0, 0.1], [[0.1, 0.2]]])
def test_impossible_betas_are_refused(betas):
    with pytest.raises(ValueError, match="two numbers at least"):
        sde_lib.from_betas(betas)


def test_tables_are_values():
    assert sde_lib.from_betas(BETAS) == SDE
    assert hash(SDE) == hash(sde_lib.from_betas(BETAS))
    assert repr(SDE) == "Table(1000 levels, log-SNR from 9.21 to -10.12)"
    with pytest.raises(ValueError, match="1000 levels in the table, not 10"):
        SDE.levels(10)
    with pytest.raises(ValueError, match="each below the one before"):
        sde_lib.Table((1.0, 2.0))
