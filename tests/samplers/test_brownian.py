import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from samplers.brownian import DEPTH, increments, levy
from sde_lib.batch import sample_keys

HIGH, LOW = 80.0, 0.002


@pytest.mark.parametrize("rate", [0.09, 1.0, 3.0])
def test_the_covariance_of_the_path_is_the_earlier_time(rate):
    """Cov(W(a), W(b)) = a^(-2 rate) - high^(-2 rate) for levels a > b, W(high) being 0."""
    levels = np.exp(np.linspace(np.log(0.9 * HIGH), np.log(LOW), 60))
    places, weights = levy(levels, HIGH, LOW, rate)
    dense = np.zeros((len(levels), 2 << DEPTH))
    np.put_along_axis(dense, places, weights, axis=1)
    dense *= levels[:, None] ** -rate
    times = levels ** (-2 * rate) - HIGH ** (-2 * rate)
    np.testing.assert_allclose(dense @ dense.T, np.minimum.outer(times, times), rtol=1e-8)


def noise(keys, levels, stops):
    """z, [steps, stops, B, 2], of steps from levels[k] by stops[k] to levels[k + 1], rate 1/2."""
    draw, w = increments(keys, levels[:-1], stops, HIGH, LOW, 0.5, (len(keys), 2))
    _, z = jax.lax.scan(lambda w, k: draw(k, w)[::-1], w, jnp.arange(len(stops)))
    return z


@pytest.mark.thorough
def test_draws():
    fine = np.exp(np.linspace(np.log(50.0), np.log(LOW), 9))
    coarse, both = fine[::2], np.column_stack([fine[1::2], fine[2::2]])
    short = 10 * np.exp(-1e-5 * np.arange(5))  # many times in one of 4,096 pieces

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def run(keys):
        grids = (fine, fine[1:, None]), (coarse, both), (short, short[1:, None])
        return [noise(keys, *grid) for grid in grids]

    keys = sample_keys(jax.random.key(0), 4_000)
    steps, halves, short_steps = run(keys)

    # Standard normal and independent, however short the steps.
    for z in (steps, short_steps):
        z = np.asarray(z).reshape(len(z), -1)
        np.testing.assert_allclose(z @ z.T / z.shape[1], np.eye(len(z)), atol=0.06)
        np.testing.assert_allclose(np.mean(z**4), 3, atol=0.2)

    # A step draws what its halves do.
    root = lambda a, b: np.sqrt(1 / b - 1 / a)[:, None, None]  # noqa: E731
    first, second = steps[::2, 0], steps[1::2, 0]
    whole = root(coarse[:-1], fine[1::2]) * first + root(fine[1::2], coarse[1:]) * second
    np.testing.assert_allclose(halves[:, 0], first, atol=2e-5)
    np.testing.assert_allclose(halves[:, 1], whole / root(coarse[:-1], coarse[1:]), atol=2e-5)

    # Sample i's path is its key's.
    np.testing.assert_array_equal(run(keys[::-1])[0], steps[:, :, ::-1])
