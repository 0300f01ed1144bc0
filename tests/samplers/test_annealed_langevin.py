import jax
import numpy as np
import pytest
from closed_forms import SDES, Gaussian, Mixture

import samplers
import sde_lib
from samplers.annealed_langevin import balanced_step_size
from sde_lib.batch import fold_in, normal, sample_keys


@pytest.mark.thorough
def test_moments_of_gaussian_data_are_the_closed_form():
    """Every step is a linear map and Gaussian noise: after finitely many, not quite the data."""
    gaussian, sde, n = Gaussian(), SDES["vp"], 4000
    sampler = samplers.AnnealedLangevin(60, 25, step_size=0.1)
    x = jax.jit(lambda key: sampler(key, sde, gaussian.score_fn(sde), (n, 1)).x)(jax.random.key(0))
    first, last = (float(sde.sigma(t) / sde.alpha(t)) for t in (sde.t_max, sde.t_min))
    mean, variance = 0.0, (sde.prior_std / float(sde.alpha(sde.t_max))) ** 2
    for sigma in np.repeat(np.geomspace(first, last, 60), 25):
        pull = 0.1 * sigma**2 / (gaussian.std**2 + sigma**2)
        mean += pull * (gaussian.mean - mean)
        variance = (1 - pull) ** 2 * variance + 2 * 0.1 * sigma**2
    shrink = gaussian.std**2 / (gaussian.std**2 + last**2)  # Tweedie's formula
    mean, std = gaussian.mean + shrink * (mean - gaussian.mean), shrink * np.sqrt(variance)
    assert x.mean() == pytest.approx(mean, abs=4 * std / np.sqrt(n))
    assert x.std() == pytest.approx(std, rel=4 / np.sqrt(2 * n))
    assert std == pytest.approx(gaussian.std, rel=0.06)


@pytest.mark.parametrize("denoise", [False, True])
@pytest.mark.parametrize("name", ["paper", *SDES])
def test_it_is_the_algorithm_of_the_paper(name, denoise):
    """Algorithm 1 for x / alpha; in the paper's numbers sigma from 1 to 0.01, epsilon = 2e-5."""
    sde = {"paper": sde_lib.VE(0.01, 1.0, t_min=0.0), **SDES}[name]
    gaussian, key, shape = Gaussian(), jax.random.key(1), (3, 2)
    sampler = samplers.AnnealedLangevin(10, 2, step_size=0.1, denoise=denoise)
    first, last = (float(sde.sigma(t) / sde.alpha(t)) for t in (sde.t_max, sde.t_min))
    y, keys = np.asarray(sde.prior_sample(key, shape)) / sde.alpha(sde.t_max), sample_keys(key, 3)
    for k, sigma in enumerate(np.repeat(np.geomspace(first, last, 10), 2)):
        step = 2e-5 * sigma**2 / 0.01**2
        score = -(y - gaussian.mean) / (gaussian.std**2 + sigma**2)
        y = y + step / 2 * score + np.sqrt(step) * np.asarray(normal(fold_in(keys, k), shape))
    score = -(y - gaussian.mean) / (gaussian.std**2 + last**2)
    expected = y + last**2 * score if denoise else sde.alpha(sde.t_min) * y
    score_fn, calls = gaussian.score_fn(sde), []

    def counted(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return score_fn(x, t)

    samples = jax.jit(lambda key: sampler(key, sde, counted, shape))(key)
    jax.effects_barrier()
    assert samples.nfe == len(calls) == 20 + denoise
    np.testing.assert_allclose(samples.x, expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize(
    ("sigma_max", "n_levels", "n_steps_each", "epsilon"),
    [(50, 232, 5, 6.2e-6), (90, 500, 5, 3.3e-6), (190, 1086, 3, 1.8e-6)],
)
def test_step_sizes_are_the_published_ones(sigma_max, n_levels, n_steps_each, epsilon):
    """CIFAR-10, CelebA and LSUN bedroom of NCSNv2, whose sigma_L is 0.01."""
    ratio = (sigma_max / 0.01) ** (1 / (n_levels - 1))
    step_size = float(balanced_step_size(ratio, n_steps_each))
    assert step_size * 0.01**2 == pytest.approx(epsilon, abs=0.05e-6)


@pytest.mark.thorough
def test_sample_i_does_not_depend_on_its_batch_and_the_path_ends_with_it():
    sde, data = SDES["vp"], Mixture()
    sampler, score_fn = samplers.AnnealedLangevin(20, denoise=False), data.score_fn(sde)
    key = jax.random.key(3)
    together = jax.jit(lambda key: sampler(key, sde, score_fn, (8, 2), n_frames=4))(key)
    alone = jax.jit(lambda key: sampler(key, sde, score_fn, (1, 2), first_index=6).x)(key)
    np.testing.assert_allclose(together.x[6], alone[0], rtol=1e-4, atol=1e-5)
    assert together.path.shape == (4, 8, 2)
    np.testing.assert_allclose(together.path[-1], together.x, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_levels": 0}, "n_levels is 0"),
        ({"n_steps_each": 0}, "n_steps_each is 0"),
        ({"step_size": 0.0}, "step_size is 0.0"),
        ({"n_levels": 1}, "step_size must be given"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        samplers.AnnealedLangevin(**options)


def test_more_frames_than_steps_are_refused():
    with pytest.raises(ValueError, match="only 6 steps"):
        samplers.AnnealedLangevin(2, 3)(
            jax.random.key(0), SDES["vp"], lambda x, t: -x, (1, 2), n_frames=7
        )
