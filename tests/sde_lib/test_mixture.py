import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import SDES
from scipy import stats

from sde_lib import EDM, GaussianMixture

MIXTURE = GaussianMixture((0.3, 0.7), ((-1.0, 0.5), (1.0, -0.5)), 0.4)


def density(x, alpha, sigma):
    """Density of x_t, in float64."""
    variance = (alpha * MIXTURE.std) ** 2 + sigma**2
    parts = [stats.multivariate_normal(alpha * np.array(m), variance) for m in MIXTURE.means]
    return sum(w * part.pdf(x) for w, part in zip(MIXTURE.weights, parts, strict=True))


def test_density_is_the_mixture_s():
    x = np.random.RandomState(0).randn(20, 2)
    np.testing.assert_allclose(MIXTURE.log_prob(jnp.array(x)), np.log(density(x, 1, 0)), rtol=1e-5)


def test_noisy_density_is_the_marginal_s():
    sde, x = SDES["vp"], np.random.RandomState(0).randn(20, 2)
    found = MIXTURE.noisy_log_prob(sde)(jnp.array(x), jnp.full(20, 0.4))
    exact = density(x, float(sde.alpha(0.4)), float(sde.sigma(0.4)))
    np.testing.assert_allclose(found, np.log(exact), rtol=1e-4)


@pytest.mark.parametrize("name", SDES)
def test_score_is_the_gradient_of_the_marginal_s_log_density(name):
    sde = SDES[name]
    for t in (0.1, 0.7):
        alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
        x = alpha * np.random.RandomState(0).randn(20, 2)
        step = 1e-4 * np.hypot(alpha * MIXTURE.std, sigma) * np.eye(2)
        gradient = np.stack(
            [
                (np.log(density(x + h, alpha, sigma)) - np.log(density(x - h, alpha, sigma)))
                / (2 * np.sum(h))
                for h in step
            ],
            axis=1,
        )
        score = MIXTURE.score_fn(sde)(jnp.array(x), jnp.full(20, t))
        np.testing.assert_allclose(score, gradient, rtol=2e-4, atol=2e-5 / sigma)


def test_moments_are_those_of_the_density_and_of_samples():
    ticks = np.arange(-4, 4, 0.05)  # a sum over a grid is exact for what is smooth and ends in 0
    points = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
    mass = 0.05**2 * density(points, 1, 0)
    mean = mass @ points
    covariance = (points - mean).T @ (mass[:, None] * (points - mean))
    np.testing.assert_allclose(MIXTURE.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(MIXTURE.covariance, covariance, rtol=1e-6)
    x = np.asarray(MIXTURE.sample(jax.random.key(0), 40_000), np.float64)
    np.testing.assert_allclose(x.mean(axis=0), mean, atol=0.02)
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=0.02)


@pytest.mark.parametrize(
    ("weights", "means", "std", "message"),
    [
        ((0.3, 0.6), ((0.0,), (1.0,)), 1.0, "add up to 1"),
        ((), (), 1.0, "add up to 1"),
        ((0.5, 0.5), ((0.0,),), 1.0, "must be 2 points"),
        ((0.5, 0.5), ((0.0,), (1.0, 2.0)), 1.0, "must be 2 points"),
        ((1.0,), ((0.0,),), 0.0, "std is 0.0"),
    ],
)
def test_an_impossible_mixture_is_refused(weights, means, std, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(weights, means, std)


def test_a_linear_measurement_gives_the_posterior_of_bayes_rule():
    matrix, y, noise_std = np.array([[1.0, 0.4]]), np.array([0.2]), 0.3
    posterior = MIXTURE.given(matrix, y, noise_std)
    ticks = np.linspace(-4, 4, 801)
    x = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
    p = density(x, 1, 0) * stats.norm(y[0], noise_std).pdf(x @ matrix[0])
    p /= p.sum()
    np.testing.assert_allclose(posterior.mean, p @ x, rtol=1e-6)
    centred = x - p @ x
    np.testing.assert_allclose(posterior.covariance, centred.T @ (p[:, None] * centred), rtol=1e-6)
    first = stats.multivariate_normal(MIXTURE.means[0], MIXTURE.std**2).pdf(x)
    first = MIXTURE.weights[0] * first / density(x, 1, 0)
    np.testing.assert_allclose(posterior.weights[0], p @ first, rtol=1e-6)
    np.testing.assert_allclose(posterior.component_shares(x[::997])[:, 0], first[::997], atol=1e-9)


def test_samples_of_the_posterior_have_its_moments():
    posterior = MIXTURE.given(np.array([[1.0, 0.4]]), np.array([0.2]), 0.3)
    x = posterior.sample(np.random.RandomState(0), 40_000)
    np.testing.assert_allclose(x.mean(0), posterior.mean, atol=0.02)
    np.testing.assert_allclose(np.cov(x.T), posterior.covariance, atol=0.02)
    shares = posterior.component_shares(x).mean(0)
    np.testing.assert_allclose(shares, posterior.weights, atol=0.01)


def test_a_measurement_without_noise_has_no_density():
    with pytest.raises(ValueError, match="noise_std is 0"):
        MIXTURE.given(np.eye(2), np.zeros(2), 0.0)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["ve", "vp"])
def test_the_log_density_has_the_score_as_its_gradient_and_ends_in_the_data_s(name):
    sde, x = SDES[name], jax.random.normal(jax.random.key(3), (5, 2))
    both, t = MIXTURE.score_and_energy(sde).both, jnp.linspace(0.1, 1, 5)
    gradient = jax.grad(lambda x: both(x, t)[1].sum())(x)
    np.testing.assert_allclose(both(x, t)[0], gradient, rtol=1e-4, atol=1e-5)
    clean = EDM()
    np.testing.assert_allclose(
        MIXTURE.score_and_energy(clean).both(x, jnp.zeros(5))[1], MIXTURE.log_prob(x), rtol=1e-5
    )
