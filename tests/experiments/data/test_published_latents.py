"""A published model of latents and a published autoencoder, imported from files."""

import dataclasses

import golden
import jax
import jax.numpy as jnp
import numpy as np
import published_models
import pytest
from flax.traverse_util import unflatten_dict

import experiments
import models
import samplers
from configs.default import get_config
from experiments.build import data, initial, related
from experiments.build.fields import configs
from experiments.commands import export
from experiments.commands.request import Request
from experiments.data import latents
from models import published
from models.published import base

VAE = {
    "model.name": "autoencoder",
    "model.nf": 8,
    "model.ch_mult": (1, 2),
    "model.num_res_blocks": 1,
    "model.norm_groups": 4,
    "model.skip_rescale": False,
    "model.wide_transitions": True,
    "model.quant_conv": True,
    "model.post_quant_conv": True,
    "data.image_size": 16,
    "data.dataset": "folder",
}
DIT = {
    "model.name": "dit",
    "model.hidden_size": 16,
    "model.depth": 1,
    "model.num_heads": 2,
    "model.frequency_shift": 0,
    "model.null_class": True,
    "model.class_conditional": True,
    "model.learned_variance": True,
    "training.continuous": False,
    "data.num_classes": 3,
    "data.image_size": 8,
    "data.num_channels": 4,
    "data.dataset": "folder",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the runs "vae" and "dit", and the file "dit.pt"."""
    folder = tmp_path_factory.mktemp("published")
    published_models.publish(folder / "vae.pt", "autoencoder_kl", **VAE)
    published_models.publish(folder / "dit.pt", "dit", **DIT)
    groups = {name: VAE[name] for name in ("model.norm_groups", "data.image_size")}
    published_models.make_run(folder / "vae", folder / "vae.pt", **groups)
    given = {"model.num_heads": 2, "data.autoencoder": str(folder / "vae")}
    published_models.make_run(folder / "dit", folder / "dit.pt", **given)
    return folder


@pytest.mark.thorough
def test_an_imported_model_of_latents_is_decoded_by_an_imported_autoencoder(folder):
    model = experiments.load(folder / "dit")
    assert model.shape == (8, 8, 4)
    assert model.sampler.variance == "learned"
    model = model.replace(sampler=samplers.create("ddpm", n_steps=2, variance="learned"))
    x = model.sample(3, label=[0, 2, 1], guidance=1.5)
    vae = data.autoencoder(related.config(get_config(), folder / "dit", "", "score"))
    apply = jax.jit(vae.network.apply, static_argnames="method")
    images = apply({"params": vae.params}, x / 0.18215, method="decode")
    np.testing.assert_allclose(model.decoder.decode(x), images, rtol=1e-4, atol=1e-4)
    grey = np.clip(np.round(127.5 * (images + 1)), 0, 255)
    assert np.abs(model.to_images(x) - grey.astype(int)).max() <= 1
    assert model.to_images(x).shape == (3, 16, 16, 3)


@pytest.mark.thorough
def test_a_file_is_opened_with_an_autoencoder_without_a_run(folder):
    given = {"model.num_heads": 2, "data.autoencoder": str(folder / "vae")}
    model, run = (
        experiments.load(folder / "dit.pt", overrides=given),
        experiments.load(folder / "dit"),
    )
    assert (model.shape, model.sampler) == (run.shape, run.sampler)
    jax.tree.map(np.testing.assert_array_equal, model.params, run.params)
    np.testing.assert_array_equal(model.decoder.std, run.decoder.std)
    assert model.decoder.scaling == run.decoder.scaling


@pytest.mark.thorough
def test_an_imported_model_keeps_its_normalisation_in_training(folder):
    """Not that of the training set, which begins with other moments."""
    config = related.config(get_config(), folder / "dit", "", "score")
    given = data.normalisation(config)
    assert given == latents.Normalisation((0.0,) * 4, (1 / 0.18215,) * 4)
    images = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), np.uint8)
    vae = data.autoencoder(config)
    found = latents.encode_dataset(latents.Dataset(images[:4], images[4:], 256), vae, given)
    apply = jax.jit(vae.network.apply, static_argnames="method")
    mean, _ = apply({"params": vae.params}, images[:4] / 127.5 - 1, method="encode")
    np.testing.assert_allclose(found.train, 0.18215 * mean, rtol=1e-4, atol=1e-5)
    latents.claim(found.latents, folder / "dit", folder / "vae")  # latents.json stays as it was


@pytest.mark.thorough
def test_a_model_of_latents_without_an_autoencoder_stays_one_of_latents(folder):
    *_, config, _ = published_models.load(
        published.read(folder / "dit.pt"), **{"model.num_heads": 2}
    )
    assert related.shape(related.in_latents(config)) == (8, 8, 4)


@pytest.mark.thorough
def test_an_autoencoder_of_other_latents_is_refused(folder):
    given = {"model.num_heads": 2, "data.autoencoder": str(folder / "vae")}
    *_, config, _ = published_models.load(published.read(folder / "dit.pt"), **given)
    config.data.image_size = 16
    with pytest.raises(ValueError, match=r"\(16, 16, 4\), but those .* have \(8, 8, 4\): import"):
        related.in_latents(config)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((), (), r"set config\.data\.latent_mean and latent_std"),
        ((0.0,), (1.0, 1.0), r"latent_mean is \(0\.0,\), latent_std \(1\.0, 1\.0\)"),
        ((0.0,), (0.0,), "those of latent_std positive"),
        ((0.0,), (1.0,), "has 1 numbers, but the latents of .* have 4 channels"),
    ],
)
def test_normalisations_that_do_not_fit_are_refused(mean, std, message, folder, tmp_path):
    config = related.config(get_config(), folder / "dit", "", "score")
    config.data.latent_mean, config.data.latent_std = mean, std
    with pytest.raises(ValueError, match=message):
        data.claim_latents(config, tmp_path)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A folder with a pipeline of diffusers, "pipeline", and the runs "vae" and "dit" of it."""
    top, scale = tmp_path_factory.mktemp("diffusers"), {"data.latent_mean": (0.0,) * 4}
    for name, form, fields in (
        ("vae", "autoencoder_kl", VAE | scale | {"data.latent_std": (4.0,) * 4}),
        ("transformer", "diffusers_dit", DIT | {"model.frequency_shift": 1}),
    ):
        config = published_models.config_of(published.Found({}, fields))
        folder, params = top / "pipeline" / name, published_models.drawn(config)
        published_models.write(folder, published.FORMATS[form], config, params)
    (top / "pipeline" / "model_index.json").write_text('{"_class_name": "DiTPipeline"}')
    published_models.make_run(top / "vae", top / "pipeline" / "vae")
    given = {"data.autoencoder": str(top / "vae")}
    published_models.make_run(top / "dit", top / "pipeline", **given)
    return top


@pytest.mark.thorough
def test_a_pipeline_of_diffusers_holds_both(pipeline):
    """The autoencoder tells the scale of latents, the transformer the size of images."""
    model = experiments.load(pipeline / "dit")
    assert model.shape == (8, 8, 4)
    np.testing.assert_array_equal(model.decoder.std, [4.0] * 4)
    assert data.autoencoder(configs.load(pipeline / "dit")).network.norm_groups == 4


@pytest.mark.slow
def test_guided_samples_of_a_pipeline_are_those_of_diffusers(pipeline):
    """DDIM at every level from the same noise, decoded."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    diffusers = pytest.importorskip("diffusers", reason="compares with diffusers")
    folder, labels, scale = pipeline / "pipeline", np.array([0, 2, 1]), 1.5
    z = np.random.default_rng(0).standard_normal((3, 8, 8, 4)).astype("f4")
    network = diffusers.DiTTransformer2DModel.from_pretrained(folder / "transformer").eval()
    vae = diffusers.AutoencoderKL.from_pretrained(folder / "vae").eval()
    scheduler = diffusers.DDIMScheduler(1000, 1e-4, 0.02, "linear", clip_sample=False)
    scheduler.set_timesteps(1000)
    x = torch.from_numpy(np.moveaxis(z, -1, 1).copy())
    both = torch.from_numpy(np.concatenate([labels, np.full(3, 3)]))
    with torch.no_grad():
        for t in scheduler.timesteps:
            output = network(torch.cat([x, x]), t.repeat(6), class_labels=both).sample
            given, free = output[:, :4].chunk(2)
            x = scheduler.step(free + scale * (given - free), t, x).prev_sample
        images = vae.decode(x / vae.config.scaling_factor).sample

    model = experiments.load(pipeline / "dit")
    free = dataclasses.replace(model.classifier_free, weight=scale)
    model, ddim = model.replace(classifier_free=free), samplers.create("ddim", n_steps=1000)

    @jax.jit
    def sample(params, z):
        score_fn = model.conditional_score(params, {"class_labels": jnp.asarray(labels)})
        start = samplers.Start(z, model.sde.t_max)
        return ddim(jax.random.key(0), model.sde, score_fn, z.shape, start=start).x

    got = np.asarray(sample(model.params, z))
    golden.assert_samples_close(got, np.moveaxis(x.numpy(), 1, -1), 1e-4)
    decoded = model.decoder.decode(got)
    golden.assert_samples_close(decoded, np.moveaxis(images.numpy(), 1, -1), 1e-4)


@pytest.mark.thorough
def test_a_run_in_latents_is_written_with_its_normalisation(folder, capsys):
    """For its own program, and in our format, which is opened without a run."""
    config = configs.load(folder / "dit")
    for name, file in (("dit", "weights.pt"), ("safetensors", "model.safetensors")):
        export.run(Request(config, folder / "dit", format=name))
        path = folder / "dit" / "exported" / name / file
        form, found = published.identify(published.read(path))
        assert form.name == name
        if name == "dit":
            published_models.assert_bits(found.arrays, published.read(folder / "dit.pt").content)
    model = experiments.load(path)
    assert model.shape == (8, 8, 4)
    np.testing.assert_allclose(model.decoder.std, 1 / 0.18215, rtol=1e-6)


@pytest.mark.thorough
def test_first_weights_of_latents_that_are_normalised_otherwise_are_warned_of(
    folder, tmp_path, caplog
):
    config = configs.load(folder / "dit")
    config.training.init_from = str(folder / "dit.pt")
    shapes = base.skeleton(models.create(config), (8, 8, 4)).shapes
    params = unflatten_dict(dict(shapes))
    for mean, std, warned in (
        (config.data.latent_mean, config.data.latent_std, False),
        ((), (), True),
    ):
        config.data.latent_mean, config.data.latent_std = mean, std
        caplog.clear()
        found = initial.weights(config, tmp_path, params)
        assert found is not None
        jax.tree.map(
            np.testing.assert_array_equal, found.params, experiments.load(folder / "dit").params
        )
        assert ("config.data.latent_std = (5.48" in caplog.text) == warned
