import golden
import jax
import jax.numpy as jnp
import numpy as np
import nvidia_files
import pytest

import models
from configs import imagenet64
from experiments.build import pipelines
from experiments.build.published import Published, open_
from models import published
from models.parametrization import iddpm_levels
from models.published import base
from models.published.nvidia import edm_options

PUBLISHED = ("edm_ddpmpp_class_augment", "edm_ncsnpp", "edm_vp_precond_ddpmpp", "edm_adm_class")
# Outputs of networks alone, from an implementation of our own in PyTorch: encoders and decoders of
# the kind "skip", other filters, and other widths of embeddings.
REFERENCES = ("skip", "input", "output", "box", "adm")
FORM = published.FORMATS["edm"]


def state_of(arrays):
    """The arrays of a golden file by their published names, with buffers."""
    return golden.edm_state_dict(arrays)


def arguments_of(arrays, **changes):
    """(class and arguments of the preconditioning, those of the network) as in a pickle."""
    options = golden.config(arrays).to_dict() | changes
    outer, kind = options.pop("precond"), options.pop("model_type")
    shape = {name: options.pop(name) for name in ("img_resolution", "img_channels", "label_dim")}
    inner = {name: shape[name] for name in ("img_resolution", "label_dim")} | options
    inner |= dict.fromkeys(("in_channels", "out_channels"), shape["img_channels"])
    return {"": (outer, shape | options | {"model_type": kind}), "model.": (kind, inner)}


def opened(path):
    model = open_(path)
    config = model.config()
    pipelines.untrained(config)
    return model, config


def outputs(config, params, x, labels, arrays):
    given = {}
    if "class_labels" in arrays:
        classes = arrays["class_labels"]
        given["class_labels"] = classes.argmax(1) if classes.ndim == 2 else classes
    if "augment_labels" in arrays:
        given["augment_labels"] = arrays["augment_labels"]
    return jax.jit(models.create(config).apply)({"params": params}, x, labels, **given)


@pytest.mark.thorough
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_pickle_says_what_its_network_is(name, tmp_path):
    arrays = golden.load(name)
    path = nvidia_files.save(
        tmp_path / "snapshot.pkl", state_of(arrays), arguments_of(arrays), P_mean=-1.0, P_std=1.5
    )
    model, config = opened(path)
    names = {"EDMPrecond": "edm", "VPPrecond": "edm_vp"}
    assert config.model.parametrization == names[golden.config(arrays).precond]
    assert config.model.dropout == 0.1  # the default, which the file does not have
    assert (config.noise_density.mean, config.noise_density.std) == (-1.0, 1.5)
    assert set(model.found.assumed) == {"sampling.n_steps"}
    # tests/models/test_torch_import.py compares the outputs with the published ones
    known, network = golden.edm_config(arrays), models.create(config)
    usual = {"noise_features": 0, "embedding_features": 0}
    usual = {field: value for field, value in usual.items() if hasattr(network, field)}
    assert network.clone(**usual) == models.create(known)
    expected = models.torch_import.edm(state_of(arrays), known)
    jax.tree.map(np.testing.assert_array_equal, model.params(config), expected)


@pytest.mark.thorough
@pytest.mark.parametrize("name", REFERENCES)
def test_arrays_say_what_their_network_is(name, tmp_path):
    arrays = golden.load(f"edm_reference_{name}")
    np.savez(tmp_path / "edm.npz", **state_of(arrays))
    model, config = opened(tmp_path / "edm.npz")
    params = model.params(config)
    output = outputs(config, params, golden.channels_last(arrays["x"]), arrays["labels"], arrays)
    golden.assert_samples_close(output, golden.channels_last(arrays["output"]), 1e-5)


def shapes_of(name):
    """A reference's state, what is found in it, and the skeleton of our network."""
    arrays = golden.load(name)
    state = state_of(arrays)
    found = FORM.find(published.Source("x", state))
    config = Published("x", FORM, found, None).config()
    return arrays, state, config, published.skeleton(config)


@pytest.mark.parametrize("name", REFERENCES)
def test_the_published_tensors_come_back_bit_for_bit(name):
    _, state, config, skeleton = shapes_of(f"edm_reference_{name}")
    params = published.params(FORM, state, config)
    written = base.extract(params, FORM.table(skeleton)) | FORM.constants(skeleton)
    assert written.keys() == state.keys()
    for key, array in state.items():
        np.testing.assert_array_equal(written[key], array, strict=True)


@pytest.mark.parametrize("name", [f"edm_reference_{name}" for name in REFERENCES])
def test_the_arguments_of_the_constructors_come_back(name):
    arrays, _, config, skeleton = shapes_of(name)
    fields = {"model.parametrization": "edm_ve", "model.label_dropout": 0.1}
    options = FORM.options(skeleton, fields)
    assert options["precond"] == "VEPrecond"
    assert golden.config(arrays).to_dict().items() <= options.items()
    fields = {"model.parametrization": "edm", "model.sigma_data": 0.7}
    assert FORM.options(skeleton, fields)["sigma_data"] == 0.7
    assert config.model.parametrization == "edm"


def test_a_pickle_without_arguments_has_the_defaults():
    given = {"model_type": "DhariwalUNet", "img_resolution": 64, "img_channels": 3}
    given |= {"label_dim": 1000, "noise_features": 0, "embedding_features": 0}
    fields, usual = edm_options.config_fields(given)
    config = imagenet64.get_config()
    for name, value in (fields | usual).items():
        if name.startswith("model.") and name != "model.embedding_features":
            assert config.model[name.removeprefix("model.")] == value, name


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        ({"embedding_type": "positional", "noise_features": 128}, 55_733_891),
        (
            {
                "embedding_type": "fourier",
                "noise_features": 256,
                "encoder_type": "residual",
                "resample_filter": [1, 3, 3, 1],
            },
            56_397_955,
        ),
        ({"model_type": "DhariwalUNet", "label_dim": 1000, "img_resolution": 64}, 295_899_267),
    ],
)
def test_parameters_are_the_published(arguments, count):
    """Counts of tests/configs/test_published.py, which include the Fourier frequencies."""
    given = {"model_type": "SongUNet", "img_resolution": 32, "img_channels": 3}
    given |= {"noise_features": 0, "embedding_features": 0} | arguments
    if given["model_type"] == "SongUNet":
        given |= {"channel_mult": [2, 2, 2], "augment_dim": 9}
    fields, usual = edm_options.config_fields(given)
    config = Published(None, FORM, published.Found({}, fields | usual), None).config()
    assert sum(leaf.size for leaf in published.skeleton(config).shapes.values()) == count


def test_arrays_alone_do_not_tell_everything():
    _, state, _, _ = shapes_of("edm_reference_box")
    plain = {key: value for key, value in state.items() if "filter" not in key}
    found = FORM.find(published.Source("x", plain))
    assert found.assumed["model.fir_kernel"] == (1, 3, 3, 1)
    assert found.assumed["model.parametrization"] == "edm"
    wrapped = FORM.find(published.Source("x", {"ema": {f"model.{k}": v for k, v in state.items()}}))
    assert wrapped.fields["model.fir_kernel"] == (1, 1)
    iddpm = FORM.find(published.Source("x", state | {"u": np.ones(1001)}))
    assert iddpm.fields["model.parametrization"] == "edm_iddpm"
    assert iddpm.fields["sampling.sigma_min"] == pytest.approx(0.0064, abs=1e-4)
    assert FORM.find(published.Source("x", {"other.weight": np.ones(1)})) is None
    assert FORM.find(published.Source("x", {"step": 3})) is None


@pytest.mark.parametrize(
    ("precond", "changes", "fields"),
    [
        ("VEPrecond", {}, {"parametrization": "edm_ve"}),
        ("VPPrecond", {"epsilon_t": 1e-4}, {"parametrization": "edm_vp"}),
        ("iDDPMPrecond", {}, {"parametrization": "edm_iddpm"}),
        ("EDMPrecond", {"sigma_data": 1.0}, {"parametrization": "edm", "sigma_data": 1.0}),
        ("EDMPrecond", {"dropout": 0.3, "label_dropout": 0.2}, {"dropout": 0.3}),
    ],
)
def test_every_preconditioning_is_known(precond, changes, fields, tmp_path):
    arrays = golden.load("edm_vp_precond_ddpmpp")
    described = arguments_of(arrays, precond=precond, **changes)
    for name in ("epsilon_t", "sigma_data"):
        described["model."][1].pop(name, None)
    _, config = opened(nvidia_files.save(tmp_path / "edm.pkl", state_of(arrays), described))
    assert {name: config.model[name] for name in fields} == fields
    least = {"VEPrecond": 0.02, "iDDPMPrecond": float(iddpm_levels()[1])}.get(precond)
    assert config.sampling.sigma_min == least


@pytest.mark.parametrize(
    ("outer", "inner", "message"),
    [
        ({"beta_min": 0.2}, {}, r"VPPrecond has beta_min = 0\.2: here it is always 0\.1"),
        ({}, {"resample_filter": [1, 2, 1]}, r"resample_filter is \[1, 2, 1\]: .* symmetric"),
        ({}, {"resample_filter": [1, 2]}, r"resample_filter is \[1, 2\]: .* symmetric"),
        ({}, {"encoder_type": "other"}, "encoder_type 'other' is unknown: choose one of"),
        ({}, {"out_channels": 6}, "has 3 channels of input and 6 of output"),
        ({}, {"gating": True, "depth": 3}, "the network SongUNet .* options depth, gating"),
    ],
    ids=str,
)
def test_options_that_we_do_not_have_are_refused_by_name(outer, inner, message, tmp_path):
    arrays = golden.load("edm_vp_precond_ddpmpp")
    described = arguments_of(arrays)
    described[""][1].update(outer)
    described["model."][1].update(inner)
    path = nvidia_files.save(tmp_path / "edm.pkl", state_of(arrays), described)
    with pytest.raises(ValueError, match=message):
        open_(path)


def test_a_network_without_attention_in_the_middle_is_refused():
    _, state, _, _ = shapes_of("edm_reference_adm")
    attention = ("in0.norm2", "in0.qkv", "in0.proj")
    without = {k: v for k, v in state.items() if not any(name in k for name in attention)}
    with pytest.raises(ValueError, match="no attention at its last level"):
        FORM.find(published.Source("x", without))


@pytest.mark.parametrize("name", ["enc.16x16_block0", "dec.8x8_in0.qkv", "dec.8x8_block0.conv0"])
def test_missing_tensors_are_named(name):
    _, state, config, _ = shapes_of("edm_reference_adm")
    without = {key: value for key, value in state.items() if not key.startswith(name)}
    found = FORM.find(published.Source("x", without))
    with pytest.raises(ValueError, match=f"missing .*{name}"):
        published.params(FORM, found.arrays, config)
    encoder = {key: value for key, value in state.items() if not key.startswith("dec.")}
    with pytest.raises(ValueError, match="without blocks of a decoder"):
        FORM.find(published.Source("x", encoder))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fir": False}, "'ncsnpp' with {'fir': True}"),
        ({"text": "bytes"}, "'ncsnpp' with {'text': ''}"),
        ({"progressive": "residual"}, "'ncsnpp' with {'progressive': 'none'}"),
        ({"noise_features": 40}, "noise_features is 40: in EDM it is a multiple of config"),
        ({"centered": False}, "centered is False: EDM's networks see data in"),
        ({"fir_kernel": (1, 2, 1)}, r"resample_filter is \[1, 2, 1\]"),
    ],
    ids=str,
)
def test_networks_that_edm_does_not_have_are_not_written(fields, message):
    _, _, config, _ = shapes_of("edm_reference_box")
    network = models.create(config).clone(**fields)
    skeleton = base.Skeleton(network, (16, 16, 3), (), {})
    with pytest.raises(ValueError, match=message):
        FORM.options(skeleton, {"model.parametrization": "edm_vp"})


def test_heads_that_edm_does_not_have_are_not_written():
    _, _, config, _ = shapes_of("edm_reference_adm")
    config.model.num_head_channels = 32
    wrong = published.skeleton(config)
    with pytest.raises(ValueError, match=r"num_head_channels is 32, .* 64 channels: .* make 1"):
        FORM.options(wrong, {"model.parametrization": "edm_vp"})


def test_parametrizations_that_edm_does_not_have_are_not_written():
    _, _, _, skeleton = shapes_of("edm_reference_box")
    with pytest.raises(ValueError, match="parametrization is 'v', which EDM does not have"):
        FORM.options(skeleton, {"model.parametrization": "v"})
    with pytest.raises(ValueError, match=r"label_scale is 1000\.0, which EDM does not have"):
        FORM.options(skeleton, {"model.parametrization": "edm", "model.label_scale": 1000.0})


def test_networks_of_guided_diffusion_are_not_written():
    network = models.MODELS["adm"](heads=4, use_scale_shift_norm=False)
    skeleton = base.Skeleton(network, (64, 64, 3), (), {})
    with pytest.raises(ValueError, match=r"with {'use_scale_shift_norm': True, 'heads': 0}"):
        FORM.options(skeleton, {"model.parametrization": "edm"})


@pytest.mark.parametrize(
    ("file", "figure", "n_steps"),
    [
        ("edm-cifar10-32x32-uncond-vp.pkl", "FID 1.97", 18),
        ("edm-cifar10-32x32-cond-ve.pkl", "FID 1.79", 18),
        ("edm-ffhq-64x64-uncond-ve.pkl", "FID 2.53", 40),
        ("edm-afhqv2-64x64-uncond-vp.pkl", "FID 1.96", 40),
        ("edm-imagenet-64x64-cond-adm.pkl", "FID 1.36", 256),
        ("baseline-cifar10-32x32-uncond-vp.pkl", "FID 3.01", 18),
    ],
)
def test_published_files_have_cards(file, figure, n_steps):
    card = published.card(FORM, published.Source(published.Path(file), {}))
    assert (card.figure, card.license, card.commercial) == (figure, "CC-BY-NC-SA-4.0", False)
    assert card.fields["sampling.n_steps"] == n_steps
    assert card.source.endswith(file)


def test_a_written_file_is_the_state_dict_of_its_preconditioning(tmp_path):
    _, state, config, skeleton = shapes_of("edm_reference_adm")
    options = FORM.options(skeleton, {"model.parametrization": "edm_iddpm"})
    path = FORM.write(tmp_path, state, options, base.About({}))
    written = published.read(path)
    assert written.content.keys() == {f"model.{name}" for name in state} | {"u"}
    levels = written.content["u"]
    assert (levels.shape, levels[-1]) == ((1001,), 0)
    assert (np.diff(levels) < 0).all()
    form, found = published.identify(written)
    assert form is FORM
    assert found.fields["model.parametrization"] == "edm_iddpm"
    again = published.params(FORM, found.arrays, config)
    jax.tree.map(np.testing.assert_array_equal, again, published.params(FORM, state, config))


def test_a_written_network_keeps_what_its_tensors_do_not_tell(tmp_path):
    _, state, config, skeleton = shapes_of("edm_reference_adm")
    fields = {"model.parametrization": "edm_vp", "model.label_dropout": 0.25}
    FORM.write(tmp_path, state, FORM.options(skeleton, fields), base.About({}))
    model = open_(tmp_path)
    assert model.found.fields.items() >= (fields | {"model.dropout": config.model.dropout}).items()


@pytest.mark.thorough
def test_levels_of_the_sampler_are_the_network_s(tmp_path):
    arrays = golden.load("edm_vp_precond_ddpmpp")
    described = arguments_of(arrays, precond="VEPrecond")
    _, config = opened(nvidia_files.save(tmp_path / "edm.pkl", state_of(arrays), described))
    sampler = pipelines.untrained(config).sampler
    assert jnp.isclose(sampler.sigma_min, 0.02)
