"""models.convolution: XLA's convolution, its derivatives included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from models.convolution import LAYOUT, Conv


def plain(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=LAYOUT)


def ours(x, kernel):
    conv = Conv(kernel.shape[3], kernel.shape[:2], use_bias=False)
    return conv.apply({"params": {"kernel": kernel}}, x)


def gradients(convolve, x, kernel, w):
    return jax.grad(lambda x, k: jnp.sum(w * jnp.tanh(convolve(x, k))), (0, 1))(x, kernel)


TRANSFORMS = {
    "value": lambda f, x, k, w: f(x, k),
    "gradients": gradients,
    "jvp": lambda f, x, k, w: jax.jvp(f, (x, k), (2 * x, k**2)),
    "jvp of the gradients": lambda f, x, k, w: jax.jvp(
        lambda x, k: gradients(f, x, k, w), (x, k), (2 * x, k**2)
    ),
    "gradients, recomputed": lambda f, x, k, w: gradients(jax.checkpoint(f), x, k, w),
    "a batch of batches": lambda f, x, k, w: jax.vmap(lambda x: f(x, k))(jnp.stack([x, 2 * x])),
}


@pytest.mark.parametrize("size", [(3, 3), (1, 3)])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_it_is_xla_s(name, size):
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = ((2, 5, 6, 3), (*size, 3, 4), (2, 5, 6, 4))
    arguments = [jax.random.normal(*pair) for pair in zip(keys, shapes, strict=True)]
    found, exact = (jax.tree.leaves(TRANSFORMS[name](f, *arguments)) for f in (ours, plain))
    for ours_, theirs in zip(found, exact, strict=True):
        np.testing.assert_allclose(ours_, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("options", [{"strides": 2}, {"kernel_dilation": 2}, {"padding": "VALID"}])
def test_others_are_xla_s_own(options):
    conv = Conv(4, (3, 3), **options)
    jaxpr = jax.make_jaxpr(lambda x: conv.init_with_output(jax.random.key(0), x)[0])
    assert "same_convolution" not in str(jaxpr(jnp.ones((1, 8, 8, 3))))


def test_its_gradient_takes_the_kernel_as_the_convolution_does():
    """Features swapped are what XLA's CPU backend is slow at, inside loops."""
    x, kernel = jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4, 4))

    def layouts(convolve):
        text = jax.jit(jax.grad(lambda x: convolve(x, kernel).sum())).lower(x).as_text()
        return [line for line in text.splitlines() if "stablehlo.convolution" in line]

    assert all("x[0, 1, o, i]->" in line for line in layouts(plain))
    assert all("x[0, 1, i, o]->" in line for line in layouts(ours))
