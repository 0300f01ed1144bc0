"""Derivatives, forwards and backwards, of loops whose number of steps is not known in advance.

JAX differentiates such a loop forwards alone (jax.jvp). A loop with checkpoints is differentiated
backwards alone (jax.grad): it keeps about sqrt(2 MAX_STEPS) states, and computes the others again.
Here one function has the derivatives of both: each is computed by the loop that can.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import diffrax
import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import numpy as np

from sde_lib import loops

SECOND = (
    "second derivatives through an adaptive solver are not supported: take a sampler of a fixed "
    "number of steps, such as 'heun'"
)


def both_ways(value: Callable, forward: Callable, backward: Callable, *args: Any) -> Any:
    """value(*args), with the derivatives of forward(result, *args) and backward(result, *args).

    Those return what `value` does, given its result. `forward` must be differentiable by jax.jvp,
    `backward` by jax.vjp. A derivative takes one more evaluation of the function than the loop
    alone, and there are no second ones. Where the loop is cut (loops.cut) there are none at all.

    Args:
        value: the function. It must not depend on traced arrays other than its arguments;
            `hoisted` makes arguments of those that a function refers to.
        forward: see above; backward: likewise.
        *args: pytrees. The derivatives are by their arrays of floats.
    """
    if loops.is_cut():
        return value(*args)
    floats, others = eqx.partition(args, eqx.is_inexact_array)

    def of_floats(fn: Callable) -> Callable:
        return lambda *known, floats: fn(*known, *eqx.combine(floats, others))

    return _both_ways(tuple(map(of_floats, (value, forward, backward))), floats)


def of_loop(solve: Callable, *args: Any) -> Any:
    """solve(backward, *args) with the derivatives of both_ways.

    With `backward` it is by `while_loop`, without by jax.lax.while_loop or that of sde_lib.loops.
    """
    forward, backward = (lambda _, *args, way=way: solve(way, *args) for way in (False, True))
    return both_ways(partial(solve, False), forward, backward, *args)


class _Cuttable(diffrax.AbstractAdjoint):
    """The loop of a solution by diffrax as one that `loops.cut` can divide, without derivatives."""

    def loop(
        self, *, throw: Any, passed_solver_state: Any, passed_controller_state: Any, **about: Any
    ) -> Any:
        del throw, passed_solver_state, passed_controller_state
        t0, t1, most = about["t0"], about["t1"], about["max_steps"]

        def outer(unfinished: Callable, step: Callable, state: Any, **_: Any) -> Any:
            return loops.while_loop(
                lambda state: unfinished(state) & (state.num_steps < most),
                step,
                state,
                lambda state: (state.tprev - t0) / (t1 - t0),
            )

        inner = partial(eqxi.while_loop, kind="lax")
        return self._loop(inner_while_loop=inner, outer_while_loop=outer, **about)


def of_diffrax(solve: Callable, *args: Any) -> Any:
    """solve(diffeqsolve, *args), a solution by diffrax, with the derivatives of both_ways.

    `loops.cut` can divide the loop, outside of the jax.jit that diffrax puts around diffeqsolve.
    The share that is done is that of the interval of time.
    """
    whole = partial(inspect.unwrap(diffrax.diffeqsolve), adjoint=_Cuttable())
    adjoints = diffrax.ForwardMode(), diffrax.RecursiveCheckpointAdjoint()
    by = (partial(diffrax.diffeqsolve, adjoint=adjoint) for adjoint in adjoints)
    ways = (lambda _, *args, each=each: solve(each, *args) for each in by)
    return both_ways(partial(solve, whole), *ways, *args)


def hoisted(fn: Callable, *example: Any) -> tuple[Callable, list[Any]]:
    """The function fn(*example, *values), and the differentiable arrays that `fn` refers to.

    There are no such values where the loop is cut.
    """
    if loops.is_cut():
        return fn, []
    return jax.closure_convert(fn, *jax.tree.map(jnp.asarray, example))


def while_loop(cond: Callable, body: Callable, state: Any, most: int) -> Any:
    """jax.lax.while_loop of at most `most` steps, which jax.vjp can differentiate."""
    return eqxi.while_loop(cond, body, state, max_steps=most, kind="checkpointed")


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _both_ways(functions: tuple[Callable, Callable, Callable], floats: Any) -> Any:
    return functions[0](floats=floats)


@_both_ways.defjvp
def _derivative(functions: Any, primals: Any, tangents: Any) -> tuple[Any, Any]:
    (floats,), (directions,) = jax.tree.map(jnp.asarray, (primals, tangents))
    result = _both_ways(functions, floats)
    fixed, known = eqxi.nondifferentiable((floats, result), msg=SECOND)
    forward, backward = (lambda x, fn=fn: _floats(fn(known, floats=x)) for fn in functions[1:])

    def push(directions: Any) -> Any:
        return jax.jvp(forward, (fixed,), (directions,))[1]

    def pull(cotangents: Any) -> Any:
        return jax.vjp(backward, fixed)[1](cotangents)[0]

    moved = iter(_linear(push, pull, directions, jax.tree.map(jnp.zeros_like, _floats(result))))
    none = lambda leaf: np.zeros(jnp.shape(leaf), jax.dtypes.float0)  # noqa: E731
    return result, jax.tree.map(lambda a: next(moved) if _is_float(a) else none(a), result)


def _linear(push: Callable, pull: Callable, x: Any, zero: Any) -> Any:
    """push(x), a linear function of x with values like `zero`, whose transpose is `pull`.

    JAX makes the transpose itself for all linear functions but solutions of linear equations. So
    this is the solution of the equation v = (x, zero) by a "solver" that returns (0, push(x)).
    """
    none = jax.tree.map(jnp.zeros_like, x)
    # JAX asks that all of the right side depends on x where a part of x does.
    nothing = jnp.asarray(sum(0 * jnp.sum(jnp.ravel(leaf)[:1]) for leaf in jax.tree.leaves(x)))
    x, zero = jax.tree.map(lambda leaf: leaf + nothing.astype(leaf.dtype), (x, zero))
    return jax.lax.custom_linear_solve(
        lambda v: v,
        (x, zero),
        lambda _, v: (none, push(v[0])),
        lambda _, v: (pull(v[1]), jax.tree.map(jnp.zeros_like, v[1])),
    )[1]


def _floats(tree: Any) -> list[Any]:
    """The leaves that are floats."""
    return [leaf for leaf in jax.tree.leaves(tree) if _is_float(leaf)]


def _is_float(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
