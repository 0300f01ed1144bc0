import jax
import jax.numpy as jnp
import numpy as np

from sde_lib.multistep import solve_even

Y0 = np.float32([[1.0], [2.0], [3.0]])


@jax.jit
def linear(rates, y0, n_steps):
    """dy/dt = rates y on [0, 1], for any number of steps."""
    return solve_even(lambda t, y: rates * y, y0, 0.0, 1.0, n_steps)


def test_the_error_falls_as_the_third_power_and_is_less_than_the_difference():
    rates = np.float32([[0.5], [-3], [0]])
    exact = Y0 * np.exp(rates)
    found = {n: linear(rates, Y0, n) for n in (16, 32, 64)}
    errors = {n: np.abs(fine - exact).max() for n, (fine, _) in found.items()}
    assert 6 < errors[16] / errors[32] < 12
    assert 6 < errors[32] / errors[64] < 12
    for n, (fine, coarse) in found.items():
        assert errors[n] < np.abs(fine - coarse).max()


def test_a_cubic_integrand_is_exact_but_for_the_first_steps_both_ways():
    """The start is of lower order; a field that is 0 there has no such error."""

    def field(t, y):
        return 3 * t[:, None] ** 2 * jnp.ones_like(y)

    for start, end in ((0.0, 2.0), (2.0, 0.0)):
        fine, _ = solve_even(field, np.zeros((2, 1), "f4"), start, end, 20)
        np.testing.assert_allclose(fine, end**3 - start**3, rtol=2e-4)


def test_fluctuations_in_time_average_out():
    """A field of random signs: the error is that of the mean of as many random numbers."""
    signs = jnp.asarray(np.random.default_rng(0).choice([-1.0, 1.0], (200, 400)), jnp.float32)

    def field(t, y):
        return signs[:, jnp.round(t[0] * 398).astype(int)][:, None]

    fine, _ = solve_even(field, jnp.zeros((200, 1)), 0.0, 1.0, 398)
    assert 0.8 < np.std(fine) * np.sqrt(398) < 1.2


def test_evaluations_are_one_a_step_and_one():
    calls = []

    def field(t, y):
        jax.debug.callback(lambda: calls.append(1))
        return -y

    jax.block_until_ready(jax.jit(lambda y: solve_even(field, y, 0.0, 1.0, 8))(Y0))
    jax.effects_barrier()
    assert len(calls) == 9
