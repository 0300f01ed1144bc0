"""Conditioning on linear measurements y = A x_0 + noise: inpainting, colourisation and their like.

One mechanism for all of them, and for every sampler: the score given y, from the score.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from sde_lib import SDE, ScoreFn
from sde_lib.batch import Batch, PerSample, expand
from sde_lib.checks import check_at_least

Operator = Callable[[Array], Array]
"""A: linear in x, [B, ...] -> [B, ...], each sample on its own."""

LEAST_COSINE = 1e-2  # with 1e-3, six iterations on a network of digits left pixels at -8


def condition(
    sde: SDE,
    score_fn: ScoreFn,
    operator: Operator,
    y: Batch,
    noise_std: float = 0.0,
    n_iterations: int = 3,
) -> ScoreFn:
    """The score given y = operator(x_0) + noise_std z, by matching the moments of x_0 given x_t.

    score + J A^T (A C A^T + noise_std^2 I)^-1 (y - A m), where m = E[x_0 | x_t] by Tweedie's
    formula, J = dm/dx, and C = sigma^2 / alpha J is the covariance of x_0 given x_t: as if x_0
    given x_t were Gaussian (Rozet et al. 2024, arXiv 2405.13712; Boys et al. 2023, arXiv
    2310.06721). For Gaussian data it is exact, once the inverse is. That is made by n_iterations of
    conjugate gradients, which need as many products with J: forward derivatives, since the
    Jacobian of a score is symmetric. An evaluation costs about 1 + n_iterations of score_fn's,
    though samplers count it as one.

    Args:
        sde: the forward SDE.
        score_fn: the score to be conditioned.
        operator: A, such as inpainting(mask) or grey.
        y: the measurement, of the shape of operator(x). No sampler slices it: sample i of a
            batch is given y[i].
        noise_std: standard deviation of the measurement's noise; 0 for none.
        n_iterations: of conjugate gradients. 1 to 3 do for images; as many as A has rows, or a
            few more for float32, make the inverse exact.

    Raises:
        ValueError: noise_std < 0, n_iterations < 1; in the result, y of another shape.
    """
    check_at_least(1, n_iterations=n_iterations)
    if not noise_std >= 0:
        raise ValueError(f"noise_std is {noise_std}: it must be at least 0")

    def conditional(x: Array, t: Array) -> Array:
        def denoise(x):
            score = score_fn(x, t)
            return sde.denoise(x, t, score), score

        mean, jacobian, score = jax.linearize(denoise, x, has_aux=True)
        seen = operator(mean)
        if seen.shape != y.shape:
            raise ValueError(f"y has the shape {y.shape}: operator(x) has {seen.shape}")
        residual = y - seen
        transpose = jax.linear_transpose(operator, x)
        scale = expand(sde.sigma(t) ** 2 / sde.alpha(t), residual)

        def step(_, carry):
            shift, residual, direction, running = carry
            (pulled,) = transpose(direction)
            moved = jacobian(pulled)
            image = scale * operator(moved) + noise_std**2 * direction
            square, curvature = _dot(residual, residual), _dot(direction, image)
            # Symmetric positive matrices with condition numbers up to 4 / LEAST_COSINE^2 turn no
            # vector further than this. What does is rounding, or a network's error, and dividing
            # by its curvature would throw the sample far away: its iterations end here.
            bound = LEAST_COSINE * jnp.sqrt(_dot(pulled, pulled) * _dot(moved, moved))
            running &= _dot(pulled, moved) > bound
            length = jnp.where(running, _ratio(square, curvature), 0.0)
            shift += expand(length, moved) * moved
            residual -= expand(length, image) * image
            growth = _ratio(_dot(residual, residual), square)
            return shift, residual, residual + expand(growth, direction) * direction, running

        carry = (jnp.zeros_like(x), residual, residual, jnp.full(t.shape, True))
        return score + jax.lax.fori_loop(0, n_iterations, step, carry)[0]

    return conditional


def inpainting(mask: Bool[np.ndarray, "height width *one"]) -> Operator:
    """Keeps the pixels where mask, [H, W] or [H, W, 1], is True, and makes the others 0.

    Raises ValueError for a mask of another shape, or one that is all False.
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
    """The mean over channels: what is left of an image without its colours.

    It is 1 / sqrt(channels) times the first channel of the orthonormal basis that Song et al.
    2021, Appendix I.2, take.
    """
    return jnp.mean(x, axis=-1, keepdims=True)


def _dot(a: Batch, b: Batch) -> PerSample:
    return jnp.sum(a * b, axis=tuple(range(1, a.ndim)))


def _ratio(a: PerSample, b: PerSample) -> PerSample:
    """a / b; 0 where b is."""
    return jnp.where(b == 0, 0.0, a / jnp.where(b == 0, 1.0, b))
