"""Resampling of images, series and volumes by 2 with a separable FIR filter (StyleGAN2).

Karras et al. 2020, arXiv 1912.04958. The filters are short, so each pass along an axis is a sum of
shifted slices. No zeros are inserted or multiplied, and XLA fuses the pass with its neighbours.
Kernel (1, 1) means nearest-neighbour upsampling and mean pooling.
"""

import functools
import operator
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

Image = Float[Array, "batch *sides channels"]
"""Series [B, L, C], images [B, H, W, C] or volumes [B, D, H, W, C]."""


def side_axes(x: Array) -> tuple[int, ...]:
    """The axes of the sides of images [B, *sides, C]."""
    return tuple(range(1, x.ndim - 1))


def upsample(x: Image, kernel: Sequence[float], periodic: bool = False) -> Image:
    """Doubles every side of images [B, *sides, C]; `periodic` ones go on at the other side."""
    axes, phases = side_axes(x), [x]
    for axis in axes:
        phases = [half for each in phases for half in _halves(each, kernel, axis, periodic)]
    # They are woven together once, for all axes: an accelerator copies all values for each weaving.
    n = len(axes)
    woven = jnp.stack(phases).reshape(*[2] * n, *x.shape)
    order = [n, *(place for k in range(n) for place in (n + 1 + k, k)), 2 * n + 1]
    shape = (len(x), *(2 * x.shape[axis] for axis in axes), x.shape[-1])
    return woven.transpose(order).reshape(shape)


def _halves(x: Image, kernel: Sequence[float], axis: int, periodic: bool) -> list[Array]:
    """The even and the odd values of an axis that is doubled: each by every other tap."""
    taps, halves = 2 * _taps(kernel), []
    pad = (len(taps) + 1) // 2
    for phase in (0, 1):
        first = (pad - phase) % 2
        before = (pad - phase - first) // 2
        own = taps[first::2]
        halves.append(_correlate(x, own, axis, before, len(own) - 1 - before, periodic=periodic))
    return halves


def downsample(x: Image, kernel: Sequence[float], periodic: bool = False) -> Image:
    """Halves every side of images [B, *sides, C]; `periodic` ones go on at the other side."""
    taps = _taps(kernel)
    before, after = (len(taps) - 1) // 2, (len(taps) - 2) // 2
    for axis in side_axes(x):
        x = _correlate(x, taps, axis, before, after, stride=2, periodic=periodic)
    return x


def smooth(x: Image, kernel: Sequence[float], before: int, after: int) -> Image:
    """Filters without resampling, after padding with `before` and `after` zeros on each axis."""
    for axis in side_axes(x):
        x = _correlate(x, _taps(kernel), axis, before, after)
    return x


def _taps(kernel: Sequence[float]) -> np.ndarray:
    taps = np.asarray(kernel, np.float32)[::-1]
    return taps / taps.sum()


def _correlate(
    x: Array,
    taps: np.ndarray,
    axis: int,
    before: int,
    after: int,
    stride: int = 1,
    periodic: bool = False,
) -> Array:
    padding = [(0, 0)] * x.ndim
    padding[axis] = (before, after)
    x = jnp.pad(x, padding, "wrap" if periodic else "constant")
    last = x.shape[axis] - len(taps) + 1
    shifted = (lax.slice_in_dim(x, i, i + last, stride, axis) for i in range(len(taps)))
    return functools.reduce(operator.add, map(operator.mul, taps.tolist(), shifted))
