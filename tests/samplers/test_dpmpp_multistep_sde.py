import functools
import itertools

import linear
import numpy as np
import pytest

import samplers

SOLVERS = {
    "midpoint": samplers.DPMpp2MSDE,
    "heun": functools.partial(samplers.DPMpp2MSDE, solver_type="heun"),
    "3m": samplers.DPMpp3MSDE,
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", SOLVERS)
def test_weak_order_two_and_strong_order_one(name):
    np.testing.assert_allclose(linear.weak_orders(SOLVERS[name], low=0.05), 2, atol=0.15)
    if name != "heun":
        np.testing.assert_allclose(linear.strong_orders(SOLVERS[name]), 1, atol=0.3)


@pytest.mark.thorough
def test_three_values_are_of_third_order_without_noise():
    create = functools.partial(samplers.DPMpp3MSDE, eta=0.0)
    assert np.min(linear.weak_orders(create)) > 2.85


def test_without_noise_it_is_dpm_solver_pp_2m():
    """Lu et al. 2022b, Algorithm 2, in noise levels."""
    levels = linear.karras(6)
    y = linear.trajectory(samplers.DPMpp2MSDE(6, eta=0.0), levels)
    expected, before, last_h = linear.starts(levels[0]), 0.0, np.inf
    for now, then in itertools.pairwise(levels):
        h, d = np.log(now / then), linear.Linear([now]).denoised(expected)
        slope = h / (2 * last_h)
        extrapolated = (1 + slope) * d - slope * before
        expected = np.exp(-h) * expected - np.expm1(-h) * extrapolated
        before, last_h = d, h
    np.testing.assert_allclose(y, expected, rtol=1e-9)


@pytest.mark.parametrize("create", [SOLVERS["heun"], SOLVERS["3m"]])
def test_polynomials_are_integrated_exactly(create):
    """D = l^(i/7), or (log l)^i, makes the integral of (1 + eta) e^(-(1 + eta)(s_1 - s)) D ds."""
    solver = create(4, eta=0.5)
    levels = linear.karras(4, 5.0, 0.3)
    plan = solver.plan(levels[:-1], levels[1:])
    decay, _, weights = (a[-1] for a in plan.coefficients)
    last = levels[-2 : -3 - solver.n_past : -1]
    s = np.linspace(0, 1, 20_001)
    visited = levels[-2] * (levels[-1] / levels[-2]) ** s
    kernel = decay**-s / np.trapezoid(decay**-s, s)
    for power in range(solver.n_past + 1):
        d = solver.variable(last) ** power
        mean = d[0] + weights @ (d[1:] - d[0])
        expected = np.trapezoid(kernel * solver.variable(visited) ** power, s)
        np.testing.assert_allclose(mean, expected, rtol=1e-7)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_single_data_point_is_reached_alike_in_any_number_of_steps(name):
    few, many = (linear.trajectory(SOLVERS[name](n), linear.karras(n), std=0.0) for n in (4, 8))
    np.testing.assert_allclose(few, many, rtol=1e-9)


def test_options_are_checked():
    with pytest.raises(ValueError, match="solver_type 'huen' is unknown: did you mean 'heun'"):
        samplers.DPMpp2MSDE(solver_type="huen")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="n_steps is 3: it must be at least 4"):
        samplers.DPMpp3MSDE(3)
