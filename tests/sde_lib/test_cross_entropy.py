"""Tests of the cross-entropy by denoising and its importance sampling, in closed form."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_lib
from sde_lib import noise_density
from sde_lib.batch import expand

SDES = [sde_lib.GeometricVP(), sde_lib.VP(train_t_min=1e-3)]
MEAN, STD = jnp.array([0.7, -0.3]), jnp.array([0.5, 1.2])
KEY = jax.random.key(0)


def exact_score(sde):
    """The score of x_t for data of N(MEAN, STD^2)."""

    def score(x, t):
        alpha, sigma = expand(sde.alpha(t), x), expand(sde.sigma(t), x)
        return -(x - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)

    return score


def ends_of(sde):
    """alpha and sigma at train_t_min."""
    return float(sde.alpha(sde.train_t_min)), float(sde.sigma(sde.train_t_min))


@pytest.mark.thorough
@pytest.mark.parametrize("sde", SDES, ids=str)
def test_gaussian_encoder_and_exact_score_give_the_analytic_cross_entropy(sde):
    """q(z) = N(m, s^2) is not the model's distribution, so the entropy of either is not it."""
    n, m, s = 20_000, jnp.array([0.4, 0.1]), jnp.array([0.3, 0.6])
    x0 = m + s * jax.random.normal(jax.random.key(1), (n, 2))
    found = sde_lib.cross_entropy(KEY, sde, exact_score(sde), x0, True, n_times=16)
    alpha, sigma = ends_of(sde)
    ours, theirs = (alpha * s) ** 2 + sigma**2, (alpha * STD) ** 2 + sigma**2
    square = (ours + (alpha * (m - MEAN)) ** 2) / theirs
    exact = 0.5 * jnp.sum(square + jnp.log(2 * math.pi * theirs))
    error = float(found.std() / math.sqrt(n))
    assert error < 0.03
    assert abs(float(found.mean() - exact)) < 4 * error


@pytest.mark.thorough
def test_one_noise_level_and_many_have_the_same_mean():
    sde, n = SDES[0], 4096
    x0 = MEAN + STD * jax.random.normal(jax.random.key(1), (n, 2))
    options = {"importance_sampling": True, "stratified": True}
    losses, metrics = sde_lib.cross_entropy_loss(KEY, sde, exact_score(sde), x0, **options)
    many = sde_lib.cross_entropy(KEY, sde, exact_score(sde), x0, True, n_times=8)
    assert abs(float(losses.mean() - many.mean())) < 4 * float(losses.std()) / math.sqrt(n)
    assert metrics["t"].min() >= sde.train_t_min


@pytest.mark.thorough
@pytest.mark.parametrize("sde", [*SDES, sde_lib.Cosine(train_t_min=1e-3)], ids=str)
def test_importance_weights_integrate_to_one(sde):
    """The density of t, d log sigma^2 / dt over its range, is that of the quantile function."""
    with jax.enable_x64(True):
        u = jnp.linspace(0, 1, 40_001)
        t = sde.inverse_log_snr(noise_density.log_uniform_variance(sde)(u))
        rate = sde.diffusion(t) ** 2 * (sde.alpha(t) / sde.sigma(t)) ** 2  # d log sigma^2 / dt
        ends = sde.sigma(jnp.array([sde.train_t_min, sde.t_max], float))
        density = rate / (2 * jnp.log(ends[1] / ends[0]))
        np.testing.assert_allclose(jnp.trapezoid(density, t), 1.0, atol=1e-4)
        middle = jnp.cumsum(0.5 * (density[1:] + density[:-1]) * jnp.diff(t))[20_000]
        np.testing.assert_allclose(middle, u[20_001], atol=1e-4)


@pytest.mark.thorough
def test_importance_sampling_makes_all_times_contribute_the_same():
    """For standard normal data, the mean of the squared error by its weight is constant in t."""
    sde = SDES[1]
    times = noise_density.log_uniform_variance(sde)
    u = jnp.array([0.05, 0.5, 0.95])
    log_snr, slope = jax.jvp(times, (u,), (jnp.ones_like(u),))
    error = sde.alpha(sde.inverse_log_snr(log_snr)) ** 2  # of eps, given x_t: the least possible
    each = -0.5 * slope * error
    np.testing.assert_allclose(each, each[0], rtol=1e-3)


def test_geometric_variance_draws_t_uniformly():
    sde, u = sde_lib.GeometricVP(), jnp.linspace(0, 1, 9)
    t = sde.inverse_log_snr(noise_density.log_uniform_variance(sde)(u))
    np.testing.assert_allclose(t, u, atol=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "sde", [sde_lib.SubVP(), sde_lib.VE(), sde_lib.EDM(), sde_lib.LinearFlow()], ids=str
)
def test_sdes_without_closed_form_are_refused(sde):
    with pytest.raises(ValueError, match="no importance sampling of t in closed form"):
        sde_lib.cross_entropy_loss(KEY, sde, lambda x, t: x, jnp.zeros((1, 2)), True)
    loss, _ = sde_lib.cross_entropy_loss(KEY, sde, lambda x, t: -x, jnp.zeros((1, 2)))
    assert np.isfinite(loss).all()


def test_unbounded_log_snr_is_refused():
    with pytest.raises(ValueError, match="no density is uniform"):
        sde_lib.cross_entropy(KEY, sde_lib.VP(train_t_min=0.0), lambda x, t: x, jnp.zeros((1, 2)))


@pytest.mark.parametrize("ends", [(0.0, 0.9), (0.5, 0.4), (1e-5, 1.0), (float("nan"), 0.9)])
def test_impossible_variances_are_refused(ends):
    with pytest.raises(ValueError, match="variance_min = "):
        sde_lib.GeometricVP(*ends)


@pytest.mark.thorough
def test_geometric_vp_is_consistent():
    sde, t = sde_lib.GeometricVP(), jnp.linspace(0, 1, 11)
    np.testing.assert_allclose(sde.alpha(t) ** 2 + sde.sigma(t) ** 2, 1, rtol=1e-5)
    np.testing.assert_allclose(sde.inverse_log_snr(sde.log_snr(t)), t, atol=1e-6)
    np.testing.assert_allclose(
        sde.drift_coefficient(t), sde_lib.SDE.drift_coefficient(sde, t), rtol=1e-3
    )
    np.testing.assert_allclose(sde.diffusion(t[:-1]), sde_lib.SDE.diffusion(sde, t[:-1]), rtol=1e-3)
    np.testing.assert_allclose(sde.sigma(jnp.array([0.0, 1.0])) ** 2, [3e-5, 0.999], rtol=1e-5)
