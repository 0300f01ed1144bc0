import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.resample import downsample, smooth, upsample

KERNELS = [(1, 1), (1, 3, 3, 1), (1, 2, 4), (1, 4, 6, 4, 1, 2)]
X = jax.random.normal(jax.random.key(0), (2, 8, 6, 3))


def by_definition(x, kernel, up, down, before, after):
    """Insert zeros, pad, convolve with the normalised kernel (gain up^2), keep every down-th."""
    kernel = np.outer(kernel, kernel) / np.sum(kernel) ** 2 * up**2
    b, h, w, c = x.shape
    spread = np.zeros((b, up * h, up * w, c))
    spread[:, ::up, ::up] = x
    padded = np.pad(spread, ((0, 0), (before, after), (before, after), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape, axis=(1, 2))
    return np.sum(windows * kernel[::-1, ::-1], axis=(-2, -1))[:, ::down, ::down]


@pytest.mark.parametrize("kernel", KERNELS)
def test_resampling_is_the_filter_of_its_definition(kernel):
    found = jax.jit(lambda x: (upsample(x, kernel), downsample(x, kernel), smooth(x, kernel, 2, 1)))
    p = len(kernel) - 2
    up = by_definition(X, kernel, 2, 1, (p + 1) // 2 + 1, p // 2)
    down = by_definition(X, kernel, 1, 2, (p + 1) // 2, p // 2)
    same = by_definition(X, kernel, 1, 1, 2, 1)
    for ours, exact in zip(found(X), (up, down, same), strict=True):
        np.testing.assert_allclose(ours, exact, atol=1e-5)


def test_the_box_is_nearest_neighbour_and_mean():
    np.testing.assert_array_equal(upsample(X, (1, 1)), X.repeat(2, axis=1).repeat(2, axis=2))
    mean = X.reshape(2, 4, 2, 3, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(downsample(X, (1, 1)), mean, atol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_periodic_resampling_is_that_of_the_repeated_image(kernel):
    tiled = jnp.tile(X, (1, 3, 3, 1))
    for resample in (upsample, downsample):
        ours = resample(X, kernel, periodic=True)
        height, width = ours.shape[1:3]
        middle = resample(tiled, kernel)[:, height : 2 * height, width : 2 * width]
        np.testing.assert_allclose(ours, middle, atol=1e-5)


def test_a_constant_stays_constant_inside():
    x, kernel = jnp.ones((1, 8, 8, 1)), (1, 3, 3, 1)
    up, down = jax.jit(lambda x: (upsample(x, kernel), downsample(x, kernel)))(x)
    np.testing.assert_allclose(up[:, 2:-2, 2:-2], 1, rtol=1e-6)
    np.testing.assert_allclose(down[:, 1:-1, 1:-1], 1, rtol=1e-6)


@pytest.mark.thorough
def test_series_and_volumes_are_resampled_along_every_axis():
    """An image of one row or of many equal ones is a series; slices of a volume are images."""
    kernel = (1, 3, 3, 1)
    for resample in (upsample, downsample):
        series = resample(X[:, :, 0], kernel)
        rows = resample(jnp.broadcast_to(X[:, None, :, 0], (2, 16, 8, 3)), kernel)
        np.testing.assert_allclose(series, rows[:, rows.shape[1] // 2], atol=1e-6)
        volume = resample(jnp.broadcast_to(X[:, None], (2, 16, 8, 6, 3)), kernel)
        image = resample(X, kernel)
        np.testing.assert_allclose(volume[:, volume.shape[1] // 2], image, atol=1e-6)


@pytest.mark.parametrize("sides", [(8,), (4, 6), (2, 4, 6)])
def test_all_axes_are_woven_in_one_copy(sides):
    """An accelerator would copy every value once for each weaving."""
    text = jax.jit(lambda x: upsample(x, (1, 3, 3, 1))).lower(jnp.ones((2, *sides, 3)))
    assert text.as_text().count("stablehlo.concatenate") == 1
    assert text.as_text().count("stablehlo.transpose") == 1
