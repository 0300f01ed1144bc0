"""Convolutions whose gradients are fast inside loops on a CPU too.

A convolution is bilinear in the image and the kernel. So are its two gradients, and the gradients
of each of these three functions are the other two. JAX writes gradients of convolutions with
swapped axes of the operands. XLA's CPU backend takes 3 to 150 times as long for those inside a
loop, such as a sampler's. Here all three functions are convolutions of one layout on a CPU, and
JAX's own elsewhere.
"""

from collections.abc import Sequence
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

LAYOUTS = {  # by the number of spatial axes
    1: ("NWC", "WIO", "NWC"),
    2: ("NHWC", "HWIO", "NHWC"),
    3: ("NDHWC", "DHWIO", "NDHWC"),
}
Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Shapes of the result, the image and the kernel."""


class Window(NamedTuple):
    """Arguments of lax.conv_general_dilated: strides, padding, dilations and precision."""

    window_strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]
    precision: Any


def convolve(x: Array, kernel: Array, strides: Any, padding: Any, **options: Any) -> Array:
    """Drop-in replacement for lax.conv_general_dilated, for nn.Conv's field of that name.

    Series [B, L, C], images [B, H, W, C] and volumes [B, D, H, W, C] are convolved here. Other data
    and grouped convolutions are passed on to JAX.
    """
    if x.ndim - 2 not in LAYOUTS or options["feature_group_count"] != 1:
        return lax.conv_general_dilated(x, kernel, strides, padding, **options)
    lhs_dilation, rhs_dilation = tuple(options["lhs_dilation"]), tuple(options["rhs_dilation"])
    if isinstance(padding, str):
        sides = _dilated(x.shape[1:-1], lhs_dilation), _dilated(kernel.shape[:-2], rhs_dilation)
        padding = lax.padtype_to_pads(*sides, strides, padding)
    padding = tuple(map(tuple, padding))
    window = Window(tuple(strides), padding, lhs_dilation, rhs_dilation, options["precision"])
    shapes = _result_shape(x.shape, kernel.shape, window), x.shape, kernel.shape
    return PRIMITIVES[0].bind(x, kernel, shapes=shapes, window=window)


@cache
def _result_shape(image: tuple[int, ...], kernel: tuple[int, ...], window: Window) -> tuple:
    operands = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (image, kernel))
    return jax.eval_shape(partial(_convolved, window=window), *operands).shape


def _convolved(x: Array, kernel: Array, window: Window, shapes: Any = None) -> Array:
    layout = LAYOUTS[x.ndim - 2]
    return lax.conv_general_dilated(x, kernel, dimension_numbers=layout, **window._asdict())


def _transposed_in_x(g: Array, kernel: Array, window: Window, shapes: Shapes) -> Array:
    x = jax.ShapeDtypeStruct(shapes[1], g.dtype)
    return jax.linear_transpose(lambda x: _convolved(x, kernel, window), x)(g)[0]


def _transposed_in_kernel(g: Array, x: Array, window: Window, shapes: Shapes) -> Array:
    kernel = jax.ShapeDtypeStruct(shapes[2], g.dtype)
    return jax.linear_transpose(lambda kernel: _convolved(x, kernel, window), kernel)(g)[0]


def _convolved_in_x(g: Array, kernel: Array, window: Window, shapes: Shapes) -> Array:
    """_transposed_in_x as a convolution of g with the flipped kernel; strides become dilation."""
    flipped = jnp.swapaxes(jnp.flip(kernel, range(kernel.ndim - 2)), -2, -1)
    sides = _dilated(kernel.shape[:-2], window.rhs_dilation)
    before = [side - 1 - pad for side, (pad, _) in zip(sides, window.padding, strict=True)]
    window = window._replace(window_strides=window.lhs_dilation, lhs_dilation=window.window_strides)
    return _convolved(g, flipped, _padded(window, before, g, flipped, shapes[1][1:-1]))


def _convolved_in_kernel(g: Array, x: Array, window: Window, shapes: Shapes) -> Array:
    """_transposed_in_kernel as a convolution of x with g, summed over the batch as over features.

    Strides become the dilation of g.
    """
    x, g = jnp.swapaxes(x, 0, -1), jnp.moveaxis(g, 0, -2)
    before = [pad for pad, _ in window.padding]
    window = window._replace(window_strides=window.rhs_dilation, rhs_dilation=window.window_strides)
    kernel = _convolved(x, g, _padded(window, before, x, g, shapes[2][:-2]))
    return jnp.moveaxis(kernel, 0, -2)


def _padded(
    window: Window, before: Sequence[int], x: Array, kernel: Array, sides: Sequence[int]
) -> Window:
    """The window with padding `before`, and `after` such that the result is of size `sides`."""
    images = _dilated(x.shape[1:-1], window.lhs_dilation)
    kernels = _dilated(kernel.shape[:-2], window.rhs_dilation)
    results = _dilated(sides, window.window_strides)
    padding = [
        (pad, result + side - 1 - image - pad)
        for pad, image, side, result in zip(before, images, kernels, results, strict=True)
    ]
    return window._replace(padding=tuple(padding))


def _dilated(sides: Sequence[int], by: Sequence[int]) -> tuple[int, ...]:
    return tuple((side - 1) * step + 1 for side, step in zip(sides, by, strict=True))


# The convolution and its gradients in the image and in the kernel. They are primitives of JAX so
# that they can be differentiated again, as the likelihood of a guided model does.
PRIMITIVES = tuple(map(Primitive, ("convolution", "convolution_x", "convolution_kernel")))
LOWERED = (
    (_convolved, _convolved),
    (_transposed_in_x, _convolved_in_x),
    (_transposed_in_kernel, _convolved_in_kernel),
)


def _define(i: int) -> None:
    """Registers the rules of PRIMITIVES[i]: evaluation, shape, derivatives, batching, lowering."""
    primitive, (anywhere, on_cpu) = PRIMITIVES[i], LOWERED[i]
    others = [j for j in range(3) if j != i]

    def gradient(j, k):
        """The transposition rule for operand j, where k is the other operand."""

        def rule(g, a, b, **options):
            other = a if k == others[0] else b
            operands = (g, other) if i < k else (other, g)
            return PRIMITIVES[j].bind(*operands, **options)

        return rule

    def batched(operands, axes, **options):
        return jax.vmap(partial(on_cpu, **options), axes)(*operands), 0

    run = jax.jit(lambda *xs, **k: primitive.bind(*xs, **k), static_argnames=("shapes", "window"))
    primitive.def_impl(run)
    primitive.def_abstract_eval(lambda a, _, shapes, window: ShapedArray(shapes[i], a.dtype))
    ad.defbilinear(primitive, gradient(*others), gradient(*others[::-1]))
    batching.primitive_batchers[primitive] = batched
    mlir.register_lowering(primitive, mlir.lower_fun(anywhere, multiple_results=False))
    mlir.register_lowering(primitive, mlir.lower_fun(on_cpu, multiple_results=False), "cpu")


for _i in range(3):
    _define(_i)

Conv = partial(nn.Conv, conv_general_dilated=convolve)
"""flax.linen.Conv that computes with `convolve`."""
