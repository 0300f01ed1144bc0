import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import SDES, Gaussian, Mixture

import samplers
from sde_lib.batch import expand

calls = []


def counted(score_fn):
    """The score function, which adds to `calls` at every evaluation."""

    def count(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return score_fn(x, t)

    return count


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


def test_sample_i_depends_on_its_batch_to_tolerance_only():
    sde, mixture = SDES["vp"], Mixture()
    sampler, score_fn, key = samplers.ProbabilityFlow(), mixture.score_fn(sde), jax.random.key(0)
    draw = jax.jit(lambda first_index: sampler(key, sde, score_fn, (12, 2), first_index).x)
    np.testing.assert_allclose(draw(0)[9:], draw(9)[:3], atol=1e-3)


def test_tolerances_are_checked():
    with pytest.raises(ValueError, match="both must be positive"):
        samplers.ProbabilityFlow(rtol=-1.0)
