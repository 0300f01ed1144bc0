import itertools

import numpy as np
import pytest
from flows import denoised, flow, order, run

import samplers

GRID = (10.0, 4.0, 1.0, 0.3)


@pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_2s"])
def test_it_converges_at_second_order(name):
    assert order(name, 32) == pytest.approx(2, abs=0.15)


def test_2m_is_its_algorithm():
    """Lu et al. 2022b, Algorithm 2, at alpha = 1."""
    samples = run(samplers.DPMpp2M(4, GRID))
    assert samples.nfe == 4
    y, lambdas = flow()[0], -np.log(GRID)
    data = [denoised(y, GRID[0])]
    y = GRID[1] / GRID[0] * y - np.expm1(lambdas[0] - lambdas[1]) * data[0]
    for i in (2, 3):
        data.append(denoised(y, GRID[i - 1]))
        h, r = (np.diff(lambdas)[i - 1], np.diff(lambdas)[i - 2] / np.diff(lambdas)[i - 1])
        extrapolated = (1 + 1 / (2 * r)) * data[-1] - 1 / (2 * r) * data[-2]
        y = GRID[i] / GRID[i - 1] * y - np.expm1(-h) * extrapolated
    np.testing.assert_allclose(samples.x, denoised(y, GRID[3]), atol=1e-5)


def test_2s_is_its_algorithm():
    """Lu et al. 2022b, Algorithm 1, at alpha = 1 and r = 1/2."""
    samples = run(samplers.DPMpp2S(4, GRID))
    assert samples.nfe == 7
    y = flow()[0]
    for now, then in itertools.pairwise(GRID):
        h, middle = np.log(now / then), np.sqrt(now * then)
        u = middle / now * y - np.expm1(-h / 2) * denoised(y, now)
        y = then / now * y - np.expm1(-h) * denoised(u, middle)
    np.testing.assert_allclose(samples.x, denoised(y, GRID[3]), atol=1e-5)


def test_2m_needs_two_steps():
    with pytest.raises(ValueError, match="n_steps is 1: it must be at least 3"):
        samplers.DPMpp2M(1)
