"""Convolutions whose gradients are fast inside loops on a CPU too."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

LAYOUT = ("NHWC", "HWIO", "NHWC")


def convolve(x: Array, kernel: Array, strides: Any, padding: Any, **options: Any) -> Array:
    """lax.conv_general_dilated, for nn.Conv's field of that name.

    The gradients of a convolution are convolutions: in x of the gradient with the flipped kernel,
    features swapped; in the kernel of x with the gradient, features and batch swapped. XLA's CPU
    backend runs these as it does the convolution itself if the operands are swapped before it;
    where the convolution swaps them, as JAX has it, it takes 3 to 150 times as long inside a loop,
    such as that of training steps, or of a sampler with a classifier's gradient.
    """
    if x.ndim != 4 or options["feature_group_count"] != 1:
        return lax.conv_general_dilated(x, kernel, strides, padding, **options)
    lhs_dilation, rhs_dilation = options["lhs_dilation"], options["rhs_dilation"]
    if isinstance(padding, str):
        image = list(map(_dilated, x.shape[1:3], lhs_dilation))
        window = list(map(_dilated, kernel.shape, rhs_dilation))
        padding = lax.padtype_to_pads(image, window, strides, padding)
    return _convolution.bind(
        x,
        kernel,
        strides=tuple(strides),
        padding=tuple(map(tuple, padding)),
        lhs_dilation=tuple(lhs_dilation),
        rhs_dilation=tuple(rhs_dilation),
        precision=options["precision"],
    )


def _plain(x: Array, kernel: Array, **options: Any) -> Array:
    padding, strides = options.pop("padding"), options.pop("strides")
    return lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=LAYOUT, **options
    )


def _shape(x: Any, kernel: Any, **options: Any) -> ShapedArray:
    result = jax.eval_shape(partial(_plain, **options), x, kernel)
    return ShapedArray(result.shape, result.dtype)


def _dilated(n: int, by: int) -> int:
    return (n - 1) * by + 1


def _in_x(g: Array, x: Any, kernel: Array, *, strides, padding, lhs_dilation, **options) -> Array:
    before = [
        _dilated(k, by) - 1 - pad
        for k, by, (pad, _) in zip(kernel.shape, options["rhs_dilation"], padding, strict=False)
    ]
    kernel = jnp.swapaxes(jnp.flip(kernel, (0, 1)), 2, 3)
    options |= {"strides": lhs_dilation, "lhs_dilation": strides}
    return _convolution.bind(
        g, kernel, padding=_padding(before, g, kernel, x.aval.shape[1:3], **options), **options
    )


def _in_kernel(g: Array, x: Array, kernel: Any, **options: Any) -> Array:
    def swapped(g, x):
        x, g = jnp.transpose(x, (3, 1, 2, 0)), jnp.transpose(g, (1, 2, 0, 3))
        strides, dilation = options["rhs_dilation"], options["strides"]
        window = options | {"strides": strides, "rhs_dilation": dilation}
        before = [pad for pad, _ in options["padding"]]
        window["padding"] = _padding(before, x, g, kernel.aval.shape[:2], **window)
        return jnp.transpose(_convolution.bind(x, g, **window), (1, 2, 0, 3))

    def transposed(g, x):  # which XLA for accelerators knows
        return jax.linear_transpose(lambda kernel: _plain(x, kernel, **options), kernel.aval)(g)[0]

    return lax.platform_dependent(g, x, cpu=swapped, default=transposed)


def _padding(before, x, kernel, sides, *, strides, lhs_dilation, rhs_dilation, **_):
    """`before`, and after whatever makes the result's height and width `sides`."""
    n = map(_dilated, x.shape[1:3], lhs_dilation)
    k = map(_dilated, kernel.shape[:2], rhs_dilation)
    last = map(_dilated, sides, strides)
    return tuple(
        (pad, last + k - 1 - n - pad) for pad, n, k, last in zip(before, n, k, last, strict=True)
    )


def _batched(arguments: Any, axes: Any, **options: Any) -> tuple[Array, int]:
    return jax.vmap(partial(_plain, **options), axes)(*arguments), 0


# A primitive, since its gradients have gradients of their own, in likelihoods of guided models.
_convolution = Primitive("convolution")
_convolution.def_impl(lambda *xs, **options: jax.jit(partial(_plain, **options))(*xs))
_convolution.def_abstract_eval(_shape)
mlir.register_lowering(_convolution, mlir.lower_fun(_plain, multiple_results=False))
ad.defbilinear(_convolution, _in_x, _in_kernel)
batching.primitive_batchers[_convolution] = _batched

Conv = partial(nn.Conv, conv_general_dilated=convolve)
"""nn.Conv, by `convolve`."""
