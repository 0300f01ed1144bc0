import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import models
from configs import digits
from experiments import build
from experiments.commands import edit, evaluate, generate
from experiments.data import data, latent, named
from experiments.pipeline import sample
from experiments.runs import parts, workdir
from experiments.training import state
from experiments.training.checkpoint import Checkpoints
from sde_lib.batch import expand

SCALE = 0.3  # of what the encoder gives


class Means(nn.Module):
    """A linear autoencoder: of images that are constant on squares of 2 x 2, an exact one."""

    @nn.compact
    def __call__(self, x, labels=None, train=False, encodes=True):
        scale = self.param("scale", nn.initializers.constant(SCALE), ())
        if encodes:
            return scale * nn.avg_pool(x, (2, 2), strides=(2, 2)), None
        return jnp.repeat(jnp.repeat(x / scale, 2, axis=1), 2, axis=2)

    def encode(self, x):
        return self(x)

    def decode(self, z):
        return self(z, encodes=False)


class Certain(nn.Module):
    """The noise of a latent that is known: all of `known`, that of one image."""

    @nn.compact
    def __call__(self, x, labels, train=False):
        known = self.param("known", nn.initializers.zeros, x.shape[1:])
        sde, t = build.make_sde(config("certain")), labels / 999
        return (x - expand(sde.alpha(t), x) * known) / expand(sde.sigma(t), x)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(models.MODELS, "autoencoder", Means)
    monkeypatch.setitem(models.MODELS, "certain", Certain)
    grey = np.random.RandomState(0).randint(0, 17, (40, 2, 2, 1)).repeat(2, 1).repeat(2, 2)
    labels = np.arange(32) % 2
    dataset = data.Dataset(grey[:32].astype(np.uint8), grey[32:].astype(np.uint8), 17, labels)
    monkeypatch.setitem(named.LOADERS, "digits", lambda _: dataset)


def config(name, folder=""):
    result = digits.get_config()
    result.model.update(name=name, ch_mult=(1, 2))
    result.autoencoder.latent_channels = 1
    result.data.image_size = 4
    result.data.autoencoder = str(folder)
    result.training.update(batch_size=8, importance_sampling=False)
    result.sampling.update(n_steps=100, n_samples=4, batch_size=4)
    result.eval.batch_size = 32
    return result


def save_run(theirs, folder, params=None, step=1):
    made = state.init_state(theirs, models.create(theirs))
    workdir.claim(theirs, folder)
    checkpoints = Checkpoints(folder)
    made = made._replace(step=jnp.asarray(step), ema_params=params or made.ema_params)
    checkpoints.save(step, made)
    checkpoints.close()


@pytest.fixture
def folder(tmp_path):
    save_run(config("autoencoder"), tmp_path / "autoencoder")
    return tmp_path / "autoencoder"


@pytest.fixture
def run(tmp_path, folder):
    """The config, data and folder of a model of one test image's latent."""
    ours, where = config("certain", folder), tmp_path / "run"
    dataset = data.load(ours)
    save_run(ours, where, {"known": jnp.asarray(dataset.test[0])})
    latent.claim(ours, dataset, where)
    return ours, dataset, where


def test_latents_are_normalised_and_decode_to_the_images(run):
    ours, dataset, where = run
    images = data.load_images(ours)
    assert dataset.train.shape[1:] == build.image_shape(ours) == (2, 2, 1)
    assert dataset.levels is None
    assert dataset.train_labels is images.train_labels
    np.testing.assert_allclose(dataset.train.mean((0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(dataset.train.std((0, 1, 2)), 1, rtol=1e-5)
    unit = images.train / 8 - 1
    np.testing.assert_allclose(dataset.latents["std"], [SCALE * unit.std()], rtol=1e-5)
    decode = latent.make_decode(ours, where)
    grey = data.to_grey(ours, 17, decode(dataset.test.reshape(2, 4, 2, 2, 1)))
    np.testing.assert_array_equal(grey.reshape(8, 4, 4, 1), images.test)


def test_latents_are_made_once_for_an_autoencoder_and_its_data(run, folder, monkeypatch):
    ours, dataset, where = run
    over, made = parts.over, []
    monkeypatch.setattr(parts, "over", lambda *args: made.append(len(args[1])) or over(*args))
    np.testing.assert_array_equal(data.load(ours).train, dataset.train)
    assert made == []
    save_run(config("autoencoder"), folder, {"scale": jnp.asarray(0.5)}, step=2)
    again = data.load(ours)
    assert made == [32, 8]
    np.testing.assert_allclose(again.train, dataset.train, rtol=1e-5)  # normalised, the same
    np.testing.assert_allclose(again.latents["std"][0] / dataset.latents["std"][0], 0.5 / SCALE)
    with pytest.raises(ValueError, match="another, at step 2: train the model anew"):
        latent.make_decode(ours, where)
    with pytest.raises(ValueError, match="trained in other latents"):
        latent.claim(ours, again, where)


def test_samples_and_edits_are_shown_decoded(run, capsys):
    """Of a model that knows one image, all samples are that."""
    ours, _, where = run
    image = data.load_images(ours).test[0, :, :, 0] * (255 / 16)
    model, params, _ = state.load(ours, where)
    path = sample.save_samples(ours, model, params, 1, where)
    grid = np.asarray(Image.open(path), float)[::12, ::12]  # enlarged so many times
    np.testing.assert_allclose(grid[:4, :4], image, atol=1)
    np.testing.assert_allclose(grid[5:9, 5:9], image, atol=1)

    ours.edit.update(task="inpaint", n_images=1, n_results=1)
    edit.run(ours, where)
    columns = np.asarray(Image.open(capsys.readouterr().out.strip()), float)[14::12, ::12]
    np.testing.assert_allclose(columns[:4, :4], image, atol=1)
    np.testing.assert_allclose(columns[:4, 5:7], image[:, :2], atol=1)  # what is given: the left
    np.testing.assert_allclose(columns[:4, 10:14], image, atol=1)


def test_quality_is_that_of_decoded_samples(run, monkeypatch):
    ours, dataset, where = run
    ours.eval.num_samples = 20
    monkeypatch.setattr(evaluate, "feature_function", lambda _: pixels)
    model, params, step = state.load(ours, where)
    figures = evaluate.sample_quality(ours, model, params, dataset, where, step)
    values = data.load_images(ours).train.reshape(32, -1)
    shift = np.mean(values, axis=0) - data.load_images(ours).test[0].ravel()
    expected = (shift**2).sum() + np.cov(values.T).trace()
    name = "frechet_distance(pixels)"
    np.testing.assert_allclose(figures[name].value, expected * (255 / 16) ** 2, rtol=0.02)


pixels = evaluate.FeatureFunction(
    "pixels", "0", lambda _, x: (x.reshape(len(x), -1).astype(jnp.float32), None), ()
)


def test_generated_sets_have_latents_and_images(run):
    ours, dataset, where = run
    generate.run(ours, where)
    with np.load(where / "generated.npz") as file:
        np.testing.assert_allclose(file["samples"], dataset.test[:1].repeat(4, 0), atol=0.05)
        expected = data.load_images(ours).test[0] * (255 / 16)
        np.testing.assert_allclose(file["images"][3], expected, atol=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data.image_size": 8}, "data.image_size = 4, here it is 8"),
        ({"data.num_channels": 3}, "data.num_channels = 1, here it is 3"),
        ({"data.centered": False}, "data.centered = True, here it is False"),
        ({"data.dataset": "emoji"}, "data.dataset = 'digits', here it is 'emoji'"),
        ({"data.random_flip": True}, "random_flip is True: it changes images"),
        ({"model.name": "mlp"}, "not for the network 'mlp'"),
        ({"model.name": "autoencoder"}, "not for the network 'autoencoder'"),
        ({"data.autoencoder": "nowhere"}, "give the folder of a trained model"),
    ],
)
def test_what_does_not_go_with_the_autoencoder_is_refused(tmp_path, change, message):
    workdir.claim(config("autoencoder"), tmp_path)
    ours = config("certain", tmp_path)
    ours.update_from_flattened_dict(change)
    with pytest.raises(ValueError, match=message):
        build.check(ours)


def test_a_folder_without_an_autoencoder_or_record_is_refused(tmp_path, folder):
    workdir.claim(config("certain"), tmp_path)
    with pytest.raises(ValueError, match="holds the model 'certain': give the folder"):
        build.image_shape(config("certain", tmp_path))
    ours = config("certain", folder)
    with pytest.raises(ValueError, match=r"latents\.json is missing"):
        latent.make_decode(ours, tmp_path)
    ours.edit.task = "colorize"
    with pytest.raises(ValueError, match="grey images"):
        edit.check(ours)


def test_a_channel_without_variance_is_refused(folder, monkeypatch):
    flat = data.Dataset(*np.full((2, 8, 4, 4, 1), 3, np.uint8), 17)
    monkeypatch.setitem(named.LOADERS, "digits", lambda _: flat)
    with pytest.raises(ValueError, match=r"channels \[0\]"):
        data.load(config("certain", folder))
