import functools
import itertools

import linear
import numpy as np
import pytest

import samplers


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_weak_order_two_and_strong_order_one(eta):
    create = functools.partial(samplers.DPM2Ancestral, eta=eta)
    np.testing.assert_allclose(linear.weak_orders(create), 2, atol=0.05)
    np.testing.assert_allclose(linear.strong_orders(create), 1, atol=0.3)


def test_without_noise_it_is_dpm_solver_2():
    """Lu et al. 2022a, Eq. 4.1 in noise levels: the slope at the geometric mean of the levels."""
    levels = linear.karras(6)
    y = linear.trajectory(samplers.DPM2Ancestral(6, eta=0.0), levels)
    expected = linear.starts(levels[0])
    for now, then in itertools.pairwise(levels):
        model = linear.Linear([now, np.sqrt(now * then)])
        middle = expected + (model.level[1] - now) * model.noise(expected)
        expected = expected + (then - now) * model.noise(middle, 1)
    np.testing.assert_allclose(y, expected, rtol=1e-9)


def test_a_single_data_point_is_reached_alike_in_any_number_of_steps():
    few, many = (
        linear.trajectory(samplers.DPM2Ancestral(n), linear.karras(n), std=0.0) for n in (3, 8)
    )
    np.testing.assert_allclose(few, many, rtol=1e-9)
