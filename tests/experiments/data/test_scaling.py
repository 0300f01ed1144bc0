import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data import scaling as scaling_of
from experiments.data.scaling import Scaling, claim, of_run

STANDARDIZED = Scaling(None, standardized=True)
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
    shown = scaling.to_uint8(np.array([-4.0, -3.0, 0.0, 3.0, 4.0]))
    np.testing.assert_array_equal(shown, [0, 0, 128, 255, 255])


def test_uint16_has_65536_levels():
    scaling, grey = Scaling(65_536), np.array([[0, 1, 255, 32_768, 65_535]], np.uint16)
    x = scaling.to_model(jax.random.key(0), jnp.asarray(grey))
    back = scaling.to_grey(np.asarray(x))
    assert back.dtype == scaling.dtype == np.uint16
    np.testing.assert_allclose(back.astype(int), grey, atol=1)  # of 24 bits, 8 are for the noise


@pytest.mark.parametrize("shape", [(5,), (7, 3), (4, 5, 2), (2, 3, 4, 1)], ids=str)
def test_floats_are_standardised_by_channel_and_come_back(tmp_path, shape, monkeypatch):
    monkeypatch.setattr(scaling_of, "CHUNK", 4000)  # several chunks
    random = np.random.RandomState(0)
    values = 3 + 10.0 ** np.arange(shape[-1]) * random.randn(400, *shape)
    values = values.astype(np.float32)
    scaling = claim(STANDARDIZED, values[:300], values[300:], (), tmp_path)
    exact = values[:300].astype(np.float64).reshape(-1, shape[-1])
    np.testing.assert_allclose(scaling.mean, exact.mean(0), rtol=1e-12)
    np.testing.assert_allclose(scaling.std, exact.std(0), rtol=1e-12)
    x = np.asarray(scaling.to_model(jax.random.key(0), jnp.asarray(values[:300])))
    assert x.reshape(-1, shape[-1]).std(0) == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(scaling.to_grey(x), values[:300], rtol=1e-5, atol=1e-5)
    expected = np.log(scaling.std).sum() * np.prod(shape[:-1])
    assert scaling.log_volume(shape) == pytest.approx(expected)


def test_moments_are_those_of_the_first_training(tmp_path):
    values = np.random.RandomState(0).randn(50, 3).astype(np.float32)
    first = claim(STANDARDIZED, values, values, (), tmp_path)
    again = claim(STANDARDIZED, 2 * values, values, (), tmp_path)  # the run has not begun
    assert again.std == tuple(2 * np.asarray(first.std))
    (tmp_path / "config.json").write_text("{}")
    assert claim(STANDARDIZED, 3 * values, values, (), tmp_path) == again
    assert of_run(STANDARDIZED, tmp_path) == again
    with pytest.raises(ValueError, match=r"standardization.json is missing, which training writes"):
        of_run(STANDARDIZED, tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="moments of the training data are not known"):
        STANDARDIZED.to_model(jax.random.key(0), jnp.asarray(values))


@pytest.mark.parametrize(
    ("column", "names", "message"),
    [
        (np.full(50, 0.1), (), "constant in channel 1: leave it out"),
        (np.full(50, 0.1), ("u", "v"), r"constant in column 1 \('v'\)"),
        (1e9 + np.arange(50), (), "channel 1 .* up to 1e.09 .*: subtract an offset from it first"),
    ],
)
def test_channels_that_cannot_be_standardised_are_refused(tmp_path, column, names, message):
    values = np.stack([np.arange(50), column], axis=1).astype(np.float32)
    with pytest.raises(ValueError, match=message):
        claim(STANDARDIZED, values, values, names, tmp_path)


def test_moments_are_of_the_observed_values(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling_of, "CHUNK", 4000)
    random = np.random.RandomState(0)
    values = (3 + [1, 10, 100] * random.randn(400, 5, 3)).astype(np.float32)
    values[random.rand(*values.shape) < 0.4] = np.nan
    values[:90, :, 1] = np.nan  # whole chunks
    scaling = dataclasses.replace(STANDARDIZED, missing=True)
    made = claim(scaling, values, values[:5], (), tmp_path)
    exact = values.astype(np.float64).reshape(-1, 3)
    np.testing.assert_allclose(made.mean, np.nanmean(exact, 0), rtol=1e-12)
    np.testing.assert_allclose(made.std, np.nanstd(exact, 0), rtol=1e-12)
    x = made.to_model(jax.random.key(0), jnp.asarray(values))
    np.testing.assert_array_equal(np.isnan(x), np.isnan(values))
    mask = ~np.isnan(values[:4])
    expected = (mask * np.log(made.std)).sum((1, 2))
    np.testing.assert_allclose(made.log_volume((5, 3), jnp.asarray(mask)), expected, rtol=1e-6)
    values[..., 0], values[..., 2] = 0, np.nan
    with pytest.raises(ValueError, match=r"no observed value in column 2 \('c'\): leave it out"):
        claim(scaling, values, values[:5], ("a", "b", "c"), tmp_path)


def test_missing_pixels_are_shown_grey():
    x = np.array([[[[-1.0], [np.nan], [1.0]]]])
    np.testing.assert_array_equal(Scaling(256).to_uint8(x).ravel(), [0, 128, 255])
