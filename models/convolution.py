"""Convolutions whose gradient in the image is fast inside loops on a CPU too."""

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

    The gradient in x of a convolution that keeps the size ("SAME", stride 1, a kernel of odd sides)
    is the convolution with the flipped kernel, features swapped. XLA's CPU backend runs that as it
    does the convolution itself; with the features swapped by the convolution, as JAX has it, it
    takes 15 times as long inside a loop, such as that of a sampler with a classifier's gradient.
    """
    odd = all(side % 2 for side in kernel.shape[:2])
    ones = *strides, *options["lhs_dilation"], *options["rhs_dilation"]
    grouped = options["feature_group_count"] != 1
    if padding == "SAME" and odd and x.ndim == 4 and set(ones) == {1} and not grouped:
        return _convolution.bind(x, kernel)
    return lax.conv_general_dilated(x, kernel, strides, padding, **options)


def _same(x: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=LAYOUT)


def _shaped(x: Any, kernel: Any) -> ShapedArray:
    return ShapedArray((*x.shape[:3], kernel.shape[3]), x.dtype)


def _in_x(g: Array, x: Any, kernel: Array) -> Array:
    return _convolution.bind(g, jnp.swapaxes(jnp.flip(kernel, (0, 1)), 2, 3))


def _in_kernel(g: Array, x: Array, kernel: Any) -> Array:
    return jax.linear_transpose(lambda kernel: _same(x, kernel), kernel.aval)(g)[0]


def _batched(arguments: Any, axes: Any) -> tuple[Array, int]:
    return jax.vmap(_same, axes)(*arguments), 0


# A primitive, since its gradient has gradients of its own, in likelihoods of guided models.
_convolution = Primitive("same_convolution")
_convolution.def_impl(jax.jit(_same))
_convolution.def_abstract_eval(
    lambda x, kernel: ShapedArray((*x.shape[:3], kernel.shape[3]), x.dtype)
)
mlir.register_lowering(_convolution, mlir.lower_fun(_same, multiple_results=False))
ad.defbilinear(_convolution, _in_x, _in_kernel)
batching.primitive_batchers[_convolution] = _batched

Conv = partial(nn.Conv, conv_general_dilated=convolve)
"""nn.Conv, by `convolve`."""
