"""Conjugate gradients for the systems that measurements give, one system per sample."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from sde_lib.batch import Batch, PerSample, expand

LEAST_SQUARE = 1e-18  # the derivative of a quotient by less overflows in float32
LEAST_COSINE = 1e-2  # 1e-3 is too low: six iterations with a model of digits gave pixels of -8

Moved = Callable[[Batch], tuple[Batch, Batch, Batch]]
"""moved(d) = (A^T d, S A^T d, A S A^T d + noise d) of a direction d in the space of y."""


def solve(moved: Moved, residual: Batch, x: Batch, n_iterations: int) -> Batch:
    """S A^T (A S A^T + noise)^-1 residual, of the shape of x, by n_iterations.

    S is symmetric and positive, such as a covariance of x_0 given x_t, up to a factor.
    """
    running = jnp.full(len(x), True)
    carry = (jnp.zeros_like(x), residual, residual, running)
    return jax.lax.fori_loop(0, n_iterations, partial(_iterate, moved), carry)[0]


def _iterate(moved: Moved, _: jax.Array, carry: tuple) -> tuple:
    """One iteration: the solution, the residual, the direction, and the samples that go on."""
    shift, residual, direction, running = carry
    pulled, pushed, image = moved(direction)
    square, curvature = dot(residual, residual), dot(direction, image)
    # A symmetric positive matrix with a condition number up to 4 / LEAST_COSINE^2 keeps the cosine
    # between a vector and its image above LEAST_COSINE. A lower cosine comes from rounding or a
    # network's error. Division by such a curvature would throw the sample far away, so its
    # iterations end here.
    bound = LEAST_COSINE * jnp.sqrt(dot(pulled, pulled) * dot(pushed, pushed))
    running &= dot(pulled, pushed) > bound
    length = jnp.where(running, ratio(square, curvature), 0.0)
    shift += expand(length, pushed) * pushed
    residual -= expand(length, image) * image
    growth = ratio(dot(residual, residual), square)
    return shift, residual, residual + expand(growth, direction) * direction, running


def dot(a: Batch, b: Batch) -> PerSample:
    """Inner product of each pair of samples."""
    return jnp.sum(a * b, axis=tuple(range(1, a.ndim)))


def ratio(a: PerSample, b: PerSample) -> PerSample:
    """a / b, and 0 where b is as good as 0, as after an iteration that is exact."""
    gone = jnp.abs(b) < LEAST_SQUARE
    return jnp.where(gone, 0.0, a / jnp.where(gone, 1.0, b))
