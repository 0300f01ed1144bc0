import numpy as np
import pytest
from flows import denoised, flow, noise, order, run
from scipy.integrate import quad
from scipy.optimize import brentq

import samplers
from samplers.lms import basis_integrals

GRID = (10.0, 6.0, 3.5, 2.0, 1.3, 0.5, 0.1)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_polynomials_are_integrated_exactly_on_an_uneven_grid(order):
    """Degrees are below the order of the step: 0, 1, ... at first, then order - 1."""
    now, then = np.array(GRID[:-1]), np.array(GRID[1:])
    weights = samplers.LMS(6, order=order).plan(now, then).coefficients
    for k in range(6):
        past = now[max(0, k - 3) : k + 1][::-1]
        used = weights[k, : len(past)]
        assert not weights[k, min(k + 1, order) :].any()
        for power in range(min(k + 1, order)):
            exact = (then[k] ** (power + 1) - now[k] ** (power + 1)) / (power + 1)
            assert used @ past**power == pytest.approx(exact, rel=1e-12)


def test_the_coefficients_of_even_steps_are_those_of_adams_and_bashforth():
    now = np.arange(9.0, 4.0, -1)
    weights = samplers.LMS(6, order=4).plan(now, now - 1).coefficients
    np.testing.assert_allclose(weights[-1], -np.array([55, -59, 37, -9]) / 24, rtol=1e-12)


def test_integrals_have_a_kernel():
    """The integrals of e^x and e^x x, on nodes beside the interval."""
    integrals = basis_integrals(np.array([1.0, -1.0]), 0.0, 2.0, np.exp)
    assert integrals.sum() == pytest.approx(np.exp(2) - 1, rel=1e-13)
    assert integrals @ [1, -1] == pytest.approx(np.exp(2) + 1, rel=1e-13)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_deis_integrates_polynomials_in_vp_s_time_exactly(order):
    now, then = np.array(GRID[:-1]), np.array(GRID[1:])
    weights = samplers.DEIS(6, order=order).plan(now, then).coefficients

    def time(level):
        return brentq(lambda t: 0.1 * t + 9.95 * t**2 - np.log1p(level**2), 0, 2, xtol=1e-14)

    for k in range(6):
        past = now[max(0, k - 3) : k + 1][::-1]
        for power in range(min(k + 1, order)):
            exact = quad(lambda level: time(level) ** power, now[k], then[k], epsrel=1e-11)[0]  # noqa: B023
            found = weights[k, : len(past)] @ [time(level) ** power for level in past]
            assert found == pytest.approx(exact, rel=1e-8)


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize(("name", "n"), [("lms", 32), ("deis", 24)])
def test_orders_of_convergence(name, n, k):
    """From n steps to 2 n, where order 4 is still held up by its first steps."""
    assert order(name, n, order=k) == pytest.approx(k, abs=0.15 * k)


def test_it_starts_by_euler_and_ends_by_the_denoised():
    samples = run(samplers.LMS(3, (10.0, 4.0, 1.0), order=2))
    assert samples.nfe == 3
    y = first = flow()[0]
    y = y + (4 - 10) * noise(first, 10)
    # Integrals of the line through noises at 10 and 4, from 4 to 1.
    y = y + (-3 - 0.75) * noise(y, 4) + 0.75 * noise(first, 10)
    np.testing.assert_allclose(samples.x, denoised(y, 1), atol=1e-5)


@pytest.mark.thorough
def test_ancestral_steps_are_euler_s_with_order_1_and_lms_s_without_noise():
    same = ((samplers.LMSAncestral(5, order=1), samplers.EulerAncestral(5)),)
    same += ((samplers.LMSAncestral(5, order=3, eta=0.0), samplers.LMS(5, order=3)),)
    for ours, other in same:
        np.testing.assert_allclose(run(ours).x, run(other).x, rtol=1e-5, atol=1e-6)
    assert np.abs(run(samplers.LMSAncestral(5, order=3)).x - run(same[0][1]).x).max() > 1e-3


def test_orders_are_checked():
    for k in (0, 5):
        with pytest.raises(ValueError, match=f"order is {k}: it must be one of 1, 2, 3, 4"):
            samplers.LMS(order=k)
    with pytest.raises(ValueError, match="n_steps is 3: it must be at least 5"):
        samplers.LMS(3)
