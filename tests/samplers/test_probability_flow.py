import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import SDES, Gaussian, Mixture

import samplers
import sde_lib
from sde_lib.batch import expand

calls = []


def counted(score_fn):
    """The score function, which adds to `calls` at every evaluation."""

    def count(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return score_fn(x, t)

    return count


@pytest.mark.thorough
@pytest.mark.parametrize("name", SDES)
def test_the_flow_of_a_gaussian_is_the_closed_form(name):
    """NFE is the number of evaluations really made."""
    calls.clear()
    sde, gaussian = SDES[name], Gaussian()
    key, shape = jax.random.key(0), (256, 4)
    sampler, score_fn = samplers.ProbabilityFlow(), counted(gaussian.score_fn(sde))
    samples = jax.jit(lambda key: sampler(key, sde, score_fn, shape, n_frames=5))(key)
    jax.effects_barrier()
    assert int(samples.nfe) == len(calls)
    mean, std = gaussian.marginal(sde, sde.t_max)
    z = (sde.prior_sample(key, shape) - mean) / std
    frame_means, frame_stds = gaussian.marginal(sde, jnp.linspace(sde.t_max, sde.t_min, 6)[1:])
    exact = expand(frame_means, samples.path) + expand(frame_stds, samples.path) * z
    np.testing.assert_allclose(samples.path, exact, rtol=1e-4, atol=2e-3)
    np.testing.assert_allclose(samples.x, exact[-1], atol=2e-3)
    np.testing.assert_array_equal(samples.path[-1], samples.x)


@pytest.mark.thorough
@pytest.mark.parametrize("name", SDES)
def test_moments_of_a_mixture(name):
    """NFE counts the evaluation of the denoising step too."""
    calls.clear()
    sde, mixture = SDES[name], Mixture()
    run = jax.jit(
        lambda key: samplers.ProbabilityFlow(denoise=True)(
            key, sde, counted(mixture.score_fn(sde)), (8000, 2)
        )
    )
    samples = run(jax.random.key(0))
    jax.effects_barrier()
    assert int(samples.nfe) == len(calls)
    x = np.asarray(samples.x, np.float64)
    np.testing.assert_allclose(x.mean(0), mixture.mean, atol=0.03)
    np.testing.assert_allclose(np.cov(x.T), mixture.covariance, atol=0.03)


@pytest.mark.thorough
def test_sample_i_depends_on_its_batch_to_tolerance_only():
    sde, mixture = SDES["vp"], Mixture()
    sampler, score_fn, key = samplers.ProbabilityFlow(), mixture.score_fn(sde), jax.random.key(0)
    draw = jax.jit(lambda first_index: sampler(key, sde, score_fn, (12, 2), first_index).x)
    np.testing.assert_allclose(draw(0)[9:], draw(9)[:3], atol=1e-3)


def test_tolerances_are_checked():
    with pytest.raises(ValueError, match="both must be positive"):
        samplers.ProbabilityFlow(rtol=-1.0)
    with pytest.raises(ValueError, match=r"probe = 'exact' .* do nothing without log_prob"):
        samplers.ProbabilityFlow(probe="exact")
    with pytest.raises(ValueError, match="leave out one"):
        samplers.ProbabilityFlow(log_prob=True, denoise=True)


@pytest.mark.thorough
@pytest.mark.parametrize("name", SDES)
def test_log_densities_of_the_samples_are_their_likelihoods(name):
    """From the one solve: the closed form, and log_likelihood of the same points."""
    sde, mixture, sampler = SDES[name], Mixture(), samplers.ProbabilityFlow(log_prob=True)

    @jax.jit
    def run(key):
        samples = sampler(key, sde, mixture.score_fn(sde), (64, 2), n_frames=1)
        about = key, sde, mixture.score_fn(sde), samples.x
        return samples, sde_lib.log_likelihood(*about, probe="exact").log_prob

    samples, again = run(jax.random.key(0))
    np.testing.assert_allclose(samples.log_prob, again, atol=1e-3)
    np.testing.assert_allclose(samples.log_prob, mixture.log_prob(samples.x), atol=0.05)
    np.testing.assert_array_equal(samples.path[-1], samples.x)
    plain = samplers.ProbabilityFlow()(jax.random.key(0), sde, mixture.score_fn(sde), (64, 2))
    np.testing.assert_allclose(samples.x, plain.x, atol=0.02)  # t_min is later than train_t_min
    assert plain.log_prob is None


@pytest.mark.thorough
def test_random_probes_estimate_the_log_densities_and_do_not_depend_on_the_noise():
    sde, mixture, n = SDES["vp"], Mixture(), 2000

    @functools.partial(jax.jit, static_argnums=0)
    def run(probe):
        sampler = samplers.ProbabilityFlow(1e-4, 1e-4, log_prob=True, probe=probe)
        return sampler(jax.random.key(0), sde, mixture.score_fn(sde), (n, 2))

    exact, random = run("exact"), run("rademacher")
    error = random.log_prob - exact.log_prob
    assert 0.01 < np.std(error) < 1
    assert abs(np.mean(error)) < 4 * np.std(error) / n**0.5


@pytest.mark.thorough
def test_log_densities_need_the_prior_and_no_velocities():
    sampler, key = samplers.ProbabilityFlow(log_prob=True), jax.random.key(0)
    start = samplers.Start(jnp.zeros((3, 2)), 0.5)
    with pytest.raises(ValueError, match=r"start.t is 0.5, but log_prob needs states of the prior"):
        sampler(key, SDES["vp"], lambda x, t: -x, (3, 2), start=start)
    with pytest.raises(ValueError, match="an SDE whose state is the data, and that of CLD"):
        sampler(key, sde_lib.CLD(), lambda x, t: -x, (3, 2))


@pytest.mark.thorough
def test_derivatives_both_ways_are_those_of_the_closed_form():
    """Of samples and log densities by the data's mean, at fixed noise."""
    sde, key = SDES["vp"], jax.random.key(0)

    def draw(mean):
        sampler = samplers.ProbabilityFlow(log_prob=True)
        samples = sampler(key, sde, Gaussian(mean).score_fn(sde), (2, 1))
        return samples.x[0, 0], samples.log_prob[0]

    alpha, std = sde.alpha(sde.t_max), Gaussian().marginal(sde, sde.t_max)[1]
    by_mean = [1 - alpha * 0.7 / std, 0.0]  # x = mean + 0.7 / std (x_T - alpha mean)
    forward = jax.jit(lambda mean: jax.jvp(draw, (mean,), (1.0,))[1])(0.3)
    backward = jax.jit(jax.jacrev(draw))(0.3)
    np.testing.assert_allclose(forward, by_mean, atol=2e-3)
    np.testing.assert_allclose(backward, forward, atol=1e-5)


@pytest.mark.thorough
def test_float64_meets_the_closed_form_to_its_tolerance():
    sde, gaussian, key = SDES["vp"], Gaussian(), jax.random.key(0)
    with jax.enable_x64(True):
        sampler = samplers.ProbabilityFlow(1e-11, 1e-11)
        samples = sampler(key, sde, gaussian.score_fn(sde), (2, 3))
        mean, std = gaussian.marginal(sde, sde.t_max)
        z = (sde.prior_sample(key, (2, 3)) - mean) / std
        mean, std = gaussian.marginal(sde, sde.t_min)
        assert samples.x.dtype == np.float64
        np.testing.assert_allclose(samples.x, mean + std * z, atol=1e-9)
