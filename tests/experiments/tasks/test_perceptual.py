import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights

import models
from configs import digits
from experiments.runs import workdir
from experiments.tasks import perceptual
from models import inception
from models.config import Config


def config(name="autoencoder", path="") -> Config:
    result = digits.get_config()
    result.model.update(name=name, blocks_per_group=1, channel_multiplier=1)
    result.data.num_classes = 3
    result.autoencoder.perceptual = str(path)
    return result


@pytest.fixture
def x():
    return jax.random.uniform(jax.random.key(0), (3, 8, 8, 1), minval=-1)


def test_the_distance_is_of_directions(x, monkeypatch):
    """Unit vectors are 2 - 2 cos apart."""
    monkeypatch.setattr(perceptual, "make_layers", lambda _: two_layers)
    y = x[:, :, ::-1]
    cosines = []
    for a, b in zip(two_layers(x), two_layers(y), strict=True):
        lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
        cosines.append(((a * b).sum(-1) / lengths).mean((1, 2)))
    distance = perceptual.load(config())
    np.testing.assert_allclose(distance(x, y), 2 - 2 * np.mean(cosines, axis=0), rtol=1e-4)
    np.testing.assert_array_equal(distance(x, x), 0)


def two_layers(x):
    return [jnp.concatenate([x, 1 - x**2, x**3], axis=-1), 3 * x[:, ::2]]


def test_a_classifiers_blocks_are_seen(tmp_path, monkeypatch):
    theirs = config("wideresnet")
    theirs.training.sde = "edm"  # which need not be the autoencoder's
    workdir.claim(theirs, tmp_path)
    model = models.create(theirs)
    params = weights.random(model, jnp.zeros((1, 8, 8, 1)), jnp.ones(1))
    monkeypatch.setattr(perceptual.state, "load", lambda *_: (model, params, 1))
    layers = perceptual.make_layers(config(path=tmp_path))
    seen = jax.eval_shape(layers, jnp.zeros((3, 8, 8, 1)))
    assert sorted(leaf.shape for leaf in seen) == [(3, 2, 2, 64), (3, 4, 4, 32), (3, 8, 8, 16)]


def test_inceptions_layers_are_seen(tmp_path, x, monkeypatch):
    """The input is Inception's, 299 x 299 and in [-1, 1]; the layers are those that are named."""
    (tmp_path / "weights.npz").touch()
    monkeypatch.setattr(perceptual.features, "load", lambda path: path)
    monkeypatch.setattr(perceptual.torch_import, "inception", lambda path: {})
    given = []

    def apply(network, variables, x, capture_intermediates, mutable):
        given.append(np.asarray(x))
        named = [
            layer
            for layer in ("Conv2d_2b_3x3", "Conv2d_1a_3x3")
            if capture_intermediates(type("Layer", (), {"name": layer}), "__call__")
        ]
        return None, dict.fromkeys(named, x)

    monkeypatch.setattr(perceptual.inception.Inception, "apply", apply)
    distance = perceptual.load(config(path=tmp_path / "weights.npz"))(x, -x)
    first, second = given
    assert first.shape == (3, 299, 299, 3)
    np.testing.assert_allclose(
        first[:, 0, 0, 0], (x[:, 0, 0, 0] * 127.5 - 0.5) / 128, rtol=1e-4, atol=1e-4
    )
    signs = np.sign(first) * np.sign(second)
    np.testing.assert_allclose(distance, np.mean(2 - 2 * signs[..., 0], (1, 2)), atol=1e-3)


def test_the_named_layers_are_there(tmp_path, monkeypatch):
    (tmp_path / "weights.npz").touch()
    network, images = inception.Inception(), jnp.zeros((1, 299, 299, 3))
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape), weights.shapes(network, images))
    monkeypatch.setattr(perceptual.features, "load", lambda path: path)
    monkeypatch.setattr(perceptual.torch_import, "inception", lambda path: params)
    layers = perceptual.make_layers(config(path=tmp_path / "weights.npz"))
    seen = jax.eval_shape(layers, jnp.zeros((2, 8, 8, 1)))
    shapes = {leaf.shape for leaf in seen}
    assert shapes == {(2, 147, 147, 64), (2, 71, 71, 192), (2, 35, 35, 64), (2, 17, 17, 192)}


def test_what_is_no_classifier_of_these_images_is_refused(tmp_path):
    theirs = config("wideresnet")
    theirs.data.image_size = 16
    for folder, what in (("other", theirs), ("score", digits.get_config())):
        workdir.claim(what, tmp_path / folder)
    with pytest.raises(ValueError, match="shape of data of the classifier"):
        perceptual.load(config(path=tmp_path / "other"))
    with pytest.raises(ValueError, match="holds the model 'ncsnpp'"):
        perceptual.load(config(path=tmp_path / "score"))
    with pytest.raises(ValueError, match="give the folder of a trained model"):
        perceptual.load(config(path=tmp_path / "nowhere"))
