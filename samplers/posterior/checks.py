"""Checks of operators and measurements, before anything is compiled."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from samplers.base import Scores
from sde_lib import SDE, ScoreFn, check_score_fn
from sde_lib.batch import Batch
from sde_lib.checks import check_in, known

Operator = Callable[[Array], Array]
"""An operator on a batch, [B, ...] -> [B, ...], which acts on each sample separately."""

TOLERANCE = 1e-3  # of linearity, relative to the operator's values: float32 sums many numbers


def as_measurement(sde: SDE, y: Any, noise_std: float, needs_noise: bool) -> Batch:
    """The measurement y as an array of floats.

    Args:
        sde: the forward SDE.
        y: the measurement.
        noise_std: standard deviation of its noise.
        needs_noise: the method divides by noise_std.

    Raises:
        ValueError: a noise_std that is negative, or 0 for a method that divides by it, a y that is
            not of finite numbers, or an SDE with more than one noise level.
    """
    check_in("[0, inf)", noise_std=noise_std)
    if needs_noise and known(noise_std) and noise_std == 0:
        raise ValueError(
            "noise_std is 0, and this method divides by it: give the standard deviation of the "
            "measurement's noise, or take a method for exact measurements, such as moment_matching"
        )
    if not sde.is_scalar:
        raise ValueError(
            f"the SDE {type(sde).__name__} has states that are more than the data: measurements "
            "need another SDE, such as VP or VE"
        )
    if known(y) and np.iscomplexobj(y):
        raise ValueError("y is complex: give its real and imaginary parts, as the operator does")
    if known(y) and not np.isfinite(y).all():
        raise ValueError("y has values that are not finite: leave them out by the operator's mask")
    return jnp.asarray(y, jnp.result_type(float))


def one_score(score_fn: Scores, shape: Sequence[int]) -> ScoreFn:
    """The score function. Raises ValueError for a tuple, or for another shape than that of x."""
    check_score_fn(score_fn, shape)
    return score_fn  # pyright: ignore[reportReturnType]


def check_operator(operator: Operator, shape: Sequence[int], y: Batch) -> None:
    """Raises ValueError for an operator that fits neither x of this shape, nor y, nor gradients.

    Shapes and types are found by tracing. Then it is tried on random numbers, unless it depends on
    arrays that are traced.
    """
    shape = tuple(shape)
    x = jax.ShapeDtypeStruct(shape, jnp.result_type(float))
    try:
        seen = jax.eval_shape(operator, x)
    except jax.errors.JAXTypeError as error:
        raise ValueError(
            "operator cannot be differentiated: it makes numpy arrays or Python numbers of x; "
            f"write it with jax.numpy ({type(error).__name__})"
        ) from error
    except TypeError as error:  # shapes that do not fit, in JAX
        raise ValueError(f"operator fails for x of {shape}: {error}") from error
    _check_output(seen, shape, y)
    try:
        jax.eval_shape(lambda x: jax.vjp(operator, x)[1](operator(x)), x)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(f"operator cannot be differentiated by JAX: {error}") from error
    _try(operator, shape)


def _check_output(seen: Any, shape: tuple[int, ...], y: Batch) -> None:
    """Raises ValueError for an output of the operator that is no measurement of x or not like y."""
    if not isinstance(seen, jax.ShapeDtypeStruct):
        raise ValueError(f"operator returns a {type(seen).__name__}: it must return one array")
    if seen.shape[:1] != shape[:1]:
        raise ValueError(
            f"operator changes the batch: x of {shape} gives {seen.shape}; it must keep the first "
            f"axis, {shape[0]}"
        )
    if jnp.issubdtype(seen.dtype, jnp.complexfloating):
        raise ValueError(
            "operator returns complex numbers: stack their real and imaginary parts, as "
            "measurement.fourier does"
        )
    if not jnp.issubdtype(seen.dtype, jnp.floating):
        raise ValueError(
            f"operator returns {seen.dtype}, which has no derivative: it must return floats"
        )
    if seen.shape != y.shape:
        raise ValueError(f"y has the shape {y.shape}: operator(x) has {seen.shape}")


def _try(operator: Operator, shape: tuple[int, ...]) -> None:
    """Raises ValueError for an operator that mixes samples, or whose derivative is 0."""
    u, v = np.random.RandomState(0).standard_normal((2, *shape)).astype(np.float32)
    other = np.concatenate([u[:1], v[1:]])
    with jax.ensure_compile_time_eval():
        one, slope = jax.jvp(operator, (jnp.asarray(u),), (jnp.asarray(v),))
        two, moved = operator(jnp.asarray(other)), operator(jnp.asarray(-5 * v))
    if not known(one):
        return
    one, slope, two, moved = map(np.asarray, (one, slope, two, moved))
    size = np.abs(one).max(initial=0)
    if np.abs(one[0] - two[0]).max(initial=0) > TOLERANCE * size:
        raise ValueError(
            "operator mixes the samples of a batch: its row 0 changes with the rows 1, 2, ... of "
            "x; it must act on each sample separately"
        )
    if not np.any(slope) and np.any(moved != one):
        raise ValueError(
            "operator cannot be differentiated: its derivative is 0, although its values change; "
            "leave out rounding, comparisons and the like"
        )


def check_linear(operator: Operator, shape: Sequence[int], exact: Batch | None = None) -> None:
    """Raises ValueError for an operator that is not linear on arrays of this shape.

    It is tried on random numbers, unless it depends on arrays that are traced. `exact` is a
    measurement without noise, which may have no values where the operator has none.
    """
    u, v = np.random.RandomState(0).standard_normal((2, *shape)).astype(np.float32)
    with jax.ensure_compile_time_eval():
        zero, *values = (operator(jnp.asarray(x)) for x in (0 * u, u, v, u - 2 * v))
    if not known(values[0]):
        return
    offset, (one, two, both) = np.abs(zero).max(initial=0), map(np.asarray, values)
    size = np.abs(values).max(initial=0)
    if offset > TOLERANCE * size:
        raise ValueError(
            f"operator is not linear: operator(0) has values up to {offset:g}; subtract "
            "operator(0) from the operator and from y"
        )
    if not np.abs(both - (one - 2 * two)).max(initial=0) <= TOLERANCE * size:
        raise ValueError(
            "operator is not linear: operator(u - 2 v) differs from operator(u) - 2 operator(v); "
            "give a linear one, or take a method for any operator: dps or twisted_smc, or "
            "posterior.Linearized"
        )
    if exact is None or not known(exact):
        return
    if np.any(np.asarray(exact)[(one == 0) & (two == 0)]):
        raise ValueError(
            "y has values where operator(x) is always 0, as outside a mask: give y = operator(x)"
        )
