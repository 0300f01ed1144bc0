import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights

import sde_lib
from configs import digits
from experiments.build import frozen, restored
from experiments.build.components import diffusion, networks
from experiments.build.fields import configs
from experiments.data.scaling import Scaling
from experiments.runs import folder as folders
from experiments.tasks import perceptual
from models import NoiseModel, Preconditioning, inception
from models.adm_encoder import ADMClassifier


def config(name="autoencoder", path=""):
    result = digits.get_config("classifier")
    result.model.update(name=name, blocks_per_group=1, channel_multiplier=1)
    result.data.num_classes = 3
    result.autoencoder.perceptual.run = str(path)
    return result


@pytest.fixture
def x():
    return jax.random.uniform(jax.random.key(0), (3, 8, 8, 1), minval=-1)


@pytest.mark.thorough
def test_the_distance_is_of_directions(x):
    """Unit vectors are 2 - 2 cos apart."""
    y = x[:, :, ::-1]
    cosines = []
    for a, b in zip(two_layers(x), two_layers(y), strict=True):
        lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
        cosines.append(((a * b).sum(-1) / lengths).mean((1, 2)))
    distance = perceptual.distance(two_layers)
    np.testing.assert_allclose(distance(x, y), 2 - 2 * np.mean(cosines, axis=0), rtol=1e-4)
    np.testing.assert_array_equal(distance(x, x), 0)


def two_layers(x):
    return [jnp.concatenate([x, 1 - x**2, x**3], axis=-1), 3 * x[:, ::2]]


@pytest.mark.thorough
def test_the_blocks_of_a_classifier_are_seen(tmp_path, monkeypatch):
    """Its SDE need not be the autoencoder's, and its weights are constants of the distance."""
    theirs = config("wideresnet")
    theirs.training.update(sde="edm", likelihood_weighting=False, importance_sampling=False)
    configs.save(theirs, tmp_path)
    model = networks.noise_model(theirs, diffusion.sde(theirs), (8, 8, 1))
    params = weights.random(model.network, jnp.zeros((1, 8, 8, 1)), jnp.ones(1))
    seen = jax.eval_shape(perceptual.classifier_layers(model, params), jnp.zeros((3, 8, 8, 1)))
    assert sorted(leaf.shape for leaf in seen) == [(3, 2, 2, 64), (3, 4, 4, 32), (3, 8, 8, 16)]
    monkeypatch.setattr(restored, "weights", lambda *_, **__: (params, 1))
    distance = frozen.perceptual_distance(config(path=tmp_path))
    shape = jax.ShapeDtypeStruct((3, 8, 8, 1), jnp.float32)
    assert jax.eval_shape(distance, shape, shape).shape == (3,)


@pytest.mark.thorough
def test_the_blocks_of_adm_s_classifier_are_seen():
    """One at 8 x 8 pixels, one that shrinks, one at 4 x 4 pixels, and two in the middle."""
    fields = {"nf": 8, "ch_mult": (1, 1), "num_res_blocks": 1, "attn_resolutions": ()}
    network = ADMClassifier(**fields, pool="adaptive")
    model = NoiseModel(network, Preconditioning(sde_lib.VP()))
    params = weights.random(network, jnp.zeros((1, 8, 8, 1)), jnp.ones(1))
    seen = jax.eval_shape(perceptual.classifier_layers(model, params), jnp.zeros((3, 8, 8, 1)))
    assert sorted(leaf.shape for leaf in seen) == [(3, 4, 4, 8)] * 4 + [(3, 8, 8, 8)]


@pytest.mark.thorough
def test_the_layers_of_inception_are_seen(x, monkeypatch):
    """The input is Inception's, 299 x 299 and in [-1, 1]; the layers are those that are named."""
    given = []

    def apply(network, variables, x, capture_intermediates, mutable):
        given.append(np.asarray(x))
        named = [
            layer
            for layer in ("Conv2d_2b_3x3", "Conv2d_1a_3x3")
            if capture_intermediates(type("Layer", (), {"name": layer}), "__call__")
        ]
        return None, dict.fromkeys(named, x)

    monkeypatch.setattr(inception.Inception, "apply", apply)
    distance = perceptual.distance(perceptual.inception_layers({}, Scaling(17)))(x, -x)
    first, second = given
    assert first.shape == (3, 299, 299, 3)
    np.testing.assert_allclose(
        first[:, 0, 0, 0], (x[:, 0, 0, 0] * 127.5 - 0.5) / 128, rtol=1e-4, atol=1e-4
    )
    signs = np.sign(first) * np.sign(second)
    np.testing.assert_allclose(distance, np.mean(2 - 2 * signs[..., 0], (1, 2)), atol=1e-3)


@pytest.mark.thorough
def test_the_named_layers_are_there(tmp_path, monkeypatch):
    """Here Inception comes from a file of its weights."""
    (tmp_path / "weights.npz").touch()
    network, images = inception.Inception(), jnp.zeros((1, 299, 299, 3))
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape), weights.shapes(network, images))
    layers = perceptual.inception_layers(params, Scaling(17))
    seen = jax.eval_shape(layers, jnp.zeros((2, 8, 8, 1)))
    shapes = {leaf.shape for leaf in seen}
    assert shapes == {(2, 147, 147, 64), (2, 71, 71, 192), (2, 35, 35, 64), (2, 17, 17, 192)}
    monkeypatch.setattr(frozen, "load_features", lambda path: path)
    monkeypatch.setattr(frozen.torch_import, "inception", lambda path: params)
    assert callable(frozen.perceptual_distance(config(path=tmp_path / "weights.npz")))


def test_an_autoencoder_goes_on_with_the_distance_that_it_began_with(tmp_path):
    """Wherever its network is now."""
    for name, content in (("a", b"weights"), ("b", b"weights"), ("c", b"others")):
        (tmp_path / f"{name}.npz").write_bytes(content)

    def prepare(name):
        records = frozen.perceptual_record(config(path=tmp_path / f"{name}.npz"))
        for file, (values, changed) in records.items():
            folders.record(tmp_path / file, values, changed)

    prepare("a")
    prepare("b")
    with pytest.raises(ValueError, match="with the perceptual distance of another model than"):
        prepare("c")


def test_runs_of_no_classifier_of_these_images_are_refused(tmp_path):
    theirs = config("wideresnet")
    theirs.data.image_size = 16
    for folder, what in (("other", theirs), ("score", digits.get_config())):
        configs.save(what, tmp_path / folder)
    for folder, message in (
        ("other", "shape of data of the classifier"),
        ("score", "holds the model 'ncsnpp'"),
        ("nowhere", "give a file of Inception's weights, or the folder of a classifier"),
    ):
        with pytest.raises(ValueError, match=message):
            frozen.perceptual_distance(config(path=tmp_path / folder))
