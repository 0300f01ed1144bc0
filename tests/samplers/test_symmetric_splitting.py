import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import Gaussian, langevin_score_fn

import samplers
import sde_lib

SDE, DATA = sde_lib.CLD(), Gaussian()
SCORE = langevin_score_fn(SDE, DATA)
SplittingSampler = samplers.SymmetricSplitting


def draw(sampler, n=20_000, **options):
    run = jax.jit(lambda key: sampler(key, SDE, SCORE, (n, 4), **options))
    return run(jax.random.key(0))


def errors(sampler):
    """Of the mean of positions, and the relative one of their variance."""
    x = np.asarray(SDE.data_of(draw(sampler).x), np.float64)
    return x.mean() - DATA.mean, x.var() / DATA.std**2 - 1


@pytest.mark.parametrize(
    "sampler",
    [
        SplittingSampler(200),
        SplittingSampler(100, "quadratic", denoise=False),
        samplers.EulerMaruyama(500),
        samplers.ProbabilityFlow(1e-4, 1e-4, denoise=True),
        samplers.PredictorCorrector(500, "euler_maruyama", corrector="none"),
    ],
)
def test_the_exact_score_gives_the_moments_of_the_data(sampler):
    mean, variance = errors(sampler)
    assert abs(mean) < 0.015
    assert abs(variance) < 0.03


def test_few_steps_are_far_better_than_euler_s():
    """The relative error of the variance at 20 (measured: 0.43 to 0.055; at 10, 3.3 to 0.11)."""
    euler = errors(samplers.EulerMaruyama(20))[1]
    assert abs(errors(SplittingSampler(20, denoise=False))[1]) < euler / 5


def test_a_score_that_is_the_prior_s_leaves_exact_steps():
    """Three then bring a point to the prior, but for exp(-8)."""
    start = samplers.Start(jnp.tile(jnp.array([3.0, 1.0]), (20_000, 1)), 1.0)

    def prior_score(x, t):
        return -SDE.noisy(x) / SDE.mass

    sampler = SplittingSampler(3, denoise=False)
    x = sampler(jax.random.key(0), SDE, prior_score, (20_000, 2), start=start).x
    x = np.asarray(x, np.float64) * [1, 2]
    assert np.abs(x.mean(0)).max() < 0.05
    assert np.abs(np.cov(x.T) - np.eye(2)).max() < 0.05


def test_sample_i_is_the_same_in_any_batch_and_frames_end_with_it():
    sampler = SplittingSampler(6, denoise=False)
    together = draw(sampler, 8, n_frames=3)
    alone = draw(sampler, 2, first_index=5)
    np.testing.assert_allclose(together.x[5:7], alone.x, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(together.path[-1], together.x)
    assert together.nfe == 6


def test_other_sdes_grids_and_too_few_steps_are_refused():
    with pytest.raises(ValueError, match="a sampler of CLD: under VP take"):
        SplittingSampler(5)(jax.random.key(0), sde_lib.VP(), lambda x, t: x, (2, 2))
    with pytest.raises(ValueError, match="grid 'karras' is unknown"):
        SplittingSampler(grid="karras")  # pyright: ignore
    with pytest.raises(ValueError, match="n_steps is 1"):
        SplittingSampler(1)
