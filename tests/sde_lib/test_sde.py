import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import SDES, Gaussian

import samplers
import sde_lib


@dataclasses.dataclass(frozen=True)
class OnlyAlphaSigma(sde_lib.SDE):
    """The alpha and sigma of another SDE, and nothing else of it."""

    other: sde_lib.SDE

    def alpha(self, t):
        return self.other.alpha(t)

    def sigma(self, t):
        return self.other.sigma(t)


@pytest.mark.parametrize("name", SDES)
def test_derived_drift_and_diffusion_equal_the_closed_forms(name):
    sde, derived = SDES[name], OnlyAlphaSigma(SDES[name])
    t = jnp.concatenate([jnp.geomspace(1e-5, 1e-2, 20), jnp.linspace(0.01, 1, 100)])
    x = jax.random.normal(jax.random.key(0), (len(t), 3))
    np.testing.assert_allclose(derived.drift(x, t), sde.drift(x, t), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(derived.diffusion(t), sde.diffusion(t), rtol=1e-5)


@pytest.mark.parametrize("name", SDES)
def test_forward_sde_has_the_marginals_of_alpha_and_sigma(name):
    """Moments of x_t obey d mean = f mean dt, d var = (2 f var + g^2) dt: integrated in float64."""
    sde = SDES[name]
    grid = np.linspace(1e-3, 1, 20_001)
    middle = (grid[1:] + grid[:-1]) / 2
    f = np.asarray(sde.drift_coefficient(middle), np.float64)
    g2 = np.asarray(sde.diffusion(middle), np.float64) ** 2
    mean, variance = float(sde.alpha(grid[0])), float(sde.sigma(grid[0])) ** 2
    for fi, gi, dt in zip(f, g2, np.diff(grid), strict=True):
        growth = np.exp(fi * dt)
        mean *= growth
        variance = growth**2 * variance + growth * gi * dt
    assert mean == pytest.approx(float(sde.alpha(1.0)), rel=1e-4)
    assert variance == pytest.approx(float(sde.sigma(1.0)) ** 2, rel=1e-4)


@pytest.mark.parametrize("name", SDES)
def test_reverse_and_flow_drifts_keep_a_gaussian_marginal(name):
    """The flow keeps a point's standardised position: dx/dt = mean' + std'/std (x - mean)."""
    sde, gaussian = SDES[name], Gaussian()
    t, x = jnp.full(5, 0.37), jnp.linspace(-2, 2, 5)[:, None]
    score = gaussian.score_fn(sde)(x, t)
    moments = lambda t: gaussian.marginal(sde, t)  # noqa: E731
    (mean, std), (mean_rate, std_rate) = jax.jvp(moments, (0.37,), (1.0,))
    expected = mean_rate + std_rate / std * (x - mean)
    np.testing.assert_allclose(sde.flow_drift(x, t, score), expected, rtol=2e-4, atol=1e-5)
    drift = sde.drift(x, t)
    np.testing.assert_allclose(
        sde.reverse_drift(x, t, score) - drift,
        2 * (sde.flow_drift(x, t, score) - drift),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("name", SDES)
def test_denoise_is_the_posterior_mean(name):
    sde, gaussian = SDES[name], Gaussian()
    t, x = jnp.full(3, 0.3), jnp.array([[-1.0], [0.0], [2.0]])
    alpha, sigma = sde.alpha(0.3), sde.sigma(0.3)
    gain = alpha * gaussian.std**2 / ((alpha * gaussian.std) ** 2 + sigma**2)
    expected = gaussian.mean + gain * (x - alpha * gaussian.mean)
    denoised = sde.denoise(x, t, gaussian.score_fn(sde)(x, t))
    np.testing.assert_allclose(denoised, expected, rtol=1e-4, atol=1e-5)


def test_noise_level_of_alpha_and_sigma_alone_is_inverted():
    sde = OnlyAlphaSigma(SDES["vp"])
    t = jnp.geomspace(1e-3, 1, 20)
    level = sde.noise_level(t)
    np.testing.assert_allclose(level, sde.sigma(t) / sde.alpha(t), rtol=1e-6)
    np.testing.assert_allclose(sde.inverse_noise_level(level), t, rtol=2e-6)


@pytest.mark.parametrize("name", SDES)
def test_prior_samples_have_the_prior_density(name):
    sde = SDES[name]
    x = sde.prior_sample(jax.random.key(0), (20_000, 2))
    entropy = np.log(2 * np.pi * np.e * sde.prior_std**2)
    assert -float(sde.prior_logp(x).mean()) == pytest.approx(entropy, abs=4 / np.sqrt(20_000))
    np.testing.assert_array_equal(x[7:9], sde.prior_sample(jax.random.key(0), (2, 2), 7))


def test_times_are_checked():
    with pytest.raises(ValueError, match="t_min is 2"):
        sde_lib.VP(t_min=2.0)


def test_score_fn_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"returned \(4, 3\) for x of shape \(4, 2\)"):
        sde_lib.check_score_fn(lambda x, t: jnp.concatenate([x, t[:, None]], 1), (4, 2))
    sde_lib.check_score_fn(lambda x, t: -x, (4, 2))


class Vanishing(sde_lib.SDE):
    """A user's SDE, whose alpha is 0 at t_max: in float32, -4e-8."""

    def alpha(self, t):
        return jnp.cos(0.5 * jnp.pi * jnp.asarray(t))

    def sigma(self, t):
        return jnp.sin(0.5 * jnp.pi * jnp.asarray(t))


@pytest.mark.thorough
def test_an_sde_without_data_in_its_prior_is_refused():
    """Samplers said to set sigma_min, or gave NaN; likelihoods ended in a math domain error."""
    key, score = jax.random.key(0), lambda x, t: -x
    message = r"alpha\(t_max\) of Vanishing.* give a t_max below 1, such as 0.999"
    for name in ("predictor_corrector", "probability_flow", "heun", "dpm_adaptive"):
        with pytest.raises(ValueError, match=message):
            samplers.create(name)(key, Vanishing(), score, (2, 3))
    with pytest.raises(ValueError, match=message):
        sde_lib.log_likelihood(key, Vanishing(), score, jnp.ones((2, 3)))
    made = samplers.create("heun")(key, Vanishing(t_max=0.999), score, (2, 3))
    assert jnp.isfinite(made.x).all()


@pytest.mark.parametrize("changes", [{"t_max": "1"}, {"t_min": None}, {"train_t_min": True}])
def test_times_of_a_wrong_type_are_refused(changes):
    with pytest.raises(ValueError, match=f"{next(iter(changes))} is .*: it must be a number"):
        Vanishing(**changes)


def test_numbers_of_sdes_are_finite_in_float32():
    for make in (
        lambda: sde_lib.VE(sigma_max=1e39),
        lambda: sde_lib.VP(beta_max=float("inf")),
        lambda: sde_lib.CLD(mass=float("nan")),
        lambda: sde_lib.Cosine(s=-0.1),
        lambda: sde_lib.VE(sigma_min=1e-60),
    ):
        with pytest.raises(ValueError, match=r"must be|needs"):
            make()
