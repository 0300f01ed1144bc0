import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import solve_ode


@jax.jit
def linear(rates, y0, t0, t1, path_times):
    """dy/dt = rates y, compiled once for all tests."""
    return solve_ode(lambda t, y: rates * y, y0, t0, t1, path_times=path_times)


Y0, TIMES = np.float32([[1], [2], [3]]), np.float32([0.25, 0.5, 1.0])


@pytest.mark.thorough
def test_a_linear_field_is_solved_to_tolerance_both_ways():
    rates = np.float32([[0.5], [-3], [0]])
    forward = linear(rates, Y0, 0.0, 1.0, TIMES)
    np.testing.assert_allclose(forward.y, Y0 * np.exp(rates), rtol=3e-5)
    back = linear(rates, forward.y, 1.0, 0.0, 1 - TIMES)
    np.testing.assert_allclose(back.y, Y0, rtol=1e-4)


@pytest.mark.thorough
def test_nfe_is_the_number_of_evaluations_really_made():
    """The first step of a fast field is tried several times."""
    calls = []

    @jax.jit
    def solve(rate):
        def field(t, y):
            jax.debug.callback(lambda: calls.append(1))
            return -rate * (y - jnp.cos(5 * t)[:, None])

        return solve_ode(field, jnp.ones((2, 1)), 0.0, 2.0)

    for rate in (20.0, 1000.0):
        calls.clear()
        solution = solve(rate)
        jax.effects_barrier()
        assert int(solution.nfe) == len(calls) > 20


@pytest.mark.thorough
def test_a_hard_sample_is_not_hidden_by_easy_ones():
    """One fast sample among 99 at rest gets the accuracy that it would get alone."""

    @jax.jit
    def solve(rates):
        def field(t, y):
            return rates * y + jnp.sin(40 * t)[:, None] * (rates < 0)

        return solve_ode(field, rates + 9, 0, 1)

    rates = np.zeros((100, 1), np.float32)
    rates[0] = -8
    together, alone = solve(rates), solve(np.full_like(rates, -8))  # all alike: as one alone
    assert int(together.nfe) == int(alone.nfe)
    np.testing.assert_allclose(together.y[0], alone.y[0], rtol=1e-6)


@pytest.mark.thorough
def test_path_is_recorded_on_the_way():
    times = np.float32([0.75, 0.5, 0.0])
    solution = linear(np.full((3, 1), -1, np.float32), np.ones_like(Y0), 1.0, 0.0, times)
    np.testing.assert_allclose(solution.path[:, 0, 0], np.exp(1 - times), rtol=1e-4)
    np.testing.assert_array_equal(solution.path[-1], solution.y)


@pytest.mark.thorough
def test_a_failed_solve_gives_nan():
    """The field of one sample is not finite: the solve fails for the whole batch."""
    rates = np.float32([[0.5], [np.nan], [0]])
    assert jnp.isnan(linear(rates, Y0, 0.0, 1.0, TIMES).y).all()


def test_tolerances_are_checked():
    with pytest.raises(ValueError, match=r"rtol is 0\.0: it must be positive"):
        solve_ode(lambda t, y: y, jnp.ones((1, 1)), 0.0, 1.0, rtol=0.0)


@pytest.mark.thorough
def test_derivatives_both_ways_are_those_of_the_solution():
    """Of dy/dt = rate y, y' by the rate is y; by the start and the tolerances likewise."""

    def end(rate, y0, rtol):
        return jnp.sum(solve_ode(lambda t, y: rate * y, y0 * Y0, 0.0, 1.0, rtol).y)

    at = jnp.array(-0.5), jnp.array(1.0), jnp.array(1e-5)
    exact = np.sum(Y0) * np.exp(-0.5)
    by_rate, by_start, by_tolerance = jax.jit(jax.grad(end, (0, 1, 2)))(*at)
    np.testing.assert_allclose([by_rate, by_start], exact, rtol=1e-4)
    assert np.isfinite(by_tolerance)
    forward = jax.jit(lambda *at: jax.jvp(end, at, (1.0, 0.0, 0.0))[1])(*at)
    np.testing.assert_allclose(forward, by_rate, rtol=1e-5)


@pytest.mark.thorough
def test_float64_is_solved_in_float64():
    with jax.enable_x64(True):
        solution = solve_ode(lambda t, y: -y, np.ones((2, 1)), 0.0, 1.0, 1e-12, 1e-12)
        assert solution.y.dtype == np.float64
        np.testing.assert_allclose(solution.y, np.exp(-1), rtol=1e-10)
    with pytest.raises(ValueError, match="1e-12, which float32 cannot reach"):
        solve_ode(lambda t, y: -y, np.ones((2, 1)), 0.0, 1.0, 1e-12)
