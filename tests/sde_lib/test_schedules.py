import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import Gaussian
from exact import SDES, kernel

import samplers
import sde_lib

OLD = ("ve", "vp", "subvp")
SCHEDULES = [name for name in SDES if name not in OLD]
SAMPLED = [name for name in SCHEDULES if name != "sigmoid_steep"]


def times(sde):
    """Small, middle and last ones, in float32."""
    small = np.geomspace(max(sde.train_t_min, 1e-6), sde.t_max / 3, 200)
    t = np.concatenate([small, np.linspace(sde.t_max / 3, sde.t_max, 200)]).astype(np.float32)
    return np.minimum(t, np.float32(sde.t_max))


@pytest.mark.parametrize("name", SCHEDULES)
def test_alpha_sigma_and_their_sde_are_the_definition_s_down_to_small_t(name):
    sde = SDES[name]
    t = times(sde)
    alpha, sigma, alpha_rate, sigma_rate = kernel(name, t)
    f = alpha_rate / alpha
    g = np.sqrt(2 * sigma * (sigma_rate - f * sigma))
    ours = jax.jit(
        lambda t: (sde.alpha(t), sde.sigma(t), sde.diffusion(t), sde.drift_coefficient(t))
    )
    for value, exact, rtol in zip(
        ours(t), (alpha, sigma, g, f), (1e-6,) * 3 + (1.5e-6,), strict=True
    ):
        np.testing.assert_allclose(value, exact, rtol=rtol)


@pytest.mark.parametrize("name", SDES)
def test_noise_level_and_log_snr_are_inverted(name):
    """Tolerance: 1e-6, plus the change of the level by half a unit in the last place of t.

    That is most near t = 1, where alpha vanishes: 3e-4 at the linear schedule's t_max.
    """
    sde = SDES[name]
    t = times(sde)
    alpha, sigma, *_ = kernel(name, t)
    level = (sigma / alpha).astype(np.float32)
    log_snr = (-2 * np.log(sigma / alpha)).astype(np.float32)
    np.testing.assert_allclose(sde.noise_level(t), sigma / alpha, rtol=1.5e-6)
    np.testing.assert_allclose(sde.log_snr(t), log_snr, rtol=1e-6, atol=2e-6)
    for there, back, value in (
        (sde.inverse_noise_level, sde.noise_level, level),
        (sde.inverse_log_snr, lambda t: jnp.exp(-0.5 * sde.log_snr(t)), log_snr),
    ):
        t = np.asarray(there(value))
        alpha, sigma, alpha_rate, sigma_rate = kernel(name, t)
        of_half_an_ulp = 0.5 * np.spacing(t) * (sigma_rate / sigma - alpha_rate / alpha)
        error = np.abs(np.asarray(back(t), np.float64) / level - 1)
        assert (error <= 1e-6 + of_half_an_ulp).all()


def test_edges_of_the_noise_levels():
    for name in SCHEDULES:
        sde = SDES[name]
        least = float(sde.noise_level(0.0))
        assert float(sde.inverse_noise_level(jnp.float32(least))) == pytest.approx(0.0, abs=1e-7)
        assert (least == 0) == (name not in ("log_linear", "geometric_vp"))
        t_max = float(sde.inverse_noise_level(sde.noise_level(sde.t_max)))
        assert t_max == pytest.approx(sde.t_max, rel=1e-7)
    levels = {name: float(SDES[name].noise_level(SDES[name].t_max)) for name in SCHEDULES}
    assert levels["edm"] == SDES["edm"].prior_std == 80
    assert levels["cosine"] == pytest.approx(119, abs=1)
    assert levels["sigmoid"] == pytest.approx(183, abs=1)
    assert levels["linear"] == pytest.approx(100, abs=0.1)
    assert levels["log_linear"] == pytest.approx(np.exp(2.5), rel=1e-6)
    assert levels["flow"] == pytest.approx(999, abs=0.1)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["edm", "cosine", "flow"])
def test_gaussian_likelihood_is_the_closed_form(name):
    sde, gaussian = SDES[name], Gaussian()
    x = np.asarray(gaussian.sample(jax.random.key(1), (100, 4)))

    @jax.jit
    def run(key):
        result = sde_lib.log_likelihood(key, sde, gaussian.score_fn(sde), x)
        latent, log_det = gaussian.flow(sde, x, sde.train_t_min)
        return result.log_prob, result.latent, latent, sde.prior_logp(latent) + log_det

    log_prob, latent, exact_latent, exact = run(jax.random.key(0))
    np.testing.assert_allclose(log_prob, exact, atol=1e-3)
    assert float(np.mean(log_prob - gaussian.log_prob(x))) == pytest.approx(0, abs=2e-3)
    np.testing.assert_allclose(latent, exact_latent, rtol=1e-3, atol=1e-3 * sde.prior_std)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        ("edm", samplers.EulerMaruyama(400)),
        ("sigmoid", samplers.PredictorCorrector(200)),
        ("linear", samplers.EulerMaruyama(1000)),
        ("flow", samplers.EulerMaruyama(400)),
        ("flow", samplers.PredictorCorrector(200)),
    ],
)
def test_samplers_reach_the_moments_of_the_data(name, sampler):
    """Sampling starts at t_max, also where the drift is singular at t = 1."""
    sde, gaussian = SDES[name], Gaussian()
    run = jax.jit(lambda key: sampler(key, sde, gaussian.score_fn(sde), (200, 100)).x)
    x = np.asarray(run(jax.random.key(0)), np.float64)
    assert x.mean() == pytest.approx(gaussian.mean, abs=0.015)
    assert x.std() == pytest.approx(gaussian.std, rel=0.03)


@pytest.mark.parametrize("name", SAMPLED)
def test_the_exact_score_has_the_least_loss(name):
    """Gaussian data: half of alpha^2 std^2 / (alpha^2 std^2 + sigma^2) per dimension."""
    sde, gaussian = SDES[name], Gaussian()
    x0 = gaussian.sample(jax.random.key(1), (20_000, 2))
    score_fn = gaussian.score_fn(sde)
    loss, metrics = sde_lib.denoising_score_matching(jax.random.key(0), sde, score_fn, x0)
    alpha, sigma, *_ = kernel(name, metrics["t"])
    expected = 1 / (1 + (sigma / (alpha * gaussian.std)) ** 2)
    tolerance = 5 * float(np.std(loss - expected)) / np.sqrt(len(loss))
    assert float(np.mean(loss - expected)) == pytest.approx(0, abs=tolerance)


@pytest.mark.parametrize("name", SAMPLED)
def test_discretised_steps_are_the_transitions(name):
    """x from one time to the next has the moments of both, the last step from t_max included."""
    sde = SDES[name]

    @jax.jit
    def chain():
        t = jnp.linspace(0, sde.t_max, 101)
        return sde.alpha(t), sde.sigma(t), *sde.discretize(jnp.ones((100, 1)), t[1:], 100)

    alpha, sigma, f, g = map(np.asarray, chain())
    np.testing.assert_allclose((1 + f[:, 0]) * alpha[:-1], alpha[1:], rtol=1e-5)
    grown = np.sqrt(((1 + f[:, 0]) * sigma[:-1]) ** 2 + g**2)
    np.testing.assert_allclose(grown, sigma[1:], rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sde_lib.Cosine(t_max=1.0), "Cosine needs t_max < 1"),
        (lambda: sde_lib.LinearFlow(t_max=1.0), "LinearFlow needs t_max < 1"),
        (lambda: sde_lib.Cosine(s=-0.1), "needs s >= 0"),
        (lambda: sde_lib.Sigmoid(3.0, -3.0), "start < end"),
        (lambda: sde_lib.Sigmoid(tau=0.01), "80 tau"),
        (lambda: sde_lib.Sigmoid(tau=-1.0), "80 tau"),
        (lambda: sde_lib.LogLinear(5.0, -5.0), "gamma_min < gamma_max"),
        (lambda: sde_lib.LogLinear(-90.0), "-80 <= gamma_min"),
        (lambda: sde_lib.EDM(t_min=100.0), "t_min is 100"),
    ],
)
def test_impossible_numbers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
