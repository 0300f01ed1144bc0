import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits
from experiments.data import model_space


@pytest.mark.parametrize(("centered", "dequantize"), [*itertools.product((True, False), repeat=2)])
def test_model_space_covers_the_range_and_comes_back(centered, dequantize):
    config = digits.get_config()
    config.data.centered = centered
    grey = np.arange(17, dtype=np.uint8).reshape(1, 17, 1, 1).repeat(500, axis=0)
    x = model_space.to_model_space(config, 17, jax.random.key(0), jnp.asarray(grey), dequantize)
    low, high = model_space.data_range(config)
    unit = (np.asarray(x, np.float64) - low) / (high - low)
    if dequantize:
        np.testing.assert_array_equal(np.floor(unit * 17), grey)
        assert np.mean(unit * 17 - grey) == pytest.approx(0.5, abs=0.02)
    else:
        np.testing.assert_allclose(unit, grey / 16, atol=1e-6)
        np.testing.assert_array_equal(model_space.to_uint8(config, x), np.round(grey / 16 * 255))
