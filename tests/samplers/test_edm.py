import jax
import numpy as np
import pytest
from flows import SDE, noise, order, run

import samplers
from sde_lib.batch import fold_in, normal, sample_keys


@pytest.mark.thorough
@pytest.mark.parametrize("alpha", [1.0, 0.5, 2 / 3], ids=["heun", "midpoint", "ralston"])
def test_it_converges_at_second_order(alpha):
    assert order("heun", 16, alpha=alpha) == pytest.approx(2, abs=0.15)


@pytest.mark.thorough
def test_four_steps_with_churn_are_a_loop_in_numpy():
    """Karras et al. 2022, Algorithm 2: the last step, to level 0, is Euler's, churned too."""
    grid = (8.0, 3.0, 1.0, 0.2)
    samples = run(samplers.EDM(4, grid, s_churn=1.2, s_tmax=5.0, s_noise=1.007), start=None)
    assert samples.nfe == 7
    keys = sample_keys(jax.random.key(0), 32)
    y = 8 / 80 * np.asarray(SDE.prior_sample(jax.random.key(0), (32, 2)), np.float64)
    for k, (now, then) in enumerate(zip(grid, (*grid[1:], 0.0), strict=True)):
        up = now * (1 + 1.2 / 4 * (now <= 5.0))
        z = np.asarray(normal(fold_in(keys, k), (32, 2)))
        y = y + 1.007 * np.sqrt(up**2 - now**2) * z
        slope = noise(y, up)
        if then:
            slope = (slope + noise(y + (then - up) * slope, then)) / 2
        y = y + (then - up) * slope
    np.testing.assert_allclose(samples.x, y, atol=1e-5)


def test_churn_is_capped_and_between_bounds():
    sampler = samplers.EDM(10, s_churn=40.0, s_tmin=0.5, s_tmax=5.0, s_noise=1.1)
    levels, std = sampler.inflated(np.array([8.0, 5.0, 0.5, 0.4]))
    np.testing.assert_allclose(levels, [8.0, 5 * np.sqrt(2), 0.5 * np.sqrt(2), 0.4])
    np.testing.assert_allclose(std, [0.0, 1.1 * 5, 1.1 * 0.5, 0.0])


def test_eighteen_steps_are_35_evaluations():
    assert samplers.EDM(18).nfe == 35
    assert samplers.EDM(40).nfe == 79
    assert samplers.EDM(256).nfe == 511


def test_numbers_are_checked():
    for alpha in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"it must lie in \(0, 1\]"):
            samplers.Heun(alpha=alpha)
    for wrong in ({"s_churn": -1.0}, {"s_noise": -1.0}, {"s_tmin": 2.0, "s_tmax": 1.0}):
        with pytest.raises(ValueError, match="none may be negative, and s_tmin not above s_tmax"):
            samplers.EDM(**wrong)
