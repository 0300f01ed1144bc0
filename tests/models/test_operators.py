import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import digits
from models.operators import Grey, LowRes, Masked, image_channels, operator
from sde_lib.batch import sample_keys

KEYS = sample_keys(jax.random.key(0), 200)
X = np.random.RandomState(0).rand(200, 8, 12, 3).astype(np.float32)


def test_the_grey_image_is_pillows():
    pixels = (X[0] * 255).astype(np.uint8)
    grey = Grey().measure(jnp.asarray(pixels[None], jnp.float32), KEYS[:1])[0, ..., 0]
    np.testing.assert_allclose(grey, np.asarray(Image.fromarray(pixels).convert("L")), atol=1)
    other = Grey().measure(X[:2, ..., :2], KEYS[:2])
    np.testing.assert_allclose(other[..., 0], X[:2, ..., :2].mean(-1), rtol=1e-5)


@pytest.mark.parametrize("shape", [(8, 1), (8, 12, 3), (4, 4, 8, 2)], ids=str)
def test_means_over_blocks_are_repeated(shape):
    x = np.random.RandomState(0).rand(2, *shape)
    made = LowRes(4)
    small = made.measure(jnp.asarray(x), KEYS[:2])
    assert small.shape == (2, *made.shape(shape))
    large = made.spread(np.asarray(small))
    assert large.shape == x.shape
    axes = tuple(range(1, len(shape)))
    np.testing.assert_allclose(large.mean(axes), x.mean(axes), rtol=1e-5)
    block = (slice(0, 4),) * (len(shape) - 1)
    expected = x[(0, *block)].reshape(-1, shape[-1]).mean(0)
    np.testing.assert_allclose(large[(0, *block)].reshape(-1, shape[-1])[0], expected, rtol=1e-5)


@pytest.mark.parametrize("shape", [(16, 1), (8, 12, 3), (4, 4, 8, 2)], ids=str)
def test_boxes_are_random_and_sample_i_is_its_own(shape):
    x = np.ones((200, *shape), np.float32)
    seen = np.asarray(Masked().measure(x, KEYS))
    unknown = np.isnan(seen)
    assert (unknown.all(-1) == unknown.any(-1)).all()
    sides = len(shape) - 1
    share = unknown.mean(axis=tuple(range(1, sides + 2)))
    assert share.mean() == pytest.approx(0.5**sides, rel=0.2)
    assert 0 < share.min() < share.max() < 1
    np.testing.assert_array_equal(Masked().measure(x[:5], KEYS[3:8]), seen[3:8])


def test_the_left_half_is_known():
    seen = Masked("left").measure(X[:2], KEYS[:2])
    np.testing.assert_array_equal(seen[:, :, :6], X[:2, :, :6])
    assert np.isnan(seen[:, :, 6:]).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "blurred"}, "image_condition.name"),
        ({"name": "grey"}, "'grey', but the data have no colours"),
        (
            {"name": "low_res", "factor": 3},
            "factor is 3, which does not divide the sides",
        ),
        ({"name": "low_res", "factor": 1}, "factor is 1"),
        ({"name": "masked", "mask": "right"}, "image_condition.mask"),
        ({"name": "data", "channels": 0}, "image_condition.channels is 0"),
    ],
    ids=str,
)
def test_impossible_operators_are_refused(changes, message):
    config = digits.get_config()
    config.image_condition.update(changes)
    with pytest.raises(ValueError, match=message):
        image_channels(config)


def test_options_that_are_not_given_are_the_operators_own():
    config = digits.get_config()
    config.image_condition.name = "low_res"
    assert (operator(config), image_channels(config)) == (LowRes(2), 1)
    config.image_condition.name = "data"
    assert (operator(config), image_channels(config)) == (None, 1)
