import dataclasses
import types

import exact_models
import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
import saved_runs
from PIL import Image
from toy_latents import SCALE, make_autoencoder

import samplers
from configs import digits
from experiments.build import data, related, tasks
from experiments.build.fields import configs
from experiments.commands import generate
from experiments.data import latents
from experiments.data.dataset import Dataset
from experiments.data.scaling import Scaling
from experiments.data.sources import SOURCES, Source
from experiments.evaluation import metrics
from experiments.evaluation.features import FeatureFunction
from experiments.pipeline import edit, show
from experiments.pipeline.edit.tasks import measured
from experiments.pipeline.model import LikelihoodOptions
from experiments.pipeline.pipeline import Pipeline
from experiments.runs import devices, parts
from models import NoiseModel
from models.parametrization import Preconditioning
from sde_lib import VP
from sde_lib.batch import expand

SDE, MESH = VP(), devices.make_mesh()
GREY = np.random.RandomState(0).randint(0, 17, (40, 2, 2, 1)).repeat(2, 1).repeat(2, 2)
GREY = GREY.astype(np.uint8)
IMAGES = Dataset(GREY[:32], GREY[32:], 17, np.arange(32) % 2)


class Certain(nn.Module):
    """The exact noise of a data set that holds one latent, `known`."""

    @nn.compact
    def __call__(self, x, labels, train=False):
        known, t = self.param("known", nn.initializers.zeros, x.shape[1:]), labels / 999
        return (x - expand(SDE.alpha(t), x) * known) / expand(SDE.sigma(t), x)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The model of one test image's latent, and its data."""
    folder = tmp_path_factory.mktemp("latents")
    autoencoder = make_autoencoder(folder)
    dataset = latents.encode_dataset(IMAGES, autoencoder)
    latents.claim(dataset.latents, folder / "run", autoencoder.folder)
    model = Pipeline(
        NoiseModel(Certain(), Preconditioning(SDE)),
        {"known": jnp.asarray(dataset.test[0])},
        dataset.train.shape[1:],
        Scaling(None),
        samplers.PredictorCorrector(100, corrector="none"),
        lambda: dataset,
        likelihood=LikelihoodOptions(batch_size=32),
        decoder=latents.load_decoder(autoencoder, folder / "run"),
        batch_size=4,
        folder=folder / "run",
    )
    return model, dataset


def test_latents_are_normalised_and_decode_to_the_images(run):
    model, dataset = run
    assert dataset.train.shape[1:] == (2, 2, 1)
    assert dataset.levels is None
    assert dataset.train_labels is IMAGES.train_labels
    np.testing.assert_allclose(dataset.train.mean((0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(dataset.train.std((0, 1, 2)), 1, rtol=1e-5)
    unit = IMAGES.train / 8 - 1
    np.testing.assert_allclose(dataset.latents["std"], [SCALE * unit.std()], rtol=1e-5)
    decoded = model.decoder.decode(dataset.test.reshape(2, 4, 2, 2, 1)).reshape(8, 4, 4, 1)
    np.testing.assert_array_equal(model.decoder.scaling.to_grey(decoded), IMAGES.test)


def test_latents_are_made_once_for_an_autoencoder_and_its_data(run, monkeypatch):
    model, dataset = run
    over, made = parts.over, []

    def counted(mesh, values, *arguments, **options):
        made.append(len(values))
        return over(mesh, values, *arguments, **options)

    monkeypatch.setattr(parts, "over", counted)
    same = latents.encode_dataset(IMAGES, make_autoencoder(model.folder.parent))
    np.testing.assert_array_equal(same.train, dataset.train)
    assert made == []
    other = make_autoencoder(model.folder.parent, 0.5, step=2)
    again = latents.encode_dataset(IMAGES, other)
    assert made == [32, 8]
    np.testing.assert_allclose(again.train, dataset.train, rtol=1e-5)  # normalised, the same
    np.testing.assert_allclose(again.latents["std"][0] / dataset.latents["std"][0], 0.5 / SCALE)
    with pytest.raises(ValueError, match="another, at step 2: give the folder as it was"):
        latents.load_decoder(other, model.folder)
    with pytest.raises(ValueError, match="trained in other latents"):
        latents.claim(again.latents, model.folder, other.folder)


@pytest.mark.thorough
def test_samples_and_edits_are_shown_decoded(run):
    """All samples of a model that knows one image are that image."""
    model, dataset = run
    image = IMAGES.test[0, :, :, 0] * (255 / 16)
    grid = np.asarray(Image.open(show.save_samples(model, 2)), float)[::12, ::12]  # enlarged
    np.testing.assert_allclose(grid[:4, :4], image, atol=1)
    np.testing.assert_allclose(grid[:4, 5:9], image, atol=1)

    options = edit.Edit("inpaint", n_results=1)
    columns = edit.edit(model, dataset.test[:1], options)
    path = show.save_edit(model, columns, options)
    columns = np.asarray(Image.open(path), float)[14::12, ::12]  # under the titles
    np.testing.assert_allclose(columns[:4, :4], image, atol=1)
    np.testing.assert_allclose(columns[:4, 5:7], image[:, :2], atol=1)  # the known left half
    np.testing.assert_allclose(columns[:4, 10:14], image, atol=1)
    with pytest.raises(ValueError, match="the data have no colours"):
        edit.check(model, edit.Edit("colorize"))


@pytest.mark.thorough
def test_images_are_edited_in_latents_and_their_known_pixels_stay(run):
    model = run[0].replace(sampler=samplers.create("ddim", n_steps=3))
    images = np.random.RandomState(0).randint(0, 256, (2, 4, 4, 1)).astype(np.uint8)
    assert model.image_shape == (4, 4, 1)
    blocks = images[:, ::2, ::2].repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_array_equal(model.to_images(model.from_images(blocks)), blocks)
    known = np.ones((4, 4), bool)
    known[:3, 1] = False
    columns = model.edit(images, "inpaint", mask=known, n_results=1)
    assert ((columns["result 1"] == images)[..., 0] == known).all(axis=(1, 2)).all()
    assert (columns["given"][:, ~known] == 128).all()
    np.testing.assert_array_equal(columns["original"], images)
    still = model.edit(images, "variations", strength=0.0, n_results=1)
    np.testing.assert_array_equal(still["result 1"], images)
    wide = model.edit(images, "outpaint", extend=(2, 0, 0, 2), n_results=1)["result 1"]
    assert wide.shape == (2, 6, 6, 1)
    np.testing.assert_array_equal(wide[:, 2:, 2:], images)
    with pytest.raises(ValueError, match="a latent of this model covers 2 pixels"):
        model.edit(images, "outpaint", extend=(1, 0, 0, 0))


@pytest.fixture(scope="module")
def gaussian(tmp_path_factory):
    """A model of Gaussian latents [2, 2, 3], which decode to colours of 4 x 4 pixels."""
    folder = tmp_path_factory.mktemp("gaussian")
    zero, one = np.zeros(3, np.float32), np.full(3, SCALE, np.float32)
    fields = {"shape": (2, 2, 3), "scaling": Scaling(None), "folder": folder}
    about = {"decoder": latents.Decoder(make_autoencoder(folder), zero, one), **fields}
    sampler = samplers.create("euler_ancestral", n_steps=60)
    return exact_models.pipeline(digits.get_config("vp_score_sde"), sampler=sampler, **about)


@pytest.mark.thorough
def test_the_measurement_of_a_decoded_latent_gives_its_posterior(gaussian):
    """Pixels are N(0.3, 0.7^2), and the four of a block are the same. y is their grey."""
    grey, noise = 0.9, 0.4
    x = np.full((1, 2, 2, 3), grey, np.float32)
    about = {"posterior": "twisted_smc", "noise_std": noise, "n_particles": 16, "n_results": 80}
    columns = gaussian.edit(x, "colorize", **about)
    made = np.stack([c for title, c in columns.items() if title.startswith("result")]).mean(-1)
    prior = 0.7**2 / 3
    weight = prior / (prior + noise**2 / 4)
    np.testing.assert_allclose(made.mean(), 0.3 + weight * (grey - 0.3), atol=0.03)
    np.testing.assert_allclose(made.var(axis=0).mean(), weight * noise**2 / 4, rtol=0.15)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("task", "options"),
    [("colorize", {}), ("deblur", {"blur": 0.8, "posterior": "pigdm"})],
)
def test_latents_are_measured_in_pixels(task, options, gaussian):
    x = np.random.RandomState(0).normal(0.3, 0.5, (2, 2, 2, 3)).astype(np.float32)
    columns = gaussian.edit(x, task, n_results=2, **options)
    pixels = jnp.asarray(gaussian.decoder.decode(x))
    operator, y, given = measured(edit.Edit(task, **options), pixels)
    np.testing.assert_allclose(columns["given"], gaussian.decoder.encode(given), atol=1e-5)
    for title in ("result 1", "result 2"):
        seen = operator(jnp.asarray(gaussian.decoder.decode(columns[title])))
        assert 0.01 < np.sqrt(np.mean((seen - y) ** 2)) < 0.08  # noise of 0.05


@pytest.mark.thorough
def test_pixels_of_latents_need_a_method_with_derivatives(gaussian):
    images = np.full((1, 4, 4, 3), 200, np.uint8)
    nothing = gaussian.edit(images, "super_resolution", n_results=1, strength=0.0)
    np.testing.assert_array_equal(nothing["result 1"], images)
    np.testing.assert_array_equal(nothing["given"], images)
    with pytest.raises(ValueError, match="decoder is not linear: take 'moment_matching'"):
        edit.check(gaussian, edit.Edit("colorize", posterior="replacement"))
    with pytest.raises(ValueError, match="factor is 8: it must divide"):
        edit.check(gaussian, edit.Edit("super_resolution", factor=8))


@pytest.mark.thorough
def test_quality_is_that_of_decoded_samples(run):
    model, dataset = run
    pixels = FeatureFunction(
        "pixels", "0", lambda _, x: (x.reshape(len(x), -1).astype(jnp.float32), None), ()
    )
    subject = metrics.Subject(model, dataset, IMAGES, "digits", dict, pixels, 20)
    figures = metrics.sample_quality(subject)
    values = IMAGES.train.reshape(32, -1)
    shift = np.mean(values, axis=0) - IMAGES.test[0].ravel()
    expected = (shift**2).sum() + np.cov(values.T).trace()
    name = "frechet_distance(pixels)"
    np.testing.assert_allclose(figures[name].value, expected * (255 / 16) ** 2, rtol=0.02)


def test_generated_sets_have_latents_and_images(run, capsys):
    model, dataset = run
    configs.save(config("autoencoder"), model.folder.parent / "autoencoder")
    ours = config("ncsnpp", model.folder.parent / "autoencoder")
    ours.sampling.n_samples = 4
    request = types.SimpleNamespace(config=ours, folder=model.folder, model=lambda: model)
    generate.run(request)
    assert "4 samples of step 0" in capsys.readouterr().out
    with np.load(model.folder / "generated.npz") as file:
        np.testing.assert_allclose(file["samples"], dataset.test[:1].repeat(4, 0), atol=0.05)
        np.testing.assert_allclose(file["images"][3], IMAGES.test[0] * (255 / 16), atol=1)


def config(name, folder=""):
    """A tiny config of digits; with a folder, of latents of the autoencoder there."""
    result = digits.get_config()
    result.model.update(name=name, ch_mult=(1, 2), nf=8, attn_resolutions=())
    result.autoencoder.latent_channels = 1
    result.data.autoencoder, result.eval.batch_size = str(folder), 32
    return result


@pytest.mark.thorough
def test_a_config_with_a_run_of_an_autoencoder_has_its_latents_as_data(tmp_path, monkeypatch):
    grey = GREY.repeat(2, 1).repeat(2, 2)
    monkeypatch.setitem(SOURCES, "digits", Source(lambda _: Dataset(grey[:32], grey[32:], 17), 17))
    theirs = config("autoencoder")
    saved_runs.save(theirs, tmp_path, steps=(3,))
    ours = config("ncsnpp", tmp_path)
    autoencoder, dataset = data.autoencoder(ours), data.dataset(ours)
    assert (autoencoder.step, dataset.latents["step"]) == (3, 3)
    assert related.shape(ours) == dataset.train.shape[1:] == (4, 4, 1)
    expected = latents.encode_dataset(data.images(ours), autoencoder)
    np.testing.assert_array_equal(dataset.test, expected.test)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data.image_size": 16}, "data.image_size = 8, here it is 16"),
        ({"data.num_channels": 3}, "data.num_channels = 1, here it is 3"),
        ({"data.centered": False}, "data.centered = True, here it is False"),
        ({"data.dataset": "emoji"}, "data.dataset = 'digits', here it is 'emoji'"),
        ({"data.random_flip": True}, "random_flip is True: it changes images"),
        ({"data.augment": 0.1, "model.augment_dim": 9}, "augment is 0.1: it changes images"),
        ({"model.name": "mlp"}, "not for the network 'mlp'"),
        ({"model.name": "autoencoder"}, "not for the network 'autoencoder'"),
        ({"data.autoencoder": "nowhere"}, "there is no folder nowhere"),
    ],
)
def test_configs_that_do_not_fit_the_autoencoder_are_refused(tmp_path, change, message):
    configs.save(config("autoencoder"), tmp_path)
    ours = config("ncsnpp", tmp_path)
    ours.update_from_flattened_dict(change)
    with pytest.raises(ValueError, match=message):
        tasks.task(ours)


def test_a_folder_without_an_autoencoder_or_a_record_is_refused(tmp_path):
    configs.save(config("ncsnpp"), tmp_path)
    with pytest.raises(ValueError, match="holds the model 'ncsnpp': that is no autoencoder"):
        related.shape(config("ncsnpp", tmp_path))
    with pytest.raises(ValueError, match=r"latents\.json is missing"):
        latents.load_decoder(make_autoencoder(tmp_path), tmp_path)


def test_a_channel_without_variance_is_refused(tmp_path):
    flat = dataclasses.replace(IMAGES, train=np.full_like(IMAGES.train, 3))
    with pytest.raises(ValueError, match=r"channels \[0\]"):
        latents.encode_dataset(flat, make_autoencoder(tmp_path))
