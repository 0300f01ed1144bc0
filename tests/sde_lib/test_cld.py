import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import Gaussian, langevin_score_fn
from scipy import linalg, stats

import sde_lib

SDE, DATA = sde_lib.CLD(), Gaussian()
OTHER = sde_lib.CLD(beta=1.7, mass=0.6, gamma=0.3)
N = 40_000


def rates(sde, reverse=False):
    """Drift matrix of [x, v] and variance rate of v, float64, as the paper writes the SDE."""
    sign, damping = -1 if reverse else 1, 2 * np.sqrt(sde.mass)
    a = sde.beta * np.array([[0, sign / sde.mass], [-sign, -damping / sde.mass]])
    return a, 2 * damping * sde.beta


def expm(a):
    """Exponentials of [..., 2, 2], by Taylor's series of a / 2^12 and squaring."""
    a = a / 4096
    term = result = np.broadcast_to(np.eye(2), a.shape)
    for k in range(1, 8):
        term = term @ a / k
        result = result + term
    for _ in range(12):
        result = result @ result
    return result


def exact(sde, t, start, reverse=False):
    """Matrix of the mean at times t and covariance, float64, by matrix exponentials.

    `start` is the variances of x and v. Nothing is subtracted: the noise's part is the integral of
    expm(A s) g g^T expm(A s)^T, by Gauss and Legendre.
    """
    (a, noise), t = rates(sde, reverse), np.asarray(t, np.float64)
    nodes, weights = np.polynomial.legendre.leggauss(40)
    kick = expm(a * np.multiply.outer(t, (nodes + 1) / 2)[..., None, None])[..., 1]
    gained = noise * np.einsum(
        "...n,...ni,...nj->...ij", np.multiply.outer(t, weights / 2), kick, kick
    )
    matrix = expm(a * t[..., None, None])
    return matrix, matrix @ np.diag(start) @ matrix.swapaxes(-1, -2) + gained


def whitened(x, mean, covariance):
    """[n, 2] of states [n, 2]: standard normal, if these have the mean and covariance."""
    away = np.asarray(x, np.float64) - mean
    return np.linalg.solve(np.linalg.cholesky(covariance), away.T).T


def assert_standard_normal(x):
    assert np.abs(x.mean(0)).max() < 4.5 / np.sqrt(len(x))
    assert np.abs(np.cov(x.T) - np.eye(2)).max() < 4.5 * np.sqrt(2 / len(x))


def test_exact_is_by_the_matrix_exponential():
    a, _ = rates(OTHER)
    np.testing.assert_allclose(expm(0.7 * a), linalg.expm(0.7 * a), rtol=1e-10)


@pytest.mark.parametrize("sde", [SDE, OTHER])
def test_covariance_is_the_matrix_exponential_s_at_all_times(sde):
    """Exact to float32 down to t = 1e-6, where x and v are almost perfectly correlated."""
    times = np.concatenate([np.geomspace(1e-6, 1, 60), [0.2499, 0.25, 0.2501]]).astype(np.float32)
    run = jax.jit(lambda t, variance: (jnp.stack(sde.covariance(t, variance), 1), sde.sigma(t)))
    for variance in (0.0, 0.49):
        got, sigma = run(times, variance)
        _, covariances = exact(sde, times, (variance, sde.gamma * sde.mass))
        expected = covariances[:, *np.triu_indices(2)]
        scale = np.abs(expected)
        scale[:, 1] = np.sqrt(scale[:, 0] * scale[:, 2])  # x and v may be uncorrelated
        assert np.max(np.abs(got - expected) / scale) < 1e-6
        if variance == 0:
            stds = np.sqrt(np.linalg.det(covariances) / covariances[:, 0, 0])
            np.testing.assert_allclose(sigma, stds, rtol=1e-6)
            assert run(np.zeros_like(times), variance)[1][0] == 0


def test_noised_and_reverse_free_states_have_the_exact_moments():
    z, state = jax.random.normal(jax.random.key(0), (N, 2)), np.array([0.7, -0.2])

    @jax.jit
    def draw(t):
        x = jnp.tile(jnp.asarray(state, jnp.float32), (N, 1))
        return SDE.noised(x[:, :1], jnp.full(N, t), z), SDE.reverse_free(x, t, z)

    for t in (1e-4, 0.05, 0.4):
        noised, reversed_ = draw(t)
        matrix, covariance = exact(SDE, t, (0, SDE.gamma * SDE.mass))
        assert_standard_normal(whitened(noised, 0.7 * matrix[:, 0], covariance))
        matrix, covariance = exact(SDE, t, (0, 0), reverse=True)
        assert_standard_normal(whitened(reversed_, matrix @ state, covariance))


@pytest.mark.parametrize("sde", [SDE, OTHER])
def test_forward_sde_has_the_drift_and_the_noise_of_the_paper(sde):
    """`exact` integrates the same drift and noise, and the covariance is compared with it."""
    a, noise = rates(sde)
    t, states = jnp.array([0.1, 0.9]), np.eye(4, dtype=np.float32)  # of two positions
    drift = jax.jit(jax.vmap(lambda x, t: sde.drift(x[None], t[None])[0], (0, None)))
    for each in t:
        np.testing.assert_allclose(drift(states, each).T, np.kron(a, np.eye(2)), rtol=1e-6)
    g = np.asarray(sde.diffusion(t))[:, None] * np.asarray(sde.noisy(jnp.ones((2, 4))))
    np.testing.assert_allclose(g**2, [[0, 0, noise, noise]] * 2, rtol=1e-6)


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


@pytest.mark.thorough
def test_prior_and_initial_velocities_have_their_densities():
    key = jax.random.key(0)

    @jax.jit
    def draw():
        x = SDE.prior_sample(key, (N, 4))
        return (
            x,
            SDE.prior_logp(x),
            SDE.prior_sample(key, (2, 4), 7),
            *SDE.initial_state(key, x[:, :2]),
        )

    x, logp, part, state, log_q = map(np.asarray, draw())
    np.testing.assert_allclose(np.std(x, axis=0), [1, 1, 0.5, 0.5], rtol=0.02)
    np.testing.assert_array_equal(x[7:9], part)
    log_p = stats.norm.logpdf(x[:5, :2]).sum(1) + stats.norm.logpdf(x[:5, 2:], scale=0.5).sum(1)
    np.testing.assert_allclose(logp[:5], log_p, rtol=1e-5)
    np.testing.assert_array_equal(SDE.data_of(state), x[:, :2])
    assert np.std(state[:, 2:]) == pytest.approx(0.1, rel=0.02)  # sqrt(gamma M)
    std = np.sqrt(exact(SDE, SDE.train_t_min, (0, SDE.gamma * SDE.mass))[1][1, 1])
    np.testing.assert_allclose(log_q[:5], stats.norm.logpdf(state[:5, 2:], scale=std).sum(1), 1e-5)


@pytest.mark.thorough
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

        slopes, metrics = jax.jacfwd(losses, has_aux=True)(weights)
        xx, xv, vv = SDE.covariance(metrics["t"], DATA.std**2)
        least = 1 - SDE.sigma(metrics["t"]) ** 2 / (vv - xv**2 / xx)
        return metrics["error"] - least, slopes

    def deviations(values):
        values = np.asarray(values, np.float64)
        return values.mean(0) / values.std(0) * np.sqrt(N)

    excess, at_score = slopes(jnp.array([1.0, 0.0, 0.0]))
    assert abs(deviations(excess)) < 4
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
