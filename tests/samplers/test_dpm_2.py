import jax
import numpy as np
import pytest
from flows import SDE, noise, order, run

import samplers
from sde_lib.batch import fold_in, normal, sample_keys


def test_it_converges_at_second_order():
    assert order("dpm_2", 16) == pytest.approx(2, abs=0.15)


@pytest.mark.thorough
def test_four_steps_with_churn_are_a_loop_in_numpy():
    """EDM's Algorithm 2, but the step takes the noise at its midpoint in log-SNR."""
    grid, gamma = (8.0, 3.0, 1.0, 0.2), 0.3
    samples = run(samplers.DPM2(4, grid, s_churn=1.2), start=None)
    assert samples.nfe == 7
    keys = sample_keys(jax.random.key(0), 32)
    y = 8 / 80 * np.asarray(SDE.prior_sample(jax.random.key(0), (32, 2)), np.float64)
    for k, (now, then) in enumerate(zip(grid, (*grid[1:], 0.0), strict=True)):
        up = now * (1 + gamma)
        y = y + np.sqrt(up**2 - now**2) * np.asarray(normal(fold_in(keys, k), (32, 2)))
        middle = np.sqrt(up * then)
        slope = noise(y + (middle - up) * noise(y, up), middle) if then else noise(y, up)
        y = y + (then - up) * slope
    np.testing.assert_allclose(samples.x, y, atol=1e-5)
