import json

import golden
import jax.numpy as jnp
import numpy as np
import pytest

import models
from models import inception


@pytest.fixture(scope="module")
def arrays():
    return golden.load("fid_inception")


def shapes(arrays):
    return {name: tuple(shape) for name, shape in json.loads(str(arrays["parameters"]))}


@pytest.fixture(scope="module")
def params(arrays):
    """Weights made by the recipe of the golden file."""
    random = np.random.RandomState(int(arrays["seed"]))
    weights = {}
    for name, shape in shapes(arrays).items():
        value = random.standard_normal(shape).astype("f4")
        if len(shape) > 1:
            value *= 1.4 / np.sqrt(np.prod(shape[1:]))
        elif name.endswith("running_var"):
            value = 0.8 + 0.4 * value**2
        elif name.endswith("weight"):
            value = 1 + 0.1 * value
        else:
            value *= 0.1
        weights[name] = value
    return models.torch_import.inception(weights)


@pytest.mark.thorough
@pytest.mark.parametrize("i", [0, 1])
def test_features_agree_with_the_published_network(arrays, params, i):
    features = inception.apply(params, arrays[f"images_{i}"])
    for name in ("64", "192", "768", "2048", "logits"):
        golden.assert_close(features[name], arrays[f"features_{i}/{name}"], 1e-5)


def test_grey_images_are_repeated_to_three_channels(arrays, monkeypatch):
    monkeypatch.setattr(inception, "_network", lambda _, x: x)
    grey = arrays["images_0"][..., :1]
    seen = inception.apply({}, grey)
    assert seen.shape == (len(grey), 299, 299, 3)
    np.testing.assert_array_equal(seen, inception.apply({}, np.repeat(grey, 3, axis=-1)))


@pytest.mark.parametrize("size", [(7, 600), (299, 50)])
def test_images_are_resized_as_tensorflow_1_did(size):
    """Bilinear interpolation of the ramp x_ij = i + 10 j is the ramp, up to the last pixel."""
    i, j = (np.arange(n, dtype=np.float32) for n in size)
    resized = inception.resize(jnp.asarray((i[:, None] + 10 * j)[None, :, :, None]))
    i, j = (np.minimum(np.arange(299) * n / 299, n - 1) for n in size)
    np.testing.assert_allclose(resized[0, :, :, 0], i[:, None] + 10 * j, rtol=1e-6, atol=1e-5)


def test_other_images_are_refused():
    for images in (np.zeros((1, 8, 8, 3)), np.zeros((1, 8, 8, 2), np.uint8)):
        with pytest.raises(ValueError, match="images must be uint8"):
            inception.apply({}, images)


@pytest.mark.thorough
def test_a_state_dict_of_another_network_is_refused_as_a_whole(arrays):
    state = {name: np.broadcast_to(np.float32(1), shape) for name, shape in shapes(arrays).items()}
    del state["Mixed_6e.branch_pool.bn.running_var"]
    state["fc.weight"] = np.ones((1000, 2048), np.float32)
    state["AuxLogits.fc.bias"] = np.ones(1000)
    state["Conv2d_1a_3x3.bn.num_batches_tracked"] = np.ones(())
    with pytest.raises(ValueError, match="not that of FID's") as error:
        models.torch_import.inception(state)
    for text in (
        "missing ['Mixed_6e.branch_pool.bn.running_var']",
        "unexpected ['AuxLogits.fc.bias']",
        "fc.weight: (1000, 2048), not (1008, 2048)",
    ):
        assert text in str(error.value)
