import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import loops

N_STEPS = 10
X = np.linspace(-1, 1, 6, dtype="f4")


def fixed(x):
    """Ten steps, after some work and before some more."""

    def step(k, y):
        return jnp.tanh(1.5 * y) + 0.01 * k

    return jnp.cumsum(loops.fori_loop(N_STEPS, step, 3 * x))


def until(x):
    """Steps until a sum is large, then a second loop."""
    total = loops.while_loop(
        lambda y: jnp.sum(y) < 50, lambda y: 1.2 * y, jnp.exp(x), lambda y: jnp.sum(y) / 50
    )
    return loops.fori_loop(3, lambda k, y: y + k, total)


def in_segments(fn, n_steps, *args):
    """fn(*args) by compiled parts, and the shares of each loop that are done after a segment."""
    begin, advance = map(jax.jit, loops.cut(fn))
    ended, shares = (), []
    while isinstance(segment := begin(ended, *args), loops.Segment):
        shares.append([])
        while segment.unfinished:
            segment = advance(ended, segment.state, n_steps, *args)
            shares[-1].append(float(segment.share))
        ended += (segment.state,)
    return segment, shares


@pytest.mark.parametrize("fn", [fixed, until])
@pytest.mark.parametrize("n_steps", [1, 4, 100])
def test_segments_give_the_same_bits_as_whole_loops(fn, n_steps):
    made, shares = in_segments(fn, n_steps, X)
    np.testing.assert_array_equal(made, jax.jit(fn)(X))
    assert len(shares) == loops.count(fn, X)
    for loop in shares:
        assert loop == sorted(loop)
        assert loop[-1] >= 1


def test_the_share_is_that_of_the_steps():
    (shares,) = in_segments(fixed, 4, X)[1]
    assert shares == pytest.approx([0.4, 0.8, 1])


def test_a_function_without_a_loop_is_not_divided():
    assert loops.cut(lambda x: x + 1).begin((), 1) == 2
    assert loops.count(lambda x: x + 1, 1) == 0


def test_a_function_of_two_loops_has_two_parts():
    assert (loops.count(fixed, X), loops.count(until, X)) == (1, 2)


def test_steps_after_the_last_one_change_nothing():
    begin, advance = loops.cut(fixed)
    last = advance((), begin((), X).state, N_STEPS, X)
    np.testing.assert_array_equal(advance((), last.state, 5, X).state[1], last.state[1])


def test_loops_inside_of_another_transformation_stay_whole():
    def nested(x):
        rows = jax.vmap(lambda row: loops.fori_loop(5, lambda k, y: 1.1 * y + k, row))(x)
        return fixed(rows)

    made, (shares,) = in_segments(nested, 5, X)
    np.testing.assert_array_equal(made, jax.jit(nested)(X))
    assert shares == pytest.approx([0.5, 1])


def test_a_loop_that_is_not_cut_has_derivatives():
    slope = jax.grad(lambda x: jnp.sum(fixed(x)))(X)
    directions = np.ones_like(X)
    along = jax.jvp(lambda x: jnp.sum(fixed(x)), (X,), (directions,))[1]
    assert float(jnp.sum(slope)) == pytest.approx(float(along), rel=1e-5)
    assert not loops.is_cut()
