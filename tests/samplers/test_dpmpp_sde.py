import functools
import itertools

import linear
import numpy as np
import pytest

import samplers

SOLVERS = {
    "ancestral": samplers.DPMpp2SAncestral,
    "ancestral, half": functools.partial(samplers.DPMpp2SAncestral, eta=0.5),
    "sde": samplers.DPMppSDE,
    "sde, half": functools.partial(samplers.DPMppSDE, eta=0.5),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_weak_order_two_and_strong_order_one(name):
    np.testing.assert_allclose(linear.weak_orders(SOLVERS[name]), 2, atol=0.15)
    np.testing.assert_allclose(linear.strong_orders(SOLVERS[name]), 1, atol=0.3)


@pytest.mark.parametrize("create", [samplers.DPMpp2SAncestral, samplers.DPMppSDE])
def test_without_noise_it_is_dpm_solver_pp_2s(create):
    """Lu et al. 2022b, Algorithm 1 with r = 1/2, in noise levels."""
    levels = linear.karras(6)
    y = linear.trajectory(create(6, eta=0.0), levels)
    expected = linear.starts(levels[0])
    for now, then in itertools.pairwise(levels):
        model, h = linear.Linear([now, np.sqrt(now * then)]), np.log(now / then)
        u = np.exp(-h / 2) * expected - np.expm1(-h / 2) * model.denoised(expected)
        expected = np.exp(-h) * expected - np.expm1(-h) * model.denoised(u, 1)
    np.testing.assert_allclose(y, expected, rtol=1e-9)


@pytest.mark.parametrize("name", ["ancestral", "sde", "sde, half"])
def test_a_single_data_point_is_reached_alike_in_any_number_of_steps(name):
    few, many = (linear.trajectory(SOLVERS[name](n), linear.karras(n), std=0.0) for n in (3, 8))
    np.testing.assert_allclose(few, many, rtol=1e-9)


def test_the_middle_of_a_step_is_refused_at_its_ends():
    with pytest.raises(ValueError, match=r"r is 1.0: it must lie strictly between 0 and 1"):
        samplers.DPMppSDE(r=1.0)
    with pytest.raises(ValueError, match=r"eta is -0.5: it must be in \[0, 10\]"):
        samplers.DPMppSDE(eta=-0.5)
