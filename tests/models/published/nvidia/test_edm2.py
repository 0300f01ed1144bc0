from pathlib import Path

import golden
import jax
import numpy as np
import nvidia_files
import pytest
from torch_writer import persistent

import models
from experiments.build import pipelines
from experiments.build.published import Published, open_
from models import published
from models.edm2 import EDM2
from models.mlp import MLP
from models.published import base

FORM = published.FORMATS["edm2"]
ARRAYS = golden.load("edm2")
STATE = golden.edm_state_dict(ARRAYS)
OPTIONS = golden.config(ARRAYS).to_dict()
OUTER = ("img_resolution", "img_channels", "label_dim")
INNER = ("model_channels", "channel_mult", "num_blocks", "attn_resolutions", "channels_per_head")


def described(**changes):
    inner = {name: OPTIONS[name] for name in (*OUTER, *INNER)}
    return {"": ("Precond", OPTIONS), "unet.": ("UNet", inner | changes)}


def save(path, state=STATE, encoder=None, **changes):
    encoder = encoder or persistent("StandardRGBEncoder")
    loss = {"name": "EDM2Loss", "P_mean": -0.4, "P_std": 1.0}
    return nvidia_files.save(path, state, described(**changes), encoder, **loss)


@pytest.mark.thorough
def test_a_pickle_gives_the_published_output_and_uncertainty(tmp_path):
    model = open_(save(tmp_path / "edm2.pkl"))
    assert (model.form.name, model.found.latents) == ("edm2", None)
    assert set(model.found.assumed) == {"sampling.n_steps"}
    config = model.config()
    assert (config.noise_density.mean, config.noise_density.std) == (-0.4, 1.0)
    preconditioning = pipelines.untrained(config).model.preconditioning
    x, sigma = golden.channels_last(ARRAYS["x"]), ARRAYS["sigma"]
    given = ARRAYS["class_labels"]  # a row of zeros is the null class
    classes = np.where(given.any(1), given.argmax(1), -1)

    @jax.jit
    def run(params):
        inputs = preconditioning.network_inputs(x, sigma)
        options = {"class_labels": classes, "uncertainty": True}
        return models.create(config).apply({"params": params}, *inputs, **options)

    output, uncertainty = run(model.params(config))
    scale = (sigma**2 + 0.25)[:, None, None, None]
    sigma = sigma[:, None, None, None]
    denoised = 0.25 / scale * x + 0.5 * sigma / np.sqrt(scale) * output
    golden.assert_samples_close(denoised, golden.channels_last(ARRAYS["output"]), 1e-5)
    golden.assert_samples_close(uncertainty, ARRAYS["logvar"].reshape(-1), 1e-5)


def test_half_precision_becomes_float32(tmp_path):
    halves = {name: value.astype(np.float16) for name, value in STATE.items()}
    model = open_(save(tmp_path / "edm2.pkl", halves))
    params = model.params(model.config())
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    gain = params["Block_0"]["emb_gain"]
    assert gain == np.float32(halves["unet.enc.16x16_block0.emb_gain"])


def test_the_encoder_in_a_pickle_gives_the_normalisation_of_latents(tmp_path):
    encoder = persistent("StabilityVAEEncoder")
    state = encoder.args[0]["state"]
    state["scale"], state["bias"] = np.float32([0.5, 0.25, 1, 2]), np.float32([1, 0, -1, 4])
    found = open_(save(tmp_path / "edm2.pkl", encoder=encoder)).found
    assert found.latents == published.Latents((-2.0, 0.0, 1.0, -2.0), (2.0, 4.0, 1.0, 0.5))
    alone = FORM.find(published.Source(Path("x"), STATE))
    assert alone.latents.std == (8.34, 9.24, 7.42, 6.56)


def test_arrays_alone_do_not_tell_everything():
    for arrays in (STATE, {"ema": STATE}, {name[5:]: a for name, a in unet().items()}):
        found = FORM.find(published.Source(Path("x"), arrays))
        assert found.fields["model.attn_resolutions"] == (8,)
        assert found.fields["model.embedding_features"] == 64
        assert found.assumed["model.num_head_channels"] == 64
        assert found.assumed["model.clip_act"] == 256
    assert found.fields["model.logvar_channels"] == 0
    assert FORM.find(published.Source(Path("x"), {"other.weight": np.ones(1)})) is None


def unet():
    return {name: array for name, array in STATE.items() if name.startswith("unet.")}


def ours(arrays):
    found = FORM.find(published.Source(Path("x"), arrays))
    config = Published(Path("x"), FORM, found, None).config()
    return config, published.skeleton(config)


@pytest.mark.parametrize("arrays", [STATE, unet()], ids=["whole", "without the uncertainty"])
def test_the_published_tensors_come_back_bit_for_bit(arrays):
    config, skeleton = ours(arrays)
    params = published.params(FORM, arrays, config)
    written = base.extract(params, FORM.table(skeleton))
    assert written.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(written[name], array, strict=True)
    added = {"logvar_fourier.freqs", "logvar_fourier.phases", "logvar_linear.weight"}
    assert FORM.constants(skeleton).keys() == added - arrays.keys()


def test_the_arguments_of_the_constructors_come_back():
    config, _ = ours(STATE)
    config.model.num_head_channels = 32
    fields = {"model.parametrization": "edm", "model.sigma_data": 0.5}
    options = FORM.options(published.skeleton(config), fields)
    assert {name: options[name] for name in OPTIONS} == OPTIONS
    assert (options["channel_mult_noise"], options["channel_mult_emb"]) == (1, 2)


def test_levels_of_fewer_channels_than_a_head_are_not_written():
    config, _ = ours(STATE)
    config.model.num_head_channels = 128
    fields = {"model.parametrization": "edm", "model.sigma_data": 0.5}
    skeleton = published.skeleton(config)
    with pytest.raises(ValueError, match=r"num_head_channels is 128, .* 64 channels: .* make 0"):
        FORM.options(skeleton, fields)


def test_what_edm2_does_not_have_is_refused(tmp_path):
    config, skeleton = ours(STATE)
    with pytest.raises(ValueError, match="parametrization is 'v': EDM2 has 'edm' alone"):
        FORM.options(skeleton, {"model.parametrization": "v"})
    config.model.noise_features = 40
    wide, fields = published.skeleton(config), {"model.parametrization": "edm"}
    with pytest.raises(ValueError, match="noise_features is 40: in EDM2 it is a multiple"):
        FORM.options(wide, fields | {"model.sigma_data": 0.5})
    with pytest.raises(ValueError, match="the network MLP is none of EDM2's"):
        FORM.table(base.Skeleton(MLP(), (2,), (), {}))
    with pytest.raises(ValueError, match="the network UNet in the file has the options depth"):
        open_(save(tmp_path / "edm2.pkl", depth=3))
    with pytest.raises(ValueError, match=r"resample_filter is \[1, 2, 1\]"):
        open_(save(tmp_path / "edm2.pkl", resample_filter=[1, 2, 1]))


def test_weights_of_another_network_are_refused_as_a_whole():
    config, _ = ours(STATE)
    other = {name: array for name, array in STATE.items() if "in1.emb_gain" not in name}
    other["unet.enc.16x16_block7.emb_gain"] = np.float32(1)
    with pytest.raises(
        ValueError, match=r"missing \['unet.dec.8x8_in1.emb_gain'\]; unexpected .*k7"
    ):
        published.params(FORM, other, config)


@pytest.mark.thorough
@pytest.mark.parametrize(("nf", "count"), [(192, 280_212_837), (448, 1_523_164_773)])
def test_parameters_are_the_published(nf, count):
    """The published counts include the uncertainty, but not the Fourier features."""
    network = EDM2(nf=nf, num_classes=1000, logvar_channels=128)
    shapes = base.skeleton(network, (64, 64, 4)).shapes
    trained = [leaf.size for name, leaf in shapes.items() if name[-1] not in ("freqs", "phases")]
    assert sum(trained) == count


@pytest.mark.parametrize(
    ("file", "model", "figure"),
    [
        ("edm2-img512-xs-2147483-0.135.pkl", "EDM2-XS, ImageNet 512 x 512 (latents)", "FID 3.53"),
        ("edm2-img512-xl-1342177-0.085.pkl", "EDM2-XL, ImageNet 512 x 512 (latents)", "FID 1.96"),
        ("edm2-img512-xxl-0939524-0.070.pkl", "EDM2-XXL, ImageNet 512 x 512 (latents)", "FID 1.91"),
        ("edm2-img64-s-1073741-0.075.pkl", "EDM2-S, ImageNet 64 x 64", "FID 1.58"),
        ("edm2-img512-xs-uncond-2147483-0.070.pkl", "EDM2, ImageNet 512 x 512 (latents), unc", ""),
    ],
)
def test_published_files_have_cards(file, model, figure):
    card = published.card(FORM, published.Source(Path(file), {}))
    assert card.model.startswith(model)
    assert card.figure.startswith(figure)
    assert (card.license, card.commercial) == ("CC-BY-NC-SA-4.0", False)
