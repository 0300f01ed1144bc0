"""Conjugate gradients for the systems that measurements give, one system per sample.

With a linear operator A, a symmetric positive S, such as a covariance of x_0 given x_t up to a
factor, and a variance v of noise, the solution of

    (A^T A + v S^-1) x = A^T residual,  x = S A^T (A S A^T + v I)^-1 residual,

is found by steps preconditioned with S, in the space of x: its right-hand side is in the range of
A^T. So without noise x is the least-squares solution, also of a residual that no x has.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from sde_lib.batch import Batch, PerSample, expand

LEAST_SQUARE = 1e-18  # the derivative of a quotient by less overflows in float32
LEAST_COSINE = 1e-2  # 1e-3 is too low: six iterations with a model of digits gave pixels of -8
CONVERGED = 1e-12  # of the first g^T S g: what remains is rounding in float32

Linear = Callable[[Batch], Batch]


def solve(
    operator: Linear,
    transpose: Linear,
    covariance: Linear,
    residual: Batch,
    variance: PerSample,
    x: Batch,
    n_iterations: int,
) -> Batch:
    """S A^T (A S A^T + variance I)^-1 residual, of the shape of x, by n_iterations.

    Args:
        operator: A.
        transpose: A^T.
        covariance: S. Each iteration takes one product with each of the three.
        residual: in the space of y.
        variance: v of each sample; 0 for exact measurements.
        x: an array in the space of x.
        n_iterations: number of iterations.
    """
    step = partial(_iterate, operator, transpose, covariance, variance)
    zero, one = jnp.zeros_like(x), jnp.ones(len(x), x.dtype)
    carry = (zero, zero, residual, zero, zero, one, 0 * one, one > 0)
    return jax.lax.fori_loop(0, n_iterations, step, carry)[0]


def _iterate(
    operator: Linear,
    transpose: Linear,
    covariance: Linear,
    variance: PerSample,
    _: jax.Array,
    carry: tuple,
) -> tuple:
    """One iteration.

    It carries x and S^-1 x, residual - A x, the direction and S^-1 times it, the last g^T S g, the
    largest, and the samples that go on. g is A^T residual less the left side for x.
    """
    x, pulled_x, residual, direction, pulled, last, most, running = carry
    gradient = transpose(residual) - expand(variance, x) * pulled_x
    pushed = covariance(gradient)
    square = dot(gradient, pushed)
    most = jnp.maximum(most, square)
    # A symmetric positive matrix with a condition number up to 4 / LEAST_COSINE^2 keeps the cosine
    # between a vector and its image above LEAST_COSINE. A lower cosine comes from rounding or a
    # network's error. Its direction would throw the sample far away, so its iterations end here.
    bound = LEAST_COSINE * jnp.sqrt(dot(gradient, gradient) * dot(pushed, pushed))
    running &= (square > bound) & (square > CONVERGED * most)
    growth = expand(ratio(square, last), x)
    direction, pulled = pushed + growth * direction, gradient + growth * pulled
    image = operator(direction)
    curvature = dot(image, image) + variance * dot(direction, pulled)
    length = jnp.where(running, ratio(square, curvature), 0.0)
    x += expand(length, x) * direction
    pulled_x += expand(length, x) * pulled
    residual -= expand(length, image) * image
    return x, pulled_x, residual, direction, pulled, square, most, running


def dot(a: Batch, b: Batch) -> PerSample:
    """Inner product of each pair of samples."""
    return jnp.sum(a * b, axis=tuple(range(1, a.ndim)))


def ratio(a: PerSample, b: PerSample) -> PerSample:
    """a / b, and 0 where b is as good as 0, as after an iteration that is exact."""
    gone = jnp.abs(b) < LEAST_SQUARE
    return jnp.where(gone, 0.0, a / jnp.where(gone, 1.0, b))
