import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import SDES, Gaussian, Mixture

import samplers


@pytest.mark.parametrize("name", SDES)
def test_the_flow_of_a_gaussian_is_the_closed_form(name):
    sde, gaussian = SDES[name], Gaussian()
    key, shape = jax.random.key(0), (256, 4)
    samples = samplers.ProbabilityFlow()(key, sde, gaussian.score_fn(sde), shape)
    mean, std = gaussian.marginal(sde, sde.t_max)
    end_mean, end_std = gaussian.marginal(sde, sde.t_min)
    exact = end_mean + end_std / std * (sde.prior_sample(key, shape) - mean)
    np.testing.assert_allclose(samples.x, exact, atol=2e-3)


@pytest.mark.parametrize("name", SDES)
def test_moments_of_a_mixture(name):
    sde, mixture = SDES[name], Mixture()
    run = jax.jit(
        lambda key: samplers.ProbabilityFlow(denoise=True)(
            key, sde, mixture.score_fn(sde), (20_000, 2)
        )
    )
    x = np.asarray(run(jax.random.key(0)).x, np.float64)
    np.testing.assert_allclose(x.mean(0), mixture.mean, atol=0.03)
    np.testing.assert_allclose(np.cov(x.T), mixture.covariance, atol=0.03)


@pytest.mark.parametrize("denoise", [False, True])
def test_nfe_is_the_number_of_evaluations_really_made(denoise):
    sde, calls = SDES["vp"], []

    def score_fn(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return -x

    sampler = samplers.ProbabilityFlow(denoise=denoise)
    samples = sampler(jax.random.key(0), sde, score_fn, (2, 2))
    jax.effects_barrier()
    assert int(samples.nfe) == len(calls)


def test_sample_i_depends_on_its_batch_to_tolerance_only():
    sde, mixture = SDES["vp"], Mixture()
    sampler, score_fn, key = samplers.ProbabilityFlow(), mixture.score_fn(sde), jax.random.key(0)
    together = sampler(key, sde, score_fn, (16, 2)).x
    alone = sampler(key, sde, score_fn, (1, 2), first_index=9).x
    np.testing.assert_allclose(together[9], alone[0], atol=1e-3)


def test_path_goes_from_noise_to_the_sample():
    sde, gaussian = SDES["ve"], Gaussian()
    samples = samplers.ProbabilityFlow()(
        jax.random.key(0), sde, gaussian.score_fn(sde), (64, 2), n_frames=5
    )
    spreads = jnp.std(samples.path, axis=(1, 2))
    assert samples.path.shape == (5, 64, 2)
    assert jnp.all(spreads[1:] < spreads[:-1])
    np.testing.assert_array_equal(samples.path[-1], samples.x)


def test_tolerances_are_checked():
    with pytest.raises(ValueError, match="both must be positive"):
        samplers.ProbabilityFlow(rtol=-1.0)
