"""Convolutions whose gradients are fast inside loops on a CPU too.

They are bilinear, and so are their gradients, in the image and in the kernel: each one's gradients
are the other two. On a CPU all three are convolutions of the same layout, since XLA takes 3 to 150
times as long there, inside a loop such as that of a sampler, where the convolution is to swap its
operands' axes, as JAX has it. Elsewhere they are JAX's own.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

LAYOUT = ("NHWC", "HWIO", "NHWC")


class Window(NamedTuple):
    """How the kernel moves over the image: arguments of lax.conv_general_dilated."""

    window_strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]
    precision: Any


def convolve(x: Array, kernel: Array, strides: Any, padding: Any, **options: Any) -> Array:
    """lax.conv_general_dilated, for nn.Conv's field of that name."""
    if x.ndim != 4 or options["feature_group_count"] != 1:
        return lax.conv_general_dilated(x, kernel, strides, padding, **options)
    lhs_dilation, rhs_dilation = tuple(options["lhs_dilation"]), tuple(options["rhs_dilation"])
    if isinstance(padding, str):
        sides = _dilated(x.shape[1:3], lhs_dilation), _dilated(kernel.shape[:2], rhs_dilation)
        padding = lax.padtype_to_pads(*sides, strides, padding)
    padding = tuple(map(tuple, padding))
    window = Window(tuple(strides), padding, lhs_dilation, rhs_dilation, options["precision"])
    return _value.bind(x, kernel, window=window)


def _convolved(x: Array, kernel: Array, window: Window) -> Array:
    return lax.conv_general_dilated(x, kernel, dimension_numbers=LAYOUT, **window._asdict())


def _transposed_in_x(g: Array, kernel: Array, shape: tuple[int, ...], window: Window) -> Array:
    x = jax.ShapeDtypeStruct(shape, g.dtype)
    return jax.linear_transpose(lambda x: _convolved(x, kernel, window), x)(g)[0]


def _transposed_in_kernel(g: Array, x: Array, shape: tuple[int, ...], window: Window) -> Array:
    kernel = jax.ShapeDtypeStruct(shape, g.dtype)
    return jax.linear_transpose(lambda kernel: _convolved(x, kernel, window), kernel)(g)[0]


def _convolved_in_x(g: Array, kernel: Array, shape: tuple[int, ...], window: Window) -> Array:
    """The same: g with the flipped kernel, features swapped; strides become dilation."""
    flipped = jnp.swapaxes(jnp.flip(kernel, (0, 1)), 2, 3)
    sides = _dilated(kernel.shape[:2], window.rhs_dilation)
    before = [side - 1 - pad for side, (pad, _) in zip(sides, window.padding, strict=True)]
    window = window._replace(window_strides=window.lhs_dilation, lhs_dilation=window.window_strides)
    return _convolved(g, flipped, _padded(window, before, g, flipped, shape[1:3]))


def _convolved_in_kernel(g: Array, x: Array, shape: tuple[int, ...], window: Window) -> Array:
    """The same: x with g, the batch in the features' place; strides become g's dilation."""
    x, g = jnp.transpose(x, (3, 1, 2, 0)), jnp.transpose(g, (1, 2, 0, 3))
    before = [pad for pad, _ in window.padding]
    window = window._replace(window_strides=window.rhs_dilation, rhs_dilation=window.window_strides)
    kernel = _convolved(x, g, _padded(window, before, x, g, shape[:2]))
    return jnp.transpose(kernel, (1, 2, 0, 3))


def _padded(
    window: Window, before: Sequence[int], x: Array, kernel: Array, sides: Sequence[int]
) -> Window:
    """With `before`, and after whatever makes the result's height and width `sides`."""
    images = _dilated(x.shape[1:3], window.lhs_dilation)
    kernels = _dilated(kernel.shape[:2], window.rhs_dilation)
    results = _dilated(sides, window.window_strides)
    padding = [
        (pad, result + side - 1 - image - pad)
        for pad, image, side, result in zip(before, images, kernels, results, strict=True)
    ]
    return window._replace(padding=tuple(padding))


def _dilated(sides: Sequence[int], by: Sequence[int]) -> tuple[int, ...]:
    return tuple((side - 1) * step + 1 for side, step in zip(sides, by, strict=True))


@cache
def _shape(x: tuple[int, ...], kernel: tuple[int, ...], window: Window) -> tuple[int, ...]:
    arguments = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (x, kernel))
    return jax.eval_shape(partial(_convolved, window=window), *arguments).shape


# Primitives of JAX, since gradients have gradients of their own, in likelihoods of guided models.
_value, _in_x, _in_kernel = map(Primitive, ("convolution", "convolution_x", "convolution_kernel"))


def _define(
    primitive: Primitive,
    shape: Callable[..., tuple[int, ...]],
    rules: tuple[Callable[..., Array], Callable[..., Array]],
    default: Callable[..., Array],
    on_cpu: Callable[..., Array],
) -> None:
    """`rules` are the gradients in the two operands; `shape`, of the result, sees the operands'."""

    def batched(arguments, axes, **options):
        return jax.vmap(partial(on_cpu, **options), axes)(*arguments), 0

    names = ("shape", "window")
    primitive.def_impl(jax.jit(lambda *xs, **k: primitive.bind(*xs, **k), static_argnames=names))
    primitive.def_abstract_eval(
        lambda a, b, **options: ShapedArray(shape(a.shape, b.shape, **options), a.dtype)
    )
    ad.defbilinear(primitive, *rules)
    batching.primitive_batchers[primitive] = batched
    mlir.register_lowering(primitive, mlir.lower_fun(default, multiple_results=False))
    mlir.register_lowering(primitive, mlir.lower_fun(on_cpu, multiple_results=False), "cpu")


_define(
    _value,
    _shape,
    (
        lambda g, x, kernel, window: _in_x.bind(g, kernel, shape=x.aval.shape, window=window),
        lambda g, x, kernel, window: _in_kernel.bind(g, x, shape=kernel.aval.shape, window=window),
    ),
    _convolved,
    _convolved,
)
_define(
    _in_x,
    lambda g, kernel, shape, window: shape,
    (
        lambda x, g, kernel, shape, window: _value.bind(x, kernel, window=window),
        lambda x, g, kernel, shape, window: _in_kernel.bind(
            g, x, shape=kernel.aval.shape, window=window
        ),
    ),
    _transposed_in_x,
    _convolved_in_x,
)
_define(
    _in_kernel,
    lambda g, x, shape, window: shape,
    (
        lambda kernel, g, x, shape, window: _value.bind(x, kernel, window=window),
        lambda kernel, g, x, shape, window: _in_x.bind(
            g, kernel, shape=x.aval.shape, window=window
        ),
    ),
    _transposed_in_kernel,
    _convolved_in_kernel,
)

Conv = partial(nn.Conv, conv_general_dilated=convolve)
"""nn.Conv, by `convolve`."""
