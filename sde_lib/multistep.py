"""Adams' multistep method on an even grid, with a second solution that tells its error.

The Adams-Bashforth formula predicts the next point, the field is evaluated there, and the
Adams-Moulton formula corrects the step by it (both of third order; Hairer et al. 1993, Section
III.1): one evaluation a step. In the result every evaluation has the weight h of a step, except at
the ends. So the errors of a field that fluctuates in time, such as a network with a rough
embedding of time, average out. The weights of a Runge-Kutta pair have both signs, and multiply them
instead: the sum of their squares is 18 for Tsitouras' 5(4), and 1 / 6 for six even weights.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from sde_lib import derivatives

# Weights of the field at past points, the newest first. The rows are of the first, second, ...
# step, for which fewer points are known; row 0 is of the start, which only evaluates the field.
PREDICTOR = np.array([[0, 0, 0], [1, 0, 0], [3 / 2, -1 / 2, 0], [23 / 12, -16 / 12, 5 / 12]])
CORRECTOR = np.array([[0, 0, 0], [1 / 2, 1 / 2, 0], [5 / 12, 8 / 12, -1 / 12]])
MOST_STEPS = 1 << 12
State = PyTree[Float[Array, "batch ..."]]


def solve_even(
    field: Callable[[Array, Any], Any],
    y0: State,
    t0: float | Array,
    t1: float | Array,
    n_steps: int | Array,
    backward: bool = False,
) -> tuple[State, State]:
    """Integrates dy/dt = field(t, y), with t of shape [B], by n_steps + 1 evaluations of the field.

    Args:
        field: function that returns dy/dt, a pytree like y.
        y0: pytree of arrays [B, ...].
        t0: time of y0; t1, the final time, may be before or after it.
        n_steps: an even number, which may be traced.
        backward: make a program for jax.vjp, of at most MOST_STEPS steps.

    Returns:
        y at t1, and y by every second of the same evaluations, in steps of twice the size. Where
        the error falls with the steps, it is less than the difference of the two.
    """
    step, start = even_steps(field, y0, t0, t1, n_steps)
    if not backward:
        return jax.lax.fori_loop(0, n_steps + 1, step, start)[:2]
    unfinished = lambda carry: carry[0] <= n_steps  # noqa: E731
    counted = lambda carry: (carry[0] + 1, step(*carry))  # noqa: E731
    about = unfinished, counted, (jnp.asarray(0), start), MOST_STEPS + 1
    return derivatives.while_loop(*about)[1][:2]


def even_steps(
    field: Callable[[Array, Any], Any],
    y0: State,
    t0: float | Array,
    t1: float | Array,
    n_steps: int | Array,
) -> tuple[Callable[[Array, Any], Any], Any]:
    """The step of solve_even, a function of its index and the state, and the first state.

    A state begins with the two solutions. After step n_steps they are those of solve_even.
    """
    batch, h = len(jax.tree.leaves(y0)[0]), (t1 - t0) / n_steps

    def step(i, carry):
        y, coarse, past = carry
        t = jnp.where(i == n_steps, t1, t0 + i * h)
        new = field(jnp.full(batch, t), _add(y, h, _row(PREDICTOR, i), past))
        points = new, *past
        y = _add(y, h, _row(CORRECTOR, i), points)
        every_second = jnp.where(i % 2 == 0, 2 * h, 0.0)
        coarse = _add(coarse, every_second, _row(CORRECTOR, i // 2), points[::2])
        return y, coarse, points[:4]

    nothing = jax.tree.map(jnp.zeros_like, y0)
    return step, (y0, y0, (nothing,) * 4)


def _row(weights: Float[np.ndarray, "rows 3"], i: Int[Array, ""]) -> Float[Array, "3"]:
    return jnp.asarray(weights, float)[jnp.minimum(i, len(weights) - 1)]


def _add(y: State, h: Any, weights: Float[Array, "3"], points: Sequence[State]) -> State:
    """y + h times the weighted sum of the first three points."""

    def add(y, *values):
        return y + h * sum(w * value for w, value in zip(weights, values, strict=True))

    return jax.tree.map(add, y, *points[:3])
