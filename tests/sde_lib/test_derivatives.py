import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import derivatives


def power(a, x, most=20):
    """x times a, until it is above 100: a loop whose number of steps depends on the numbers."""

    def solve(backward, a, x):
        about = (lambda carry: carry[0] < 100), (lambda carry: (carry[0] * a, carry[1] + 1))
        state = x, jnp.asarray(0)
        if backward:
            return derivatives.while_loop(*about, state, most)
        return jax.lax.while_loop(*about, state)

    return derivatives.of_loop(solve, a, x)


def value(a, x):
    return power(a, x)[0]


@pytest.mark.thorough
def test_a_loop_of_unknown_length_has_derivatives_both_ways():
    """3 * 2^6 = 192: by a it is 6 * 3 * 2^5, by x 2^6. Also of batches of numbers."""
    a, x = jnp.float32(2), jnp.float32(3)
    assert [float(v) for v in power(a, x)] == [192, 6]
    assert [float(v) for v in jax.jit(jax.grad(value, (0, 1)))(a, x)] == [576, 64]
    (_, moved), (rate, none) = jax.jvp(power, (a, x), (jnp.float32(1), jnp.float32(0)))
    assert (float(rate), int(moved), none.dtype) == (576, 6, jax.dtypes.float0)
    several = jnp.array([2.0, 5.0])
    np.testing.assert_array_equal(jax.vmap(jax.grad(value), (0, None))(several, x), [576, 225])
    slopes = jax.jacfwd(lambda a: jax.vmap(value)(a, 3 + 0 * a))(several)
    np.testing.assert_array_equal(slopes, [[576, 0], [0, 225]])


@pytest.mark.thorough
def test_numbers_and_arrays_that_are_referred_to_are_known():
    a = 2.0  # not traced
    assert float(jax.grad(lambda x: value(a, x))(jnp.float32(3))) == 64
    fn, found = derivatives.hoisted(lambda x: a * x, 1.0)
    assert (float(fn(jnp.float32(3), *found)), found) == (6, [])

    def of(b):
        fn, found = derivatives.hoisted(lambda x: b * x, 1.0)
        return fn(jnp.float32(3), *found) * len(found)

    assert float(jax.grad(of)(2.0)) == 3


def test_second_derivatives_are_refused():
    with pytest.raises(Exception, match="second derivatives through an adaptive solver"):
        jax.grad(jax.grad(value))(jnp.float32(2), jnp.float32(3))
