"""Long loops, which can be run in segments: the same program, some of its steps at a time.

Samplers and likelihoods run their steps by fori_loop or while_loop of this module. `cut` divides a
function at these loops: one part makes the first state of the next loop, or the function's result
after the last one, and another takes a state some steps on. Between two segments the state stays on
the device, and Python can show how far the loop is.
"""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import get_opaque_trace_state

_CUT: ContextVar[tuple[Callable, Any] | None] = ContextVar("_CUT", default=None)


class Segment(NamedTuple):
    """A loop between two of its segments.

    Attributes:
        state: the loop's state.
        unfinished: true while steps are left.
        share: the share of the steps that are done, of those that are known.
    """

    state: Any
    unfinished: Any
    share: Any


class Parts(NamedTuple):
    """A function that is cut at its loops; see `cut`."""

    begin: Callable
    advance: Callable


def fori_loop(n_steps: int, step: Callable[[Any, Any], Any], state: Any) -> Any:
    """jax.lax.fori_loop from 0 to n_steps, a Python number, that `cut` can divide."""
    if not is_cut():
        return jax.lax.fori_loop(0, n_steps, step, state)
    return while_loop(
        lambda carry: carry[0] < n_steps,
        lambda carry: (carry[0] + 1, step(*carry)),
        (jnp.asarray(0), state),
        lambda carry: carry[0] / n_steps,
    )[1]


def while_loop(unfinished: Callable, step: Callable, state: Any, share: Callable) -> Any:
    """jax.lax.while_loop that `cut` can divide.

    Args:
        unfinished: function of the state that is true while steps are left.
        step: function from state to state.
        state: pytree of arrays.
        share: function of the state that gives the share of the steps that are done.
    """
    known = _CUT.get()
    if known is None or not is_cut():
        return jax.lax.while_loop(unfinished, step, state)
    return known[0](unfinished, step, state, share)


def is_cut() -> bool:
    """True where the next loop would be cut: it has no derivatives then.

    That is in a function that `cut` divides, but not inside of another transformation there, such
    as jax.vmap or jax.lax.scan.
    """
    known = _CUT.get()
    return known is not None and known[1] == get_opaque_trace_state()


def cut(fn: Callable) -> Parts:
    """The function fn(*args) in two parts, divided at the loops of this module.

    begin(ended, *args) is the Segment before the first step of the next loop, where `ended` are the
    last states of the loops before it, a tuple; after all loops it is fn(*args).
    advance(ended, state, n_steps, *args) is the Segment at most n_steps after a state of that loop.
    """

    def begin(ended: tuple, *args: Any) -> Any:
        def loop(unfinished, step, state, share):
            typed = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), state)
            raise _ReachedError(Segment(typed, unfinished(typed), share(typed)))

        return _run(loop, ended, fn, args)

    def advance(ended: tuple, state: Any, n_steps: Any, *args: Any) -> Segment:
        def loop(unfinished, step, first, share):
            del first
            _, last = jax.lax.while_loop(
                lambda carry: (carry[0] < n_steps) & unfinished(carry[1]),
                lambda carry: (carry[0] + 1, step(carry[1])),
                (jnp.asarray(0), state),
            )
            raise _ReachedError(Segment(last, unfinished(last), share(last)))

        return _run(loop, ended, fn, args)

    return Parts(begin, advance)


def count(fn: Callable, *args: Any) -> int:
    """The number of loops at which `cut` divides fn(*args)."""
    found = 0

    def loop(unfinished, step, state, share):
        nonlocal found
        found += 1
        return state

    jax.eval_shape(lambda *args: _run(loop, (), fn, args), *args)
    return found


class _ReachedError(Exception):
    """The loop was reached: the rest of the function is of no interest."""

    def __init__(self, segment: Segment):
        self.segment = segment


def _run(loop: Callable, ended: tuple, fn: Callable, args: tuple) -> Any:
    """fn(*args), or the Segment that `loop` raises, called at each loop after those that ended."""
    left = iter(ended)

    def next_loop(*about: Any) -> Any:
        state = next(left, None)
        return loop(*about) if state is None else state

    token = _CUT.set((next_loop, get_opaque_trace_state()))
    try:
        return fn(*args)
    except _ReachedError as reached:
        return reached.segment
    finally:
        _CUT.reset(token)
