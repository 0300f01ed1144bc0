import itertools

import numpy as np
import pytest
from flows import SDE, flow, noise, order, run

import samplers

GRID = (10.0, 4.0, 1.0, 0.3)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_orders_of_convergence(k):
    assert order("dpm_solver", 16, order=k) == pytest.approx(k, abs=0.15)


def test_order_3_is_its_algorithm():
    """Lu et al. 2022, Algorithm 2, at alpha = 1."""
    samples = run(samplers.DPMSolver(3, GRID, denoise=False))
    assert samples.nfe == 9
    y, r1, r2 = flow()[0], 1 / 3, 2 / 3
    for now, then in itertools.pairwise(GRID):
        h = np.log(now / then)
        s1, s2 = now * np.exp(-r1 * h), now * np.exp(-r2 * h)
        first = noise(y, now)
        u1 = y - s1 * np.expm1(r1 * h) * first
        d1 = noise(u1, s1) - first
        phi = np.expm1(r2 * h) / (r2 * h) - 1
        u2 = y - s2 * np.expm1(r2 * h) * first - s2 * r2 / r1 * phi * d1
        d2 = noise(u2, s2) - first
        phi = np.expm1(h) / h - 1
        y = y - then * np.expm1(h) * first - then / r2 * phi * d2
    np.testing.assert_allclose(samples.x, y, atol=1e-5)


def test_order_1_is_euler():
    levels = np.array(GRID)
    plan = samplers.DPMSolver(4, order=1).plan(levels[:-1], levels[1:])
    np.testing.assert_allclose(plan.coefficients, np.diff(levels)[:, None] * [1, 0, 0], rtol=1e-12)


def test_order_2_is_dpm_2():
    """The second stage takes the first's half step back."""
    now, then = np.array(GRID[:-1]), np.array(GRID[1:])
    half, whole = samplers.DPM2().plan(now, then).coefficients
    levels = np.sort([*GRID, *np.sqrt(now * then)])[::-1]
    weights = samplers.DPMSolver(4, order=2).plan(levels[:-1], levels[1:]).coefficients
    np.testing.assert_allclose(weights[::2], half[:, None] * [1, 0, 0], rtol=1e-12)
    np.testing.assert_allclose(weights[1::2], np.stack([whole, -half, 0 * half], 1), rtol=1e-12)


def test_fast_spends_every_evaluation():
    orders = {1: [1], 2: [2], 3: [2, 1], 4: [3, 1], 5: [3, 2], 6: [3, 2, 1], 20: [3] * 6 + [2]}
    for n, expected in orders.items():
        assert samplers.DPMFast(n).orders == expected
        assert samplers.DPMFast(n + 1, denoise=True).orders == expected
        assert samplers.DPMFast(n).nfe == samplers.DPMFast(n, denoise=True).nfe == n
    assert samplers.DPMFast(1, denoise=True).orders == []


def test_fast_changes_order_on_the_way():
    """5 evaluations: DPM-Solver-3 over half of the log-SNR, DPM-Solver-2 over the other."""
    levels = samplers.DPMFast(5).levels(SDE, 10.0, 0.1)
    np.testing.assert_allclose(np.log10(levels), [1, 2 / 3, 1 / 3, 0, -1 / 2, -1], atol=1e-14)
    weights = samplers.DPMFast(5).plan(levels[:-1], levels[1:]).coefficients
    for k, part in ((3, slice(0, 3)), (2, slice(3, 5))):
        alone = samplers.DPMSolver(1, order=k, denoise=False)
        expected = alone.plan(levels[:-1][part], levels[1:][part]).coefficients
        np.testing.assert_array_equal(weights[part], expected)


def test_orders_are_checked():
    with pytest.raises(ValueError, match="order is 4: it must be one of 1, 2, 3"):
        samplers.DPMSolver(order=4)
    with pytest.raises(ValueError, match="n_steps is 0: it must be at least 1"):
        samplers.DPMFast(0)
