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
    """fn(*args) by compiled parts, and the shares that are done after each segment."""
    start, advance, finish = map(jax.jit, loops.cut(fn))
    segment, shares = start(*args), []
    while segment.unfinished:
        segment = advance(segment.state, n_steps, *args)
        shares.append(float(segment.share))
    return finish(segment.state, *args), shares


@pytest.mark.parametrize("fn", [fixed, until])
@pytest.mark.parametrize("n_steps", [1, 4, 100])
def test_segments_give_the_same_bits_as_one_loop(fn, n_steps):
    made, shares = in_segments(fn, n_steps, X)
    np.testing.assert_array_equal(made, jax.jit(fn)(X))
    assert shares == sorted(shares)
    assert shares[-1] >= 1


def test_the_share_is_that_of_the_steps():
    assert in_segments(fixed, 4, X)[1] == pytest.approx([0.4, 0.8, 1])


def test_a_function_without_a_loop_is_all_start():
    assert loops.cut(lambda x: x + 1)[0](1) == 2


def test_steps_after_the_last_one_change_nothing():
    start, advance, _ = loops.cut(fixed)
    last = advance(start(X).state, N_STEPS, X)
    np.testing.assert_array_equal(advance(last.state, 5, X).state[1], last.state[1])


def test_loops_inside_of_another_transformation_stay_whole():
    def nested(x):
        rows = jax.vmap(lambda row: loops.fori_loop(5, lambda k, y: 1.1 * y + k, row))(x)
        return fixed(rows)

    made, shares = in_segments(nested, 5, X)
    np.testing.assert_array_equal(made, jax.jit(nested)(X))
    assert shares == pytest.approx([0.5, 1])


def test_a_loop_that_is_not_cut_has_derivatives():
    slope = jax.grad(lambda x: jnp.sum(fixed(x)))(X)
    directions = np.ones_like(X)
    along = jax.jvp(lambda x: jnp.sum(fixed(x)), (X,), (directions,))[1]
    assert float(jnp.sum(slope)) == pytest.approx(float(along), rel=1e-5)
    assert not loops.is_cut()
