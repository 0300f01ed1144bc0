import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import SDES, Gaussian, Mixture

import sde_lib


@pytest.mark.parametrize("name", SDES)
def test_gaussian_likelihood_is_the_closed_form(name):
    """Each sample within 1e-3 bits/dim of the flow's exact density, the mean of the data's."""
    sde, gaussian = SDES[name], Gaussian()
    x = gaussian.sample(jax.random.key(1), (400, 8))
    result = sde_lib.log_likelihood(jax.random.key(0), sde, gaussian.score_fn(sde), x)
    latent, log_det = gaussian.flow(sde, x, sde.train_t_min)
    exact = sde.prior_logp(latent) + log_det
    to_bits = 1 / (8 * np.log(2))
    assert np.abs(result.log_prob - exact).max() * to_bits < 1e-3
    assert abs(float(jnp.mean(result.log_prob - gaussian.log_prob(x)))) * to_bits < 1e-3
    np.testing.assert_allclose(result.latent, latent, rtol=1e-3, atol=1e-3 * sde.prior_std)


@pytest.mark.parametrize(("name", "most"), [("ve", 55), ("vp", 40), ("subvp", 56)])
def test_evaluations_that_data_of_one_scale_takes(name, most):
    """Images of 192 values of std 0.25: within 1e-4 bits/dim, by few evaluations."""
    sde, gaussian = SDES[name], Gaussian(mean=0.0, std=0.25)
    x = gaussian.sample(jax.random.key(1), (64, 8, 8, 3))
    result = sde_lib.log_likelihood(jax.random.key(0), sde, gaussian.score_fn(sde), x)
    latent, log_det = gaussian.flow(sde, x, sde.train_t_min)
    error = (result.log_prob - sde.prior_logp(latent) - log_det) / (192 * np.log(2))
    assert np.abs(error).max() < 1e-4
    assert 20 < int(result.nfe) <= most


@pytest.mark.parametrize("scale", [0.0, 1e-3, 100.0])
def test_the_scale_of_a_sample_decides_on_steps_alone(scale):
    """Points far less, and far more, spread than the data that they are scored under."""
    sde, gaussian = SDES["vp"], Gaussian(mean=0.0)
    x = scale * gaussian.sample(jax.random.key(1), (16, 4))
    result = sde_lib.log_likelihood(jax.random.key(0), sde, gaussian.score_fn(sde), x)
    np.testing.assert_allclose(result.log_prob, gaussian.log_prob(x), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", SDES)
def test_mixture_likelihood_is_the_closed_form(name):
    sde, mixture = SDES[name], Mixture()
    x = mixture.sample(jax.random.key(1), 400)
    result = sde_lib.log_likelihood(jax.random.key(0), sde, mixture.score_fn(sde), x, probe="exact")
    difference = float(jnp.mean(result.log_prob - mixture.log_prob(x))) / (2 * np.log(2))
    assert abs(difference) < 1e-3


@pytest.mark.parametrize("probe", ["rademacher", pytest.param("gaussian", marks=pytest.mark.slow)])
def test_hutchinson_is_unbiased_and_more_probes_help(probe):
    sde, mixture = SDES["vp"], Mixture()
    x = jnp.tile(jnp.array([[0.1, 0.2]]), (1500, 1))
    score_fn = mixture.score_fn(sde)
    exact = sde_lib.log_likelihood(jax.random.key(0), sde, score_fn, x[:1], probe="exact").log_prob
    estimates = [
        sde_lib.log_likelihood(
            jax.random.key(0), sde, score_fn, x, rtol=1e-4, atol=1e-4, probe=probe, n_probes=k
        ).log_prob
        for k in (1, 4)
    ]
    one, four = (np.asarray(estimate, np.float64) for estimate in estimates)
    assert abs(one.mean() - exact[0]) < 4 * one.std() / np.sqrt(len(one)) + 1e-3
    assert one.std() / four.std() == pytest.approx(2, rel=0.15)


def test_sample_i_does_not_depend_on_its_batch():
    sde, mixture = SDES["vp"], Mixture()
    x, score_fn = mixture.sample(jax.random.key(1), 8), mixture.score_fn(sde)
    together = sde_lib.log_likelihood(jax.random.key(0), sde, score_fn, x)
    part = sde_lib.log_likelihood(jax.random.key(0), sde, score_fn, x[5:], first_index=5)
    np.testing.assert_allclose(together.log_prob[5:], part.log_prob, rtol=1e-3, atol=1e-3)


def test_the_network_runs_once_an_evaluation_whatever_the_number_of_probes():
    sde, gaussian, calls = SDES["vp"], Gaussian(), []

    def score_fn(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return gaussian.score_fn(sde)(x, t)

    x = gaussian.sample(jax.random.key(1), (4, 3))
    result = sde_lib.log_likelihood(jax.random.key(0), sde, score_fn, x, n_probes=5)
    jax.effects_barrier()
    assert len(calls) == int(result.nfe)


@pytest.mark.parametrize(("data_range", "levels"), [((-1, 1), 256), ((0, 1), 256), ((-1, 1), 17)])
def test_bits_per_dim_of_uniform_noise_is_the_entropy_of_its_grey_levels(data_range, levels):
    low, high = data_range
    log_density = -np.log(high - low) * 48  # of uniform noise over the whole range
    bits = sde_lib.bits_per_dim(jnp.array([log_density]), (4, 4, 3), data_range, levels)
    assert float(bits[0]) == pytest.approx(np.log2(levels), rel=1e-6)


def test_bits_per_dim_of_points_is_that_of_the_density():
    bits = sde_lib.bits_per_dim(jnp.array([-2 * np.log(2)]), (2,), levels=None)
    assert float(bits[0]) == pytest.approx(1.0)


def test_bad_arguments_are_refused():
    sde, x, score_fn = SDES["vp"], jnp.zeros((2, 2)), lambda x, t: -x
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="probe 'radmacher' is unknown"):
        sde_lib.log_likelihood(key, sde, score_fn, x, probe="radmacher")  # pyright: ignore
    with pytest.raises(ValueError, match="n_probes is 0"):
        sde_lib.log_likelihood(key, sde, score_fn, x, n_probes=0)
    with pytest.raises(ValueError, match="must return the shape of x"):
        sde_lib.log_likelihood(key, sde, lambda x, t: x[:, :1], x)
    with pytest.raises(ValueError, match="low < high"):
        sde_lib.bits_per_dim(jnp.zeros(1), (2,), (1.0, -1.0))
    with pytest.raises(ValueError, match="levels is 0"):
        sde_lib.bits_per_dim(jnp.zeros(1), (2,), levels=0)
