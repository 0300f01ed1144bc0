"""Conditioning on linear measurements y = A x_0 + noise: inpainting, colourisation and others.

`condition` turns the score into the conditional score given y, for any operator A and any sampler.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from sde_lib import SDE, ScoreFn
from sde_lib.batch import Batch, PerSample, expand
from sde_lib.checks import check_at_least, check_positive

Operator = Callable[[Array], Array]
"""A linear operator A on a batch, [B, ...] -> [B, ...], which acts on each sample separately."""

TOLERANCE = 1e-3  # of linearity, relative to the operator's values: float32 sums many numbers
LEAST_COSINE = 1e-2  # 1e-3 is too low: six iterations with a model of digits gave pixels of -8


def condition(
    sde: SDE,
    score_fn: ScoreFn,
    operator: Operator,
    y: Batch,
    noise_std: float = 0.0,
    n_iterations: int = 3,
) -> ScoreFn:
    """Conditional score given y = operator(x_0) + noise_std z, by moment matching.

    The score becomes score + J A^T (A C A^T + noise_std^2 I)^-1 (y - A m). Here m = E[x_0 | x_t] by
    Tweedie's formula, J = dm/dx, and C = sigma^2 / alpha J is the covariance of x_0 given x_t,
    whose distribution is taken for Gaussian (Rozet et al. 2024, arXiv 2405.13712; Boys et al. 2023,
    arXiv 2310.06721). For Gaussian data the result is exact if the inverse is. n_iterations of
    conjugate gradients approximate the inverse. Each takes one product with J, a forward
    derivative, since the Jacobian of a score is symmetric. So one evaluation costs about
    1 + n_iterations of score_fn, although samplers count it as one.

    Args:
        sde: the forward SDE.
        score_fn: the unconditional score.
        operator: A, such as inpainting(mask) or grey.
        y: the measurement, of the shape of operator(x). Sample i of a batch is conditioned on y[i];
            samplers do not slice y, so its batch must be theirs.
        noise_std: standard deviation of the measurement's noise; 0 for exact measurements.
        n_iterations: number of conjugate gradient iterations. 1 to 3 are enough for images. As many
            as A has rows, or a few more in float32, make the inverse exact.

    Raises:
        ValueError: noise_std < 0 or n_iterations < 1; when the result is called, a y whose shape is
            not that of operator(x), or an operator that is not linear.
    """
    check_at_least(1, n_iterations=n_iterations)
    check_positive(True, noise_std=noise_std)

    def conditional(x: Array, t: Array) -> Array:
        def denoise(x):
            score = score_fn(x, t)
            return sde.denoise(x, t, score), score

        mean, jacobian, score = jax.linearize(denoise, x, has_aux=True)
        seen = operator(mean)
        if seen.shape != y.shape:
            raise ValueError(f"y has the shape {y.shape}: operator(x) has {seen.shape}")
        check_linear(operator, x.shape)
        residual = y - seen
        transpose = jax.linear_transpose(operator, x)
        scale = expand(sde.sigma(t) ** 2 / sde.alpha(t), residual)

        def moved(direction):
            """A^T direction, J A^T direction, and the image of direction."""
            (pulled,) = transpose(direction)
            shift = jacobian(pulled)
            return pulled, shift, scale * operator(shift) + noise_std**2 * direction

        carry = (jnp.zeros_like(x), residual, residual, jnp.full(t.shape, True))
        step = partial(_conjugate_gradient, moved)
        return score + jax.lax.fori_loop(0, n_iterations, step, carry)[0]

    return conditional


def _conjugate_gradient(moved: Callable, _: Array, carry: tuple) -> tuple:
    """One iteration: the shift of the score, the residual, the direction, and who goes on."""
    shift, residual, direction, running = carry
    pulled, pushed, image = moved(direction)
    square, curvature = _dot(residual, residual), _dot(direction, image)
    # A symmetric positive matrix with a condition number up to 4 / LEAST_COSINE^2 keeps the cosine
    # between a vector and its image above LEAST_COSINE. A lower cosine comes from rounding or a
    # network's error. Division by such a curvature would throw the sample far away, so its
    # iterations end here.
    bound = LEAST_COSINE * jnp.sqrt(_dot(pulled, pulled) * _dot(pushed, pushed))
    running &= _dot(pulled, pushed) > bound
    length = jnp.where(running, _ratio(square, curvature), 0.0)
    shift += expand(length, pushed) * pushed
    residual -= expand(length, image) * image
    growth = _ratio(_dot(residual, residual), square)
    return shift, residual, residual + expand(growth, direction) * direction, running


def check_linear(operator: Operator, shape: tuple[int, ...]) -> None:
    """Raises ValueError for an operator that is not linear on arrays of this shape.

    It is tried on random numbers, unless it depends on arrays that are traced.
    """
    u, v = np.random.RandomState(0).standard_normal((2, *shape)).astype(np.float32)
    with jax.ensure_compile_time_eval():
        zero, *values = (operator(jnp.asarray(x)) for x in (0 * u, u, v, u - 2 * v))
    if isinstance(values[0], Tracer):
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
            "give a linear one"
        )


def inpainting(mask: Bool[np.ndarray, "height width *one"]) -> Operator:
    """Operator that keeps the pixels where mask, [H, W] or [H, W, 1], is True; the others are 0.

    Raises ValueError for a mask of another shape, or one that is False everywhere.
    """
    mask = np.asarray(mask, bool)
    if mask.ndim == 2:
        mask = mask[..., None]
    if mask.ndim != 3 or mask.shape[-1] != 1:
        raise ValueError(f"mask has the shape {mask.shape}: it must be [H, W] or [H, W, 1]")
    if not mask.any():
        raise ValueError("mask is False everywhere: nothing is known; sample without a condition")
    return lambda x: x * mask


def grey(x: Float[Array, "batch height width channels"]) -> Float[Array, "batch height width 1"]:
    """Greyscale operator: the mean over channels, for colourisation.

    It is 1 / sqrt(channels) times the first channel in the orthonormal basis of Song et al. 2021,
    Appendix I.2.
    """
    return jnp.mean(x, axis=-1, keepdims=True)


def _dot(a: Batch, b: Batch) -> PerSample:
    """Inner product of each pair of samples."""
    return jnp.sum(a * b, axis=tuple(range(1, a.ndim)))


def _ratio(a: PerSample, b: PerSample) -> PerSample:
    """a / b, and 0 where b is 0."""
    return jnp.where(b == 0, 0.0, a / jnp.where(b == 0, 1.0, b))
