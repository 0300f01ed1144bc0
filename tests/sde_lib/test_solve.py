import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import solve_ode


def test_a_linear_field_is_solved_to_tolerance_both_ways():
    rates = jnp.array([[0.5], [-3.0], [0.0]])
    y0 = jnp.array([[1.0], [2.0], [3.0]])
    forward = solve_ode(lambda t, y: rates * y, y0, 0.0, 1.0)
    np.testing.assert_allclose(forward.y, y0 * jnp.exp(rates), rtol=3e-5)
    back = solve_ode(lambda t, y: rates * y, forward.y, 1.0, 0.0)
    np.testing.assert_allclose(back.y, y0, rtol=1e-4)


@pytest.mark.parametrize("rate", [20, 1000])
def test_nfe_is_the_number_of_evaluations_really_made(rate):
    """Of a fast field the first step is tried several times."""
    calls = []

    def field(t, y):
        jax.debug.callback(lambda: calls.append(1))
        return -rate * (y - jnp.cos(5 * t)[:, None])

    solution = jax.jit(lambda y: solve_ode(field, y, 0.0, 2.0))(jnp.ones((2, 1)))
    jax.effects_barrier()
    assert int(solution.nfe) == len(calls) > 20


def test_a_hard_sample_is_not_hidden_by_easy_ones():
    """One fast sample among 99 at rest gets the accuracy that it would get alone."""
    rates = jnp.zeros((100, 1)).at[0].set(-8.0)
    y = solve_ode(lambda t, y: rates * y + jnp.sin(40 * t)[:, None] * (rates < 0), rates + 9, 0, 1)
    alone = solve_ode(lambda t, y: -8 * y + jnp.sin(40 * t)[:, None], jnp.ones((1, 1)), 0, 1)
    assert int(y.nfe) == int(alone.nfe)
    np.testing.assert_allclose(y.y[0], alone.y[0], rtol=1e-6)


def test_path_is_recorded_on_the_way():
    times = jnp.array([0.75, 0.5, 0.0])
    solution = solve_ode(lambda t, y: -y, jnp.ones((1, 1)), 1.0, 0.0, path_times=times)
    np.testing.assert_allclose(solution.path[:, 0, 0], jnp.exp(1 - times), rtol=1e-4)
    np.testing.assert_array_equal(solution.path[-1], solution.y)


def test_a_failed_solve_gives_nan():
    solution = solve_ode(lambda t, y: jnp.full_like(y, jnp.nan), jnp.ones((1, 1)), 0.0, 1.0)
    assert jnp.isnan(solution.y).all()


def test_tolerances_are_checked():
    with pytest.raises(ValueError, match="tolerances must be positive"):
        solve_ode(lambda t, y: y, jnp.ones((1, 1)), 0.0, 1.0, rtol=0.0)
