"""Gains of discriminators between mixtures, whose optimal ratio is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_lib
from samplers import guidance
from sde_lib import GaussianMixture, gain

DATA = GaussianMixture((0.3, 0.7), ((-1.0, 0.5), (1.0, 0.0)), 0.4)
MODEL = GaussianMixture((0.5, 0.5), ((-0.8, 0.4), (1.2, 0.1)), 0.5)
SDES = {"vp": sde_lib.VP(), "edm": sde_lib.EDM()}


def guided(sde, weight):
    """The model's score guided by the optimal discriminator, at all noise levels."""
    ends = {"sigma_min": 1e-9, "sigma_max": 1e9}
    score = MODEL.score_fn(sde)
    return guidance.discriminator(
        score, sde, gain.optimal_log_ratio(sde, DATA, MODEL), weight, weight, **ends
    )


def divergences(sde):
    """KL(p_t || q_t) at both ends of the noise levels."""
    times = sde.train_t_min, sde.t_max
    return [gain.kl_divergence(DATA.marginal(sde, t), MODEL.marginal(sde, t)) for t in times]


@pytest.mark.thorough
@pytest.mark.parametrize("name", SDES)
def test_the_gain_of_the_optimal_discriminator_is_the_divergence_that_diffusion_removes(name):
    """Also that of KL(data || model) - KL(data || guided): the guided score is the data's."""
    sde = SDES[name]
    first, last = divergences(sde)
    found = gain.score_gain(sde, DATA, MODEL.score_fn(sde), guided(sde, 1.0))
    assert found == pytest.approx(first - last, abs=1e-3)
    assert first > 0.1 > 100 * last
    exact = gain.score_gain(sde, DATA, MODEL.score_fn(sde), DATA.score_fn(sde))
    assert exact == pytest.approx(found, abs=1e-4)


@pytest.mark.thorough
def test_other_weights_gain_less_and_twice_the_weight_gains_nothing():
    """|grad log r|^2 times 1 - (1 - w)^2."""
    sde = SDES["vp"]
    whole = np.subtract(*divergences(sde))
    for weight in (0.5, 2.0):
        found = gain.score_gain(sde, DATA, MODEL.score_fn(sde), guided(sde, weight))
        assert found == pytest.approx((2 - weight) * weight * whole, abs=1e-3)


@pytest.mark.parametrize("weight", [0.5, 1.0, 1.5])
def test_the_gain_of_a_density_is_the_difference_of_divergences(weight):
    """On a grid: KL(p || q) - KL(p || q r^w / Z), of an r that is not the optimal one."""

    def log_ratio(x):
        return 0.8 * (DATA.log_prob(x) - MODEL.log_prob(x)) + 0.2 * jnp.sin(x[:, 0])

    side = np.linspace(-6, 6, 601)
    x = jnp.asarray(np.stack(np.meshgrid(side, side), -1).reshape(-1, 2), float)
    area = (side[1] - side[0]) ** 2
    log_p, log_q = (np.asarray(m.log_prob(x), np.float64) for m in (DATA, MODEL))
    tilted = log_q + weight * np.asarray(log_ratio(x), np.float64)
    tilted -= np.log(np.sum(np.exp(tilted)) * area)
    difference = np.sum(np.exp(log_p) * (tilted - log_q)) * area
    found = gain.density_gain(DATA, MODEL, log_ratio, weight)
    assert found == pytest.approx(difference, abs=1e-3)


def test_the_optimal_ratio_gains_the_whole_divergence_at_once():
    """E_data[log d / (1 - d)] = KL(data || model)."""
    found = gain.density_gain(DATA, MODEL, lambda x: DATA.log_prob(x) - MODEL.log_prob(x))
    assert found == pytest.approx(gain.kl_divergence(DATA, MODEL), abs=1e-4)


@pytest.mark.thorough
def test_quadrature_has_the_moments_of_the_mixture_and_marginals_are_mixtures():
    x, weights = DATA.quadrature(8)
    assert weights.sum() == pytest.approx(1)
    np.testing.assert_allclose(weights @ x, DATA.mean)
    covariance = (x - DATA.mean).T @ (weights[:, None] * (x - DATA.mean))
    np.testing.assert_allclose(covariance, DATA.covariance)
    sde, t = SDES["vp"], 0.3
    x, times = jnp.array([[1.0, 1.0], [0.0, -1.0]]), jnp.full(2, t)
    log_prob = DATA.noisy_log_prob(sde)(x, times)
    np.testing.assert_allclose(DATA.marginal(sde, t).log_prob(x), log_prob, rtol=1e-5)


@pytest.mark.thorough
def test_noise_in_place_of_the_score_gives_the_gain_on_average():
    sde, n = SDES["edm"], 200_000
    x0 = DATA.sample(jax.random.key(0), n)
    z, t = jax.random.normal(jax.random.key(1), x0.shape), jnp.full(n, 0.7)
    x = x0 + 0.7 * z
    scores = MODEL.score_fn(sde)(x, t), guided(sde, 1.0)(x, t)
    one, other = (
        np.asarray(gain.noise_gain(sde, target, *scores, t), np.float64)
        for target in (-z / 0.7, DATA.score_fn(sde)(x, t))
    )
    error = (one - other).std() / np.sqrt(n)
    assert abs((one - other).mean()) < 4 * error < 0.1 * other.mean()
