import functools
import json

import golden
import jax
import numpy as np
import pytest
import torch_writer
from scipy import ndimage, signal
from sklearn import datasets

from experiments.evaluation import features, quality

HALVES = {11: (slice(6), slice(6, 11)), 9: (slice(5), slice(5, 9))}


def random_images(*shape):
    return np.random.RandomState(0).randint(256, size=shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def inception_weights():
    parameters = json.loads(str(golden.load("fid_inception")["parameters"]))
    return {name: np.ones(shape, np.float32) for name, shape in parameters}


def test_random_conv_never_changes():
    function = features.random_conv()
    assert (function.name, function.version) == ("random_conv_v1", "3430a3aded53")
    images = random_images(2, 11, 9, 3)
    values, logits = function(images)
    assert logits is None
    assert values.shape == (2, 128)
    kernel = np.random.RandomState(0).standard_normal((3, 3, 3, 8)) / np.sqrt(27)
    x = images[1] / 127.5 - 1
    for k in range(8):
        layer = sum(signal.correlate2d(x[..., c], kernel[..., c, k], "same") for c in range(3))
        quarters = [abs(layer)[i, j].mean() for i in HALVES[11] for j in HALVES[9]]
        np.testing.assert_allclose(values[1, k:32:8], quarters, rtol=1e-5)


@pytest.mark.thorough
def test_random_conv_sees_noise_blur_and_missing_modes():
    images, labels = datasets.load_digits(return_X_y=True)
    images = np.round(images / 16 * 255).reshape(-1, 8, 8, 1)
    function, random = features.create(), np.random.RandomState(0)
    order = random.permutation(len(images))
    images, labels = images[order], labels[order]

    def moments(images):
        grey = np.clip(np.round(images), 0, 255).astype(np.uint8)
        parts = [quality.Moments.of(function(part)[0]) for part in np.split(grey[:350], 7)]
        return functools.reduce(quality.Moments.merge, parts)

    reference, (images, labels) = moments(images[:900]), (images[900:], labels[900:])
    noise = random.standard_normal(images.shape)
    for changed in (
        [images + std * noise for std in (0, 10, 20, 40)],
        [ndimage.gaussian_filter(images, (0, std, std, 0)) for std in (0, 0.4, 0.5, 0.7)],
        [images[labels < n_modes] for n_modes in (10, 8, 6, 4)],
    ):
        distances = [quality.frechet_distance(reference, moments(x)) for x in changed]
        assert np.all(np.diff(distances) > 0.25 * distances[0]), distances


def test_inception_gives_fid_features_and_logits_without_bias(tmp_path, monkeypatch):
    """The bias is that of the file; tests/models has the network itself."""
    outputs = {"2048": np.full((2, 2048), 3.0), "logits": np.full((2, 1008), 5.0)}
    monkeypatch.setattr(features.inception, "apply", lambda params, images: outputs)
    convert = lambda weights: {"fc": {"bias": weights["fc.bias"]}}  # noqa: E731
    monkeypatch.setattr(features.torch_import, "inception", convert)
    np.savez(tmp_path / "weights.npz", **{"fc.bias": np.ones(1008, np.float32)})
    function = features.create(tmp_path / "weights.npz")
    values, logits = function(random_images(2, 16, 16, 3))
    np.testing.assert_array_equal(values, outputs["2048"])
    np.testing.assert_array_equal(logits, outputs["logits"] - 1)


def test_a_pth_file_is_read_as_its_npz(inception_weights, tmp_path):
    tensors = {name: torch_writer.tensor(array) for name, array in inception_weights.items()}
    torch_writer.save_zip(tmp_path / "weights.pth", tensors)
    arrays = features.load(tmp_path / "weights.pth")
    assert arrays.keys() == inception_weights.keys()
    np.testing.assert_array_equal(arrays["fc.weight"], inception_weights["fc.weight"])


def test_other_files_and_images_are_refused(tmp_path):
    (tmp_path / "weights.bin").write_text("no weights")
    for name, message in (("weights.bin", "is no file of weights"), ("missing.npz", "no file '")):
        with pytest.raises(ValueError, match=message):
            features.load(tmp_path / name)
    with pytest.raises(ValueError, match="height and width at least 8"):
        features.random_conv()(random_images(1, 8, 7, 3))


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_other_channels_are_taken_as_grey_images(channels):
    plain, images = features.random_conv(), random_images(2, 9, 11, channels)
    function = features.fitted(plain, images.shape[1:])
    assert function.figure("frechet_distance") == "frechet_distance(random_conv_v1_by_channel)"
    values, logits = function(images)
    assert logits is None
    np.testing.assert_allclose(values[:, 128:256], plain(images[..., 1:2])[0], rtol=1e-6)
    assert values.shape == (2, 128 * channels)
    again = features.fitted(features.random_conv(), images.shape[1:])
    assert again.function == function.function  # one compiled program
    inception = features.fitted(plain.replace(name=features.INCEPTION), images.shape[1:])
    assert inception.figure("frechet_distance").endswith("(inception_v3_2015_by_channel)")


@pytest.mark.parametrize("shape", [(4, 4, 1), (7, 12, 3), (1, 3, 1)])
def test_small_images_are_enlarged(shape):
    plain, images = features.random_conv(), random_images(2, *shape)
    function, factor = features.fitted(plain, shape), -(-8 // min(shape[:2]))
    assert function.name == plain.name
    enlarged = images.repeat(factor, axis=1).repeat(factor, axis=2)
    np.testing.assert_allclose(function(images)[0], plain(enlarged)[0], rtol=1e-6)


@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3)])
def test_usual_images_are_taken_as_they_are(shape):
    plain = features.random_conv()
    assert features.fitted(plain, shape) is plain
    inception = plain.replace(name=features.INCEPTION)
    assert features.fitted(inception, (2, 2, 1)) is inception


def test_only_figures_of_inception_have_the_published_names():
    random_conv = features.random_conv()
    assert random_conv.figure("frechet_distance") == "frechet_distance(random_conv_v1)"
    inception = random_conv.replace(name=features.INCEPTION)
    assert [inception.figure(name) for name in ("frechet_distance", "inception_score")] == [
        "fid",
        "inception_score",
    ]


def test_weights_are_arguments_of_a_compiled_program():
    function = features.random_conv()
    assert len(jax.tree.leaves(function)) == 3
    images = random_images(2, 11, 9, 3)
    grey = np.repeat(images[..., :1], 3, axis=-1)
    values = jax.jit(lambda function, images: function(images)[0])(function, images[..., :1])
    np.testing.assert_allclose(values, function(grey)[0], rtol=1e-6)
