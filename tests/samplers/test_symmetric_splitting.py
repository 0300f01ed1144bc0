import affine
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import Gaussian, langevin_score_fn

import samplers
import sde_lib
from sde_lib.batch import fold_in, normal, sample_keys

SDE, DATA = sde_lib.CLD(), Gaussian()
SCORE = langevin_score_fn(SDE, DATA)
PRIOR_STD = (1.0, SDE.mass**0.5)
SplittingSampler = samplers.SymmetricSplitting


def draw(sampler, n=8000, **options):
    run = jax.jit(lambda key: sampler(key, SDE, SCORE, (n, 4), **options))
    return run(jax.random.key(0))


def errors(sampler):
    """Errors of the mean of positions, and, relatively, of their variance."""
    x = np.asarray(SDE.data_of(draw(sampler).x), np.float64)
    return x.mean() - DATA.mean, x.var() / DATA.std**2 - 1


def euler_errors(n_steps, denoise=False):
    """The same errors of EulerMaruyama or PredictorCorrector, without Monte-Carlo error."""
    steps = samplers.PredictorCorrector(n_steps, "euler_maruyama", "none", denoise=denoise)
    mean, covariance = affine.moments(steps, SDE, SCORE, (2,), PRIOR_STD)
    return mean[0] - DATA.mean, covariance[0, 0] / DATA.std**2 - 1


@pytest.mark.thorough
@pytest.mark.parametrize(
    "sampler", [SplittingSampler(60), SplittingSampler(50, "quadratic", denoise=False)]
)
def test_the_exact_score_gives_the_moments_of_the_data(sampler):
    mean, variance = errors(sampler)
    assert abs(mean) < 0.015
    assert abs(variance) < 0.03


@pytest.mark.parametrize("denoise", [False, True])
def test_the_exact_score_gives_euler_maruyama_the_moments_of_the_data(denoise):
    mean, variance = euler_errors(500, denoise)
    assert abs(mean) < 0.002
    assert abs(variance) < 0.01


@pytest.mark.thorough
def test_euler_maruyama_moves_positions_without_noise_and_velocities_with_it():
    """Three steps of the sampler are its reverse SDE by hand."""
    key, shape, n = jax.random.key(1), (2, 2), 3
    keys, x = sample_keys(key, 2), SDE.prior_sample(key, shape)
    dt = (SDE.t_max - SDE.t_min) / n

    @jax.jit
    def step(x, k):
        t = jnp.full(2, SDE.t_max - k * dt)
        z = normal(fold_in(fold_in(keys, k), 0), shape) * jnp.array([0.0, 1.0])
        return x - dt * SDE.reverse_drift(x, t, SCORE(x, t)) + SDE.diffusion(1.0) * dt**0.5 * z

    for k in range(n):
        x = step(x, k)
    ours = samplers.EulerMaruyama(n)(key, SDE, SCORE, shape).x
    np.testing.assert_allclose(ours, x, rtol=1e-4, atol=1e-5)


@pytest.mark.thorough
def test_the_flow_gives_the_moments_of_the_data():
    """The flow is affine: four starts with the moments of the prior end with those of the data."""
    x = np.sqrt(2) * np.concatenate([np.diag(PRIOR_STD), -np.diag(PRIOR_STD)])
    start = samplers.Start(jnp.asarray(x), SDE.t_max)
    flow = samplers.ProbabilityFlow(1e-4, 1e-4, denoise=True)
    run = jax.jit(lambda key: flow(key, SDE, SCORE, (4, 2), start=start).x)
    x = SDE.data_of(run(jax.random.key(0)))
    assert abs(x.mean() - DATA.mean) < 0.015
    assert abs(x.var() / DATA.std**2 - 1) < 0.03


@pytest.mark.thorough
def test_few_steps_are_far_better_than_euler_s():
    """The relative error of the variance at 20 (measured: 0.43 to 0.055; at 10, 3.3 to 0.11)."""
    assert abs(errors(SplittingSampler(20, denoise=False))[1]) < euler_errors(20)[1] / 5


@pytest.mark.thorough
def test_a_score_that_is_the_prior_s_leaves_exact_steps():
    """Three then bring a point to the prior, but for exp(-8)."""
    start = samplers.Start(jnp.tile(jnp.array([3.0, 1.0]), (20_000, 1)), 1.0)

    def prior_score(x, t):
        return -SDE.noisy(x) / SDE.mass

    sampler = SplittingSampler(3, denoise=False)
    run = jax.jit(lambda key: sampler(key, SDE, prior_score, (20_000, 2), start=start).x)
    x = run(jax.random.key(0))
    x = np.asarray(x, np.float64) * [1, 2]
    assert np.abs(x.mean(0)).max() < 0.05
    assert np.abs(np.cov(x.T) - np.eye(2)).max() < 0.05


@pytest.mark.thorough
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
