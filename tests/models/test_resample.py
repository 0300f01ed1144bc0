import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from models.resample import downsample, smooth, upsample

KERNELS = [(1, 1), (1, 3, 3, 1), (1, 2, 4), (1, 4, 6, 4, 1, 2)]
X = jax.random.normal(jax.random.key(0), (2, 8, 6, 3))


def by_definition(x, kernel, up, down, before, after):
    """Insert zeros, pad, convolve with the normalised kernel (gain up^2), keep every down-th."""
    kernel = np.outer(kernel, kernel)[::-1, ::-1] / np.sum(kernel) ** 2 * up**2
    kernel = jnp.asarray(kernel, jnp.float32)[:, :, None, None]
    return lax.conv_general_dilated(
        x,
        jnp.tile(kernel, (1, 1, 1, x.shape[-1])),
        (down, down),
        [(before, after + up - 1)] * 2,
        lhs_dilation=(up, up),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
        precision="highest",
    )


@pytest.mark.parametrize("kernel", KERNELS)
def test_resampling_is_the_filter_of_its_definition(kernel):
    p = len(kernel) - 2
    up = by_definition(X, kernel, 2, 1, (p + 1) // 2 + 1, p // 2)
    np.testing.assert_allclose(upsample(X, kernel), up, atol=1e-5)
    down = by_definition(X, kernel, 1, 2, (p + 1) // 2, p // 2)
    np.testing.assert_allclose(downsample(X, kernel), down, atol=1e-5)
    same = by_definition(X, kernel, 1, 1, 2, 1)
    np.testing.assert_allclose(smooth(X, kernel, 2, 1), same, atol=1e-5)


def test_the_box_is_nearest_neighbour_and_mean():
    np.testing.assert_array_equal(upsample(X, (1, 1)), X.repeat(2, axis=1).repeat(2, axis=2))
    mean = X.reshape(2, 4, 2, 3, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(downsample(X, (1, 1)), mean, atol=1e-6)


def test_a_constant_stays_constant_inside():
    x = jnp.ones((1, 8, 8, 1))
    np.testing.assert_allclose(upsample(x, (1, 3, 3, 1))[:, 2:-2, 2:-2], 1, rtol=1e-6)
    np.testing.assert_allclose(downsample(x, (1, 3, 3, 1))[:, 1:-1, 1:-1], 1, rtol=1e-6)
