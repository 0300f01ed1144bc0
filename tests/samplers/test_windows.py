import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import SDES, Gaussian

from samplers.windows import places, windowed
from sde_lib import ScoreAndVariance


def test_windows_cover_the_image_evenly_and_overlap():
    corners = places((8, 20), (8, 8), 0.5)
    np.testing.assert_array_equal(corners[:, 0], 0)
    np.testing.assert_array_equal(corners[:, 1], [0, 4, 8, 12])
    np.testing.assert_array_equal(places((9, 8), (8, 8), 0.0), [[0, 0], [1, 0]])
    np.testing.assert_array_equal(places((8, 8), (8, 8), 0.5), [[0, 0]])


def test_the_score_of_independent_pixels_is_exact_at_any_size():
    sde, gaussian = SDES["vp"], Gaussian()
    x, t = jax.random.normal(jax.random.key(0), (2, 7, 10, 3)), jnp.array([0.3, 0.7])
    score_fn = gaussian.score_fn(sde)
    wide = jax.jit(windowed(score_fn, (4, 4)))
    np.testing.assert_allclose(wide(x, t), score_fn(x, t), rtol=1e-5)


def test_the_score_is_the_mean_over_windows_and_has_a_variance_if_it_is_learned():
    def both(x, t):
        return jnp.broadcast_to(x.mean((1, 2, 3), keepdims=True), x.shape), 2 * x

    x = jnp.arange(6.0).reshape(1, 1, 6, 1)
    score, v = windowed(ScoreAndVariance(both), (1, 4), 0.5).both(x, jnp.ones(1))
    np.testing.assert_allclose(score.ravel(), [1.5, 1.5, 2.5, 2.5, 3.5, 3.5])
    np.testing.assert_allclose(v, 2 * x)


def test_impossible_windows_are_refused():
    with pytest.raises(ValueError, match="overlap is 1"):
        windowed(lambda x, t: x, (4, 4), 1.0)
    with pytest.raises(ValueError, match=r"\(3, 8\) pixels: it must be at least as large"):
        windowed(lambda x, t: x, (4, 4))(jnp.zeros((1, 3, 8, 1)), jnp.ones(1))
