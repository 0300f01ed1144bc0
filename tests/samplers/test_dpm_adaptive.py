import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flows import HIGH, LOW, SDE, N, denoised, error, flow, noise, run

import samplers
import sde_lib


@pytest.mark.thorough
def test_the_error_follows_the_tolerance():
    loose = error(samplers.DPMAdaptive(rtol=1e-2, atol=1e-2, sigma_min=LOW))
    tight = error(samplers.DPMAdaptive(rtol=1e-4, atol=1e-4, sigma_min=LOW))
    assert loose < 2e-2
    assert tight < min(2e-4, loose / 20)


@pytest.mark.thorough
def test_it_is_its_algorithm():
    """DPM-Solver-12 (Lu et al. 2022, Appendix C) with a PID controller, by a loop in numpy."""
    p, i, d = 0.1, 0.4, 0.05
    sampler = samplers.DPMAdaptive(
        *(2, None, None, 0.9, p, i, d), sigma_min=LOW, denoise=True, variant="k_diffusion"
    )
    samples = run(sampler)
    y, s, h, end, gains, tries = flow()[0], -math.log(HIGH), 0.9, -math.log(LOW), [1.0, 1.0], 0
    before, rejected = y, 0
    while s < end:
        h, tries = min(h, end - s), tries + 1
        now, middle, then = np.exp([-s, -s - h / 2, -s - h])
        first = noise(y, now)
        lower = y + (then - now) * first
        higher = y + (then - now) * noise(y + (middle - now) * first, middle)
        scale = np.maximum(0.0078, 0.05 * np.maximum(abs(lower), abs(before)))
        gain = 1 / np.sqrt(np.mean(((lower - higher) / scale) ** 2, axis=1)).max()
        powers = ((p + i + d) / 2, -(p + 2 * d) / 2, d / 2)
        factor = math.prod(g**power for g, power in zip((gain, *gains), powers, strict=True))
        factor = 1 + math.atan(factor - 1)
        if factor >= 0.81:
            y, before, s, gains = higher, lower, s + h, [gain, gains[0]]
        else:
            rejected += 1
        h *= factor
    assert rejected > 0
    assert samples.nfe == 2 * tries + 1
    np.testing.assert_allclose(samples.x, denoised(y, LOW), atol=2e-4)


@pytest.mark.thorough
@pytest.mark.parametrize("std", [0.05, 0.5])
@pytest.mark.parametrize("sde", [sde_lib.VP(), sde_lib.EDM()])
def test_the_default_tolerances_leave_no_noise(sde, std):
    truth = sde_lib.GaussianMixture((1.0,), ((0.0,) * 16,), std)
    draw = jax.jit(lambda key: samplers.DPMAdaptive()(key, sde, truth.score_fn(sde), (256, 16)))
    made = draw(jax.random.key(0))
    np.testing.assert_allclose(np.std(made.x), std, rtol=0.05)
    assert made.nfe < 100


@pytest.mark.thorough
def test_frames_are_even_in_the_log_snr_and_end_at_sigma_min():
    sampler = samplers.DPMAdaptive(rtol=1e-3, atol=1e-3, sigma_min=LOW)
    samples = run(sampler, n_frames=2)
    np.testing.assert_array_equal(samples.path[-1], samples.x)
    np.testing.assert_allclose(samples.path[0], flow(1.0)[1], atol=0.03)


@pytest.mark.thorough
def test_one_sample_that_is_not_finite_ends_the_solve():
    """The score is NaN from the middle of the interval on, and so is the error of a step."""

    def score_fn(x, t):
        return jnp.where(
            (t[:, None] < 1) & (jnp.arange(N)[:, None] == 3), jnp.nan, -x / t[:, None] ** 2
        )

    samples = run(samplers.DPMAdaptive(), score_fn=score_fn, n_frames=1)
    assert jnp.isnan(samples.x).all()
    assert jnp.isnan(samples.path).all()
    assert samples.nfe < 100


def test_numbers_are_checked():
    for wrong in ({"rtol": 0.0}, {"atol": -1.0}, {"h_init": 0.0}, {"sigma_min": math.inf}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*: it must be "):
            samplers.DPMAdaptive(**wrong)
    with pytest.raises(ValueError, match="did you mean 'k_diffusion'"):
        samplers.DPMAdaptive(variant="k-diffusion")
    with pytest.raises(ValueError, match="leave out one or the other"):
        samplers.DPMAdaptive(rtol=0.1, atol=0.1, variant="k_diffusion")
    with pytest.raises(ValueError, match="order is 1: it must be one of 2, 3"):
        samplers.DPMAdaptive(order=1)
    with pytest.raises(ValueError, match="starts at the noise level 10 and ends at 20"):
        run(samplers.DPMAdaptive(sigma_min=20.0))
    with pytest.raises(ValueError, match="it must return the shape of x"):
        samplers.DPMAdaptive()(jax.random.key(0), SDE, lambda x, t: t, (2, 2))


@pytest.mark.thorough
def test_derivatives_both_ways_are_those_of_finite_differences():
    """grad failed; jvp was NaN where a step's error is 0, as of data that are one point."""

    def draw(mean):
        score_fn = lambda x, t: (mean - x) / t[:, None] ** 2  # noqa: E731
        sampler = samplers.DPMAdaptive(sigma_max=HIGH, sigma_min=LOW)
        return jnp.mean(sampler(jax.random.key(0), SDE, score_fn, (2, 1), n_frames=1).x)

    values = jax.jit(jax.vmap(draw))(jnp.array([0.2, 0.4]))
    slope = (values[1] - values[0]) / 0.2
    forward = jax.jit(lambda mean: jax.jvp(draw, (mean,), (1.0,))[1])(0.3)
    np.testing.assert_allclose(forward, slope, rtol=1e-3)
    np.testing.assert_allclose(jax.jit(jax.grad(draw))(0.3), slope, rtol=1e-3)


@pytest.mark.thorough
def test_float64_meets_tolerances_beyond_float32():
    with jax.enable_x64(True):
        samples = run(samplers.DPMAdaptive(rtol=1e-9, atol=1e-9, sigma_min=LOW))
        assert samples.x.dtype == np.float64
        assert error(samplers.DPMAdaptive(rtol=1e-8, atol=1e-8, sigma_min=LOW)) < 1e-7
