import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import SDES, Gaussian, Mixture

import sde_lib

KEY, IMAGES = jax.random.key(0), (64, 8, 8, 3)
X = np.asarray(jax.random.normal(jax.random.key(1), IMAGES))  # standardised


@functools.cache
def gaussian_program(name):
    """Compiled once per SDE for every Gaussian: the likelihood of images, and the flow's own."""
    sde = SDES[name]

    @jax.jit
    def run(mean, std, x):
        gaussian = Gaussian(mean, std)
        result = sde_lib.log_likelihood(KEY, sde, gaussian.score_fn(sde), x)
        latent, log_det = gaussian.flow(sde, x, sde.train_t_min)
        return result, latent, sde.prior_logp(latent) + log_det

    return run


@functools.cache
def mixture_program(name, **options):
    """The likelihood of points of the mixture, compiled once per SDE and options."""
    sde, mixture = SDES[name], Mixture()

    @jax.jit
    def run(x):
        return sde_lib.log_likelihood(KEY, sde, mixture.score_fn(sde), x, **options)

    return run


@pytest.mark.thorough
@pytest.mark.parametrize("name", SDES)
def test_gaussian_likelihood_is_the_closed_form(name):
    """Each sample within 1e-3 bits/dim of the flow's exact density, the mean of the data's."""
    sde, gaussian = SDES[name], Gaussian()
    x = gaussian.mean + gaussian.std * X
    result, latent, exact = gaussian_program(name)(gaussian.mean, gaussian.std, x)
    to_bits = 1 / (X[0].size * np.log(2))
    assert np.abs(result.log_prob - exact).max() * to_bits < 1e-3
    assert abs(np.mean(result.log_prob - gaussian.log_prob(x))) * to_bits < 1e-3
    np.testing.assert_allclose(result.latent, latent, rtol=1e-3, atol=1e-3 * sde.prior_std)


@pytest.mark.thorough
@pytest.mark.parametrize(("name", "most"), [("ve", 55), ("vp", 40), ("subvp", 56)])
def test_evaluations_that_data_of_one_scale_takes(name, most):
    """Images of 192 values of std 0.25: within 1e-4 bits/dim, by few evaluations."""
    result, _, exact = gaussian_program(name)(0.0, 0.25, 0.25 * X)
    assert np.abs(result.log_prob - exact).max() / (192 * np.log(2)) < 1e-4
    assert 20 < int(result.nfe) <= most


@pytest.mark.thorough
@pytest.mark.parametrize("name", SDES)
def test_accuracy_is_met_for_images_of_many_scales_by_49_evaluations(name):
    """Standard deviations from 0.02 to 1: each sample within 1e-3 bits/dim of the flow's own."""
    sde = SDES[name]
    each: Any = np.geomspace(0.02, 1.0, 192, dtype="f4").reshape(8, 8, 3)
    gaussian = Gaussian(0.0, each)
    _, stds = gaussian.marginal(sde, sde.train_t_min)  # where likelihoods start

    @jax.jit
    def run(x):
        return sde_lib.log_likelihood(KEY, sde, of_pixels(gaussian, sde), x, accuracy=1e-3)

    x = stds * X
    result = run(x)
    exact = np.sum(jax.scipy.stats.norm.logpdf(x, scale=stds), axis=(1, 2, 3))
    assert np.abs(result.log_prob - exact).max() / (192 * np.log(2)) < 1e-3
    assert int(result.nfe) == 49


def of_pixels(gaussian, sde):
    """The score of images whose pixels have standard deviations of their own."""

    def score(x, t):
        _, std = gaussian.marginal(sde, t[:, None, None, None])
        return -x / std**2

    return score


@pytest.mark.thorough
@pytest.mark.parametrize("name", SDES)
def test_accuracy_is_met_for_a_mixture(name):
    """Against a hundredth of it; each sample within 10 times as much."""
    x = Mixture().sample(jax.random.key(1), 400)
    coarse, fine = (mixture_program(name, probe="exact", accuracy=a)(x) for a in (1e-2, 1e-4))
    bits = np.abs(coarse.log_prob - fine.log_prob) / (2 * np.log(2))
    assert bits.mean() < 1e-2
    assert bits.max() < 1e-1
    assert int(coarse.nfe) < int(fine.nfe) < 800


@pytest.mark.thorough
def test_a_score_that_is_rough_in_time_is_solved_to_the_accuracy():
    """Its fluctuations average out on an even grid: fewer evaluations, and a smaller error."""
    sde, gaussian = SDES["vp"], Gaussian(0.0, 0.25)

    def score_fn(x, t):
        rough = 0.01 * jnp.sin(999 * t[:, None] + x) / sde.sigma(t)[:, None]
        return gaussian.score_fn(sde)(x, t) + rough

    @partial(jax.jit, static_argnames=("accuracy", "tolerance"))
    def run(x, accuracy=None, tolerance=None):
        about = KEY, sde, score_fn, x, tolerance, tolerance, "exact"
        return sde_lib.log_likelihood(*about, accuracy=accuracy)

    x = 0.25 * X.reshape(-1, 4)[:16]
    found, adaptive = run(x, 1e-2), run(x, tolerance=1e-3)
    fine = run(x, tolerance=1e-5).log_prob

    def error(result):
        return np.abs(result.log_prob - fine).mean() / (4 * np.log(2))

    assert error(found) < 1e-2 < error(adaptive)
    assert int(found.nfe) < 0.5 * int(adaptive.nfe)


@pytest.mark.parametrize("scale", [0.0, 1e-3, 100.0])
def test_the_scale_of_a_sample_changes_the_steps_and_not_the_density(scale):
    """Points far less, and far more, spread than the data that the model knows."""
    gaussian = Gaussian(mean=0.0)
    x = scale * gaussian.std * X.reshape(-1, 4)[:16]
    result, *_ = gaussian_program("vp")(gaussian.mean, gaussian.std, x)
    np.testing.assert_allclose(result.log_prob, gaussian.log_prob(x), rtol=1e-4, atol=1e-3)


@pytest.mark.thorough
@pytest.mark.parametrize("name", SDES)
def test_mixture_likelihood_is_the_closed_form(name):
    mixture = Mixture()
    x = mixture.sample(jax.random.key(1), 400)
    result = mixture_program(name, probe="exact")(x)
    difference = float(jnp.mean(result.log_prob - mixture.log_prob(x))) / (2 * np.log(2))
    assert abs(difference) < 1e-3


@pytest.mark.thorough
@pytest.mark.parametrize("probe", ["rademacher", pytest.param("gaussian", marks=pytest.mark.slow)])
def test_hutchinson_is_unbiased_and_more_probes_help(probe):
    x = np.tile(np.float32([0.1, 0.2]), (800, 1))
    exact = mixture_program("vp", probe="exact")(x[:400]).log_prob
    one, four = (
        np.asarray(mixture_program("vp", probe=probe, n_probes=k)(x).log_prob, np.float64)
        for k in (1, 4)
    )
    assert abs(one.mean() - exact[0]) < 4 * one.std() / np.sqrt(len(one)) + 1e-3
    assert one.std() / four.std() == pytest.approx(2, rel=0.15)


@pytest.mark.thorough
def test_a_part_of_a_batch_has_its_likelihoods_by_one_network_call_an_evaluation():
    """Sample i does not depend on its batch. The network is called once for all probes."""
    sde, mixture, calls = SDES["vp"], Mixture(), []

    def score_fn(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return mixture.score_fn(sde)(x, t)

    x = mixture.sample(jax.random.key(1), 800)
    part = sde_lib.log_likelihood(KEY, sde, score_fn, x[5:8], n_probes=4, first_index=5)
    jax.effects_barrier()
    assert len(calls) == int(part.nfe)
    whole = mixture_program("vp", probe="rademacher", n_probes=4)(x)
    np.testing.assert_allclose(whole.log_prob[5:8], part.log_prob, rtol=1e-3, atol=1e-3)


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
    with pytest.raises(ValueError, match="accuracy takes the place of the tolerances"):
        sde_lib.log_likelihood(key, sde, score_fn, x, atol=1e-3, accuracy=1e-3)
    for accuracy, message in ((0.0, "must be positive"), (1e-9, "float32 cannot reach")):
        with pytest.raises(ValueError, match=message):
            sde_lib.log_likelihood(key, sde, score_fn, x, accuracy=accuracy)
    with pytest.raises(ValueError, match="low < high"):
        sde_lib.bits_per_dim(jnp.zeros(1), (2,), (1.0, -1.0))
    with pytest.raises(ValueError, match="levels is 0"):
        sde_lib.bits_per_dim(jnp.zeros(1), (2,), levels=0)


@pytest.mark.thorough
@pytest.mark.parametrize("options", [{"rtol": 1e-5}, {"accuracy": 1e-3}], ids=str)
def test_derivatives_both_ways_agree_with_the_closed_form(options):
    """By the data's mean and by x, of the flow's own density."""
    sde, x = SDES["vp"], jnp.array([[0.5], [-0.2]])

    def total(mean, x):
        score_fn = Gaussian(mean).score_fn(sde)
        return jnp.sum(sde_lib.log_likelihood(KEY, sde, score_fn, x, **options).log_prob)

    def exact(mean, x):
        latent, log_det = Gaussian(mean).flow(sde, x, sde.train_t_min)
        return jnp.sum(sde.prior_logp(latent) + log_det)

    by_mean, by_x = jax.jit(jax.grad(total, (0, 1)))(0.3, x)
    exactly, exactly_by_x = jax.grad(exact, (0, 1))(0.3, x)
    np.testing.assert_allclose(by_mean, exactly, atol=2e-3)
    np.testing.assert_allclose(by_x, exactly_by_x, atol=2e-3)
    forward = jax.jit(lambda mean: jax.jvp(lambda mean: total(mean, x), (mean,), (1.0,))[1])(0.3)
    np.testing.assert_allclose(forward, by_mean, rtol=1e-4)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["vp", "ve"])
@pytest.mark.parametrize("options", [{"rtol": 1e-10, "atol": 1e-10}, {"accuracy": 1e-8}], ids=str)
def test_float64_reaches_its_own_accuracy(name, options):
    """In float32 the error was 1.8e-4; here it is below 1e-8 of the flow's own density."""
    sde, gaussian = SDES[name], Gaussian()
    with jax.enable_x64(True):
        x = np.linspace(-1.5, 2.0, 8).reshape(4, 2)
        run = jax.jit(
            lambda x: sde_lib.log_likelihood(KEY, sde, gaussian.score_fn(sde), x, **options)
        )
        result = run(x)
        latent, log_det = gaussian.flow(sde, x, sde.train_t_min)
        exact = sde.prior_logp(latent) + log_det
    assert result.log_prob.dtype == result.latent.dtype == np.float64
    np.testing.assert_allclose(result.log_prob, exact, atol=1e-8)
    np.testing.assert_allclose(result.latent, latent, rtol=1e-8)
