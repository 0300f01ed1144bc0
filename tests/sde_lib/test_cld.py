import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import Gaussian, langevin_score_fn
from scipy import stats
from scipy.linalg import expm

import sde_lib

SDE, DATA = sde_lib.CLD(), Gaussian()
OTHER = sde_lib.CLD(beta=1.7, mass=0.6, gamma=0.3)
N = 40_000


def exact(sde, t, start, reverse=False):
    """Matrix of the mean at t and covariance, float64, of the SDE as the paper writes it.

    `start` is the variances of x and v. Nothing is subtracted: the noise's part is the integral of
    expm(A s) g g^T expm(A s)^T, by Gauss and Legendre.
    """
    sign, damping = -1 if reverse else 1, 2 * np.sqrt(sde.mass)
    a = sde.beta * np.array([[0, sign / sde.mass], [-sign, -damping / sde.mass]])
    nodes, weights = np.polynomial.legendre.leggauss(40)
    kick = expm(a * (t * (nodes + 1) / 2)[:, None, None])[:, :, 1]
    noise = 2 * damping * sde.beta * np.einsum("n,ni,nj->ij", weights * t / 2, kick, kick)
    matrix = expm(a * t)
    return matrix, matrix @ np.diag(start) @ matrix.T + noise


def whitened(x, mean, covariance):
    """[n, 2] of states [n, 2]: standard normal, if these have the mean and covariance."""
    away = np.asarray(x, np.float64) - mean
    return np.linalg.solve(np.linalg.cholesky(covariance), away.T).T


def assert_standard_normal(x):
    assert np.abs(x.mean(0)).max() < 4.5 / np.sqrt(len(x))
    assert np.abs(np.cov(x.T) - np.eye(2)).max() < 4.5 * np.sqrt(2 / len(x))


@pytest.mark.parametrize("sde", [SDE, OTHER])
@pytest.mark.parametrize("variance", [0.0, 0.49])
def test_covariance_is_the_matrix_exponential_s_at_all_times(sde, variance):
    """In float32's digits down to t = 1e-6, where x and v are all but one variable."""
    times = np.concatenate([np.geomspace(1e-6, 1, 60), [0.2499, 0.25, 0.2501]]).astype(np.float32)
    got = np.stack(jax.jit(lambda t: sde.covariance(t, variance))(times), axis=1)
    covariances = [exact(sde, float(t), (variance, sde.gamma * sde.mass))[1] for t in times]
    expected = [covariance[np.triu_indices(2)] for covariance in covariances]
    scale = np.abs(expected)
    scale[:, 1] = np.sqrt(scale[:, 0] * scale[:, 2])  # x and v may be uncorrelated
    assert np.max(np.abs(got - expected) / scale) < 1e-6
    if variance == 0:
        stds = [np.sqrt(np.linalg.det(c) / c[0, 0]) for c in covariances]
        np.testing.assert_allclose(jax.jit(sde.sigma)(times), stds, rtol=1e-6)
        assert float(jax.jit(sde.sigma)(0.0)) == 0


@pytest.mark.parametrize("t", [1e-4, 0.05, 0.4])
def test_noised_and_reverse_free_states_have_the_exact_moments(t):
    z = jax.random.normal(jax.random.key(0), (N, 2))
    matrix, covariance = exact(SDE, t, (0, SDE.gamma * SDE.mass))
    x = jax.jit(SDE.noised)(jnp.full((N, 1), 0.7), jnp.full(N, t), z)
    assert_standard_normal(whitened(x, 0.7 * matrix[:, 0], covariance))
    state = np.array([0.7, -0.2])
    matrix, covariance = exact(SDE, t, (0, 0), reverse=True)
    x = jax.jit(SDE.reverse_free)(jnp.tile(state, (N, 1)), t, z)
    assert_standard_normal(whitened(x, matrix @ state, covariance))


def test_forward_chains_have_the_closed_form_moments():
    """Euler and Maruyama's, 1,000 steps from Gaussian data by drift and diffusion."""
    n_steps, record = 1000, np.array([50, 200, 500, 1000])
    key, n = jax.random.key(0), 4000
    x0 = DATA.sample(jax.random.key(1), (n, 4))
    state, _ = SDE.initial_state(key, x0)

    def step(x, k):
        t, z = k / n_steps, jax.random.normal(jax.random.fold_in(key, k), x.shape)
        noise = SDE.diffusion(t) / np.sqrt(n_steps) * SDE.noisy(z)
        x = x + SDE.drift(x, t) / n_steps + noise
        return x, x

    _, path = jax.lax.scan(step, state, jnp.arange(n_steps))
    for k in record:
        pairs = np.asarray(path[k - 1]).reshape(n, 2, 4).swapaxes(1, 2).reshape(-1, 2)
        matrix, covariance = exact(SDE, k / n_steps, (DATA.std**2, SDE.gamma * SDE.mass))
        errors = whitened(pairs, matrix[:, 0] * DATA.mean, covariance)
        assert np.abs(errors.mean(0)).max() < 0.05
        assert np.abs(np.cov(errors.T) - np.eye(2)).max() < 0.08


def test_denoise_is_the_mean_of_x0_given_position_and_velocity():
    state = jax.random.normal(jax.random.key(0), (9, 2)) * jnp.array([1.0, 0.5])

    @jax.jit
    def denoise(t):
        return SDE.denoise(state, t, langevin_score_fn(SDE, DATA)(state, t))

    for t in (1e-3, 0.1, 0.6):
        matrix, covariance = exact(SDE, t, (DATA.std**2, SDE.gamma * SDE.mass))
        away = np.asarray(state, np.float64) - matrix[:, 0] * DATA.mean
        gain = DATA.std**2 * np.linalg.solve(covariance, matrix[:, 0])
        x = denoise(jnp.full(9, t))
        np.testing.assert_allclose(x[:, 0], DATA.mean + away @ gain, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(x[:, 1], state[:, 1])


def test_prior_and_initial_velocities_have_their_densities():
    key = jax.random.key(0)
    x = SDE.prior_sample(key, (N, 4))
    np.testing.assert_allclose(np.std(x, axis=0), [1, 1, 0.5, 0.5], rtol=0.02)
    np.testing.assert_array_equal(x[7:9], SDE.prior_sample(key, (2, 4), 7))
    log_p = stats.norm.logpdf(x[:5, :2]).sum(1) + stats.norm.logpdf(x[:5, 2:], scale=0.5).sum(1)
    np.testing.assert_allclose(SDE.prior_logp(x[:5]), log_p, rtol=1e-5)
    state, log_q = SDE.initial_state(key, x[:, :2])
    np.testing.assert_array_equal(SDE.data_of(state), x[:, :2])
    assert np.std(state[:, 2:]) == pytest.approx(0.1, rel=0.02)  # sqrt(gamma M)
    std = np.sqrt(float(SDE.covariance(SDE.train_t_min)[2]))
    np.testing.assert_allclose(log_q[:5], stats.norm.logpdf(state[:5, 2:], scale=std).sum(1), 1e-5)


def test_hybrid_score_matching_has_its_minimum_at_the_score():
    """The error is 1 - sigma^2 E score^2 at each time; the loss has no slope there, but beside."""
    x0 = DATA.sample(jax.random.key(1), (N, 1))
    score_fn = langevin_score_fn(SDE, DATA)

    @jax.jit
    def slopes(weights):
        def losses(weights):
            def model(x, t):
                return weights[0] * score_fn(x, t) + weights[1] * jnp.roll(x, 1, -1) + weights[2]

            return sde_lib.denoising_score_matching(jax.random.key(0), SDE, model, x0)

        _, metrics = losses(weights)
        return metrics, jax.jacfwd(lambda w: losses(w)[0])(weights)

    def deviations(values):
        values = np.asarray(values, np.float64)
        return values.mean(0) / values.std(0) * np.sqrt(N)

    metrics, at_score = slopes(jnp.array([1.0, 0.0, 0.0]))
    xx, xv, vv = SDE.covariance(metrics["t"], DATA.std**2)
    error = 1 - SDE.sigma(metrics["t"]) ** 2 / (vv - xv**2 / xx)
    assert abs(deviations(metrics["error"] - error)) < 4
    assert np.abs(deviations(at_score)).max() < 4
    _, beside = slopes(jnp.array([0.9, 0.05, 0.05]))
    assert np.abs(deviations(beside)).min() > 8


@pytest.mark.parametrize("probe", ["rademacher", pytest.param("exact", marks=pytest.mark.slow)])
def test_likelihood_of_gaussian_data_is_exact(probe):
    """v_0 is independent of x_0, so any draw of it gives log p(x_0)."""
    x = DATA.sample(jax.random.key(1), (64, 3))
    score_fn = langevin_score_fn(SDE, DATA)
    key = jax.random.key(0)
    run = jax.jit(lambda x: sde_lib.log_likelihood(key, SDE, score_fn, x, 1e-4, 1e-4, probe))
    result = run(x)
    np.testing.assert_allclose(result.log_prob, DATA.log_prob(x), atol=0.01)
    assert result.latent.shape == (64, 6)


def test_what_has_no_meaning_is_refused():
    for call in (SDE.noise_level, SDE.log_snr, SDE.drift_coefficient, SDE.alpha):
        with pytest.raises(ValueError, match="CLD has no noise level sigma / alpha"):
            call(0.5)
    with pytest.raises(ValueError, match="gamma of at most 1"):
        sde_lib.CLD(gamma=1.5)
    with pytest.raises(ValueError, match=r"mass = -1\.0"):
        sde_lib.CLD(mass=-1.0)
