"""Adaptive ODE solver (Tsitouras 5(4)) for probability-flow sampling and likelihoods."""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from sde_lib import derivatives
from sde_lib.batch import as_float
from sde_lib.checks import check_tolerance

MAX_STEPS = 10_000
SMALLEST_STEP = 1e-8  # fraction of |t1 - t0|; a non-finite field reaches it in a dozen tries


class _CountingController(diffrax.PIDController):
    """PID controller that also counts the tries of the first step.

    Each of them costs one evaluation more than a later try: field(t0).
    """

    def init(self, *args):  # pyright: ignore
        step, state = super().init(*args)
        return step, (state, jnp.array(True), jnp.array(0))

    def adapt_step_size(self, *args):  # pyright: ignore
        *args, (state, first, tries) = args
        keep, t0, t1, made_jump, state, result = super().adapt_step_size(*args, state)  # pyright: ignore
        return keep, t0, t1, made_jump, (state, first & ~keep, tries + first), result


class Solution(NamedTuple):
    """Result of solve_ode.

    Attributes:
        y: the state at t1, a pytree like y0; NaN if the solve failed.
        path: the states at path_times, [times, B, ...]; no times without path_times, and all NaN if
            the solve failed.
        nfe: number of evaluations of the field.
    """

    y: Any
    path: Any
    nfe: Int[Array, ""]


def solve_ode(
    field: Callable[[Array, Any], Any],
    y0: PyTree[Float[Array, "batch ..."]],
    t0: float,
    t1: float,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    path_times: Float[Array, " times"] | None = None,
    first_step: float = 1e-3,
    proportional: float = 0.0,
) -> Solution:
    """Integrates dy/dt = field(t, y), with t of shape [B], by Tsitouras' 5(4) Runge-Kutta pair.

    The whole batch takes the same steps. The error of a step is the largest root-mean-square error
    of any sample and leaf, so every sample meets the tolerance. A solve that fails (a field that is
    not finite, or more than MAX_STEPS steps) ends early and returns NaN.

    Args:
        field: function that returns dy/dt, a pytree like y.
        y0: pytree of arrays [B, ...].
        t0: time of y0; t1, the final time, may be before or after it.
        rtol: relative tolerance of one step; atol: absolute.
        path_times: times between t0 and t1, in the order of integration, at which to record y.
        first_step: size of the first step tried, as a fraction of t1 - t0.
        proportional: proportional coefficient of the step-size controller; the integral coefficient
            is 1 - proportional. A positive value makes fewer steps be rejected in a rough field.

    Raises:
        ValueError: a tolerance below rounding errors.
    """
    check_tolerance(rtol=rtol, atol=atol)
    y0 = jax.tree.map(lambda y: jnp.asarray(y, float), y0)
    batch = jax.tree.leaves(y0)[0].shape[0]
    times = jnp.atleast_1d(t1) if path_times is None else jnp.append(path_times, t1)
    time = as_float(t0)
    fn, hoisted = derivatives.hoisted(lambda t, y: field(jnp.full(batch, t), y), time, y0)

    def solve(diffeqsolve, y0, t0, t1, times, rtol, atol, hoisted):
        solution = diffeqsolve(
            diffrax.ODETerm(lambda t, y, _: fn(t, y, *hoisted)),
            diffrax.Tsit5(),
            t0,
            t1,
            dt0=first_step * (t1 - t0),
            y0=y0,
            saveat=diffrax.SaveAt(ts=times, controller_state=True),
            stepsize_controller=_CountingController(
                rtol,
                atol,
                pcoeff=proportional,
                icoeff=1 - proportional,
                norm=worst_sample,
                dtmin=SMALLEST_STEP * abs(t1 - t0),
                force_dtmin=False,
            ),
            max_steps=MAX_STEPS,
            throw=False,  # raising from compiled code needs a host callback
        )
        failed = solution.result != diffrax.RESULTS.successful
        path = jax.tree.map(lambda y: jnp.where(failed, jnp.nan, y), solution.ys)
        end, path = jax.tree.map(lambda y: y[-1], path), jax.tree.map(lambda y: y[:-1], path)
        # Six evaluations a tried step: the next one reuses the seventh, which the first step makes.
        _, _, first_tries = solution.controller_state  # pyright: ignore
        return Solution(end, path, first_tries + 6 * solution.stats["num_steps"])

    return derivatives.of_diffrax(solve, y0, t0, t1, times, rtol, atol, hoisted)


def worst_sample(error: PyTree[Float[Array, "batch ..."]]) -> Float[Array, ""]:
    """The norm of a step's error: its root mean square over a sample's values, at its largest."""

    def rms(leaf):
        return jnp.sqrt(jnp.mean(leaf.reshape(leaf.shape[0], -1) ** 2, axis=1))

    return jnp.max(jnp.stack([jnp.max(rms(leaf)) for leaf in jax.tree.leaves(error)]))
