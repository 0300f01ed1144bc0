import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from configs import digits
from experiments import build, classifier, perceptual, state, workdir
from experiments.checkpoint import Checkpoints
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


def test_the_distance_is_of_a_classifiers_directions(tmp_path, x):
    theirs = config("wideresnet")
    model = models.create(theirs)
    made = state.init_state(theirs, model)
    workdir.claim(theirs, tmp_path)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, made)
    checkpoints.close()
    distance = jax.jit(perceptual.load(config(path=tmp_path)))
    y = jnp.flip(x, 2)
    found = distance(x, y)
    np.testing.assert_allclose(distance(x, x), 0, atol=1e-6)
    np.testing.assert_allclose(found, distance(y, x), rtol=1e-5)

    # Unit vectors are 2 - 2 cos apart: of the blocks' outputs, seen another way.
    sde = build.make_sde(theirs)
    logits = classifier.logits_fn(
        theirs, sde, model, made.ema_params, capture_intermediates=True, mutable=["intermediates"]
    )
    seen = [jax.jit(logits)(z, jnp.full(3, sde.train_t_min))[1]["intermediates"] for z in (x, y)]
    cosines = []
    for k in range(3):
        a, b = (np.asarray(layers[f"WideBlock_{k}"]["__call__"][0], float) for layers in seen)
        lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
        cosines.append(((a * b).sum(-1) / lengths).mean((1, 2)))
    np.testing.assert_allclose(found, 2 - 2 * np.mean(cosines, axis=0), rtol=1e-3)
    assert np.all(found > 1e-3)


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
