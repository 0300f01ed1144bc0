"""Measurements y = operator(x_0) + noise: the operators, and the score given y.

samplers.posterior has all the methods that draw samples given a measurement; `condition` is the
first choice for linear operators. An operator is a function of a batch, [B, ...] -> [B, ...], which
acts on each sample separately. Those below are linear, but for phase_retrieval. Any other
differentiable function can take their place.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from samplers.posterior.checks import Operator, check_linear
from samplers.posterior.moment_matching import MomentMatching
from sde_lib import SDE, ScoreFn
from sde_lib.batch import Batch, block_means
from sde_lib.checks import check_at_least, check_positive

__all__ = [
    "Operator",
    "blur",
    "check_linear",
    "condition",
    "convolution",
    "downsampling",
    "fourier",
    "grey",
    "inpainting",
    "phase_retrieval",
]


def condition(
    sde: SDE,
    score_fn: ScoreFn,
    operator: Operator,
    y: Batch,
    noise_std: float = 0.0,
    n_iterations: int = 3,
) -> ScoreFn:
    """Conditional score given y = operator(x_0) + noise_std z, by moment matching.

    See samplers.posterior.MomentMatching.

    Args:
        sde: the forward SDE.
        score_fn: the unconditional score.
        operator: A, such as inpainting(mask) or grey.
        y: the measurement, of the shape of operator(x). Sample i of a batch is conditioned on y[i];
            samplers do not slice y, so its batch must be theirs.
        noise_std: standard deviation of the measurement's noise; 0 for exact measurements.
        n_iterations: number of conjugate gradient iterations.

    Raises:
        ValueError: noise_std < 0 or n_iterations < 1; when the result is called, a y whose shape is
            not that of operator(x), or an operator that is not linear.
    """
    return MomentMatching(n_iterations).condition(sde, score_fn, operator, y, noise_std)


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


def downsampling(factor: int) -> Operator:
    """Operator that takes means over blocks of factor pixels a side, for super-resolution.

    Raises ValueError for a factor below 1 and, when called, for one that does not divide the sides.
    """
    check_at_least(1, factor=factor)

    def operator(x: Batch) -> Batch:
        for axis in range(1, x.ndim - 1):
            if x.shape[axis] % factor:
                raise ValueError(
                    f"factor is {factor}, which does not divide the side {x.shape[axis]} of x of "
                    f"{x.shape}: take a divisor of each side"
                )
        return block_means(x, factor)

    return operator


def blur(std: float) -> Operator:
    """Operator that blurs images by a Gaussian of `std` pixels, to 3 std; see `convolution`.

    Raises ValueError for a std that is not positive.
    """
    check_positive(std=std)
    offsets = np.arange(-np.ceil(3 * std), np.ceil(3 * std) + 1)
    line = np.exp(-0.5 * (offsets / std) ** 2)
    return convolution(np.outer(line, line) / line.sum() ** 2)


def convolution(kernel: Float[np.ndarray, "height width"]) -> Operator:
    """Operator that correlates each channel of images [B, H, W, C] with a kernel: any blur.

    The image goes on as in a mirror beyond its edges.

    Raises ValueError for a kernel that is not a finite matrix of odd sides.
    """
    kernel = np.asarray(kernel, np.float32)
    odd = kernel.ndim == 2 and all(side % 2 for side in kernel.shape)
    if not odd or not np.isfinite(kernel).all():
        raise ValueError(
            f"kernel has the shape {kernel.shape}: it must be a matrix of finite numbers with odd "
            "sides"
        )
    margins = [(0, 0), *((side // 2, side // 2) for side in kernel.shape), (0, 0)]

    def operator(x: Batch) -> Batch:
        padded = jnp.moveaxis(jnp.pad(x, margins, "symmetric"), -1, 1)
        rows = padded.reshape(-1, 1, *padded.shape[2:])
        weights = jnp.asarray(kernel, x.dtype)[None, None]
        seen = jax.lax.conv(rows, weights, (1, 1), "VALID", precision=jax.lax.Precision.HIGHEST)
        return jnp.moveaxis(seen.reshape(*padded.shape[:2], *seen.shape[2:]), 1, -1)

    return operator


def fourier(mask: Bool[np.ndarray, "*sides"]) -> Operator:
    """Operator that keeps the frequencies where mask is True, as a magnetic resonance scan does.

    It is a unitary Fourier transform over the axes of the mask, those after the batch. Frequency 0
    is at index 0 of the mask. The result has a last axis of two: real and imaginary part.

    Raises ValueError for a mask that is False everywhere.
    """
    mask = np.asarray(mask, bool)
    if not mask.any():
        raise ValueError("mask is False everywhere: no frequency is measured")

    def operator(x: Batch) -> Batch:
        if x.shape[1 : 1 + mask.ndim] != mask.shape:
            raise ValueError(
                f"mask has the shape {mask.shape}, x {x.shape}: it must be that of the sides of x"
            )
        spectrum = jnp.fft.fftn(x, axes=range(1, 1 + mask.ndim), norm="ortho")
        kept = mask.reshape(mask.shape + (1,) * (x.ndim - 1 - mask.ndim))
        return jnp.stack([spectrum.real, spectrum.imag], axis=-1) * kept[..., None]

    return operator


def phase_retrieval(mask: Bool[np.ndarray, "*sides"]) -> Operator:
    """Operator that keeps the magnitudes of `fourier`'s frequencies: it is not linear.

    A mask that is True everywhere keeps all. Images that are mirrored in their centre, or shifted
    around the edges, have the same magnitudes.

    Raises ValueError for a mask that is False everywhere.
    """
    linear = fourier(mask)

    def operator(x: Batch) -> Batch:
        squares = jnp.sum(linear(x) ** 2, axis=-1)
        return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0)

    return operator
