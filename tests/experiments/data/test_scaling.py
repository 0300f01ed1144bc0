import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data.scaling import Scaling

GREY = np.arange(17, dtype=np.uint8).reshape(1, 17, 1, 1).repeat(500, axis=0)


@pytest.mark.parametrize(("centered", "dequantize"), [*itertools.product((True, False), repeat=2)])
def test_model_space_covers_the_range_and_comes_back(centered, dequantize):
    scaling = Scaling(17, centered, dequantize)
    x = scaling.to_model(jax.random.key(0), jnp.asarray(GREY))
    low, high = scaling.range
    assert (low, high) == ((-1, 1) if centered else (0, 1))
    unit = (np.asarray(x, np.float64) - low) / (high - low)
    if dequantize:
        np.testing.assert_array_equal(np.floor(unit * 17), GREY)
        assert np.mean(unit * 17 - GREY) == pytest.approx(0.5, abs=0.02)
    else:
        np.testing.assert_allclose(unit, GREY / 16, atol=1e-6)
        np.testing.assert_array_equal(scaling.to_uint8(x), np.round(GREY / 16 * 255))
    np.testing.assert_array_equal(scaling.to_grey(np.asarray(x)), GREY)


def test_a_sample_has_its_dequantisation_in_any_batch():
    to_model, key, x = jax.jit(Scaling(17).to_model_each), jax.random.key(0), GREY[:6]
    whole, later = to_model(key, x, 0), to_model(key, x, 2)
    np.testing.assert_array_equal(later[:4], whole[2:])
    assert (whole[0] != whole[1]).any()


def test_floats_stay_as_they_are():
    scaling, x = Scaling(None), jnp.linspace(-3, 3, 8).reshape(4, 2)
    for same in (
        scaling.to_model(jax.random.key(0), x),
        scaling.to_model_each(jax.random.key(0), x, 0),
        scaling.to_grey(np.asarray(x)),
    ):
        np.testing.assert_array_equal(same, x)
