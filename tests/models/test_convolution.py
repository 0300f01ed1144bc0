"""models.convolution: XLA's convolution, its derivatives included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from models.convolution import LAYOUTS, Conv


def plain(x, kernel, strides=None, padding="SAME", input_dilation=None, kernel_dilation=None):
    axes = x.ndim - 2
    window = strides or (1,) * axes, padding, input_dilation, kernel_dilation
    return lax.conv_general_dilated(x, kernel, *window, dimension_numbers=LAYOUTS[axes])


def ours(x, kernel, **window):
    conv = Conv(kernel.shape[-1], kernel.shape[:-2], use_bias=False, **window)
    return conv.apply({"params": {"kernel": kernel}}, x)


def gradients(f, x, kernel):
    return jax.grad(lambda *xs: jnp.sum(jnp.sin(3 * jnp.tanh(f(*xs)))), (0, 1))(x, kernel)


def transforms(f, x, kernel):
    """The value and all kinds of derivatives, in one program."""

    def remat_gradients(x, kernel):
        return gradients(jax.checkpoint(f), x, kernel)

    tangents = 2 * x, kernel**2
    return {
        "value": f(x, kernel),
        "gradients": gradients(f, x, kernel),
        "jvp": jax.jvp(f, (x, kernel), tangents),
        "jvp of the gradients": jax.jvp(remat_gradients, (x, kernel), tangents),
        "gradients of the gradients": jax.grad(
            lambda *xs: sum(jnp.sum(g**3) for g in gradients(f, *xs)), (0, 1)
        )(x, kernel),
        "a batch of batches": jax.vmap(lambda x: gradients(f, x, kernel))(jnp.stack([x, 2 * x])),
    }


def arguments(size=(3, 3), dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0))
    sides = {1: (7,), 2: (5, 6), 3: (4, 3, 5)}[len(size)]
    shapes = (2, *sides, 3), (*size, 3, 4)
    return [jax.random.normal(*pair, dtype) for pair in zip(keys, shapes, strict=True)]


WINDOWS = {
    "series": ((3,), {"strides": (2,), "padding": ((0, 1),)}),
    "volumes": ((3, 1, 3), {"strides": (1, 2, 1)}),
    "odd": ((3, 3), {}),
    "strided": ((3, 3), {"strides": (2, 2), "padding": ((0, 1), (0, 1))}),
    "all": (
        (3, 2),
        {
            "strides": (2, 3),
            "kernel_dilation": (1, 2),
            "input_dilation": (3, 1),
            "padding": ((1, 2), (3, 0)),
        },
    ),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", WINDOWS)
def test_values_and_derivatives_equal_those_of_xla(name):
    size, window = WINDOWS[name]
    found, exact = (
        jax.jit(lambda *xs, f=f: transforms(lambda *ys: f(*ys, **window), *xs))(*arguments(size))
        for f in (ours, plain)
    )
    for (path, ours_), theirs in zip(
        jax.tree.leaves_with_path(found), jax.tree.leaves(exact), strict=True
    ):
        tolerance = 1e-5 * np.abs(theirs).max()
        np.testing.assert_allclose(ours_, theirs, rtol=1e-5, atol=tolerance, err_msg=str(path))


@pytest.mark.thorough
def test_bfloat16_is_kept():
    x, kernel = arguments(dtype=jnp.bfloat16)
    found, exact = (gradients(f, x, kernel) for f in (ours, plain))
    for ours_, theirs in zip(found, exact, strict=True):
        assert ours_.dtype == jnp.bfloat16
        np.testing.assert_allclose(*(np.float32(g) for g in (ours_, theirs)), rtol=0.05, atol=0.05)


def test_grouped_convolutions_are_left_to_xla():
    conv = Conv(4, (3, 3), feature_group_count=2)
    jaxpr = jax.make_jaxpr(lambda x: conv.init_with_output(jax.random.key(0), x)[0])
    assert "feature_group_count=2" in str(jaxpr(jnp.ones((1, 8, 8, 4))))


@pytest.mark.parametrize("window", [{}, {"strides": (2, 2)}])
def test_gradients_are_convolutions_of_the_same_layout(window):
    """XLA's CPU backend is slow at swapped operands inside loops."""
    x, kernel = jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4, 4))

    def layouts(f):
        gradient = jax.jit(jax.grad(lambda *xs: jnp.sum(f(*xs, **window) ** 2), (0, 1)))
        lowered = gradient.trace(x, kernel).lower(lowering_platforms=("cpu",)).as_text()
        lines = [line for line in lowered.splitlines() if "stablehlo.convolution" in line]
        return [line.split("dim_numbers = ")[1].split(", window")[0] for line in lines]

    standard = "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"
    assert layouts(ours) == 3 * [standard]
    assert layouts(plain).count(standard) == 1
