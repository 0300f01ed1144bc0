import golden
import jax
import numpy as np
import pytest
import torch_writer

import models

NAMES = (
    "ncsnpp_ve_continuous",
    "ncsnpp_highres_skip",
    "ncsnpp_residual_cat",
    "ddpmpp_vp_continuous",
    "ddpm_vp",
)
EDM_NAMES = ("edm_ddpmpp_class_augment", "edm_ncsnpp", "edm_vp_precond_ddpmpp", "edm_adm_class")


def golden_config(arrays, name):
    """The config of a golden file; that of DDPM lacks the network's name."""
    config = golden.config(arrays)
    config.model.name = "ddpm" if name == "ddpm_vp" else config.model.name
    return config


@pytest.mark.thorough
@pytest.mark.parametrize("name", NAMES)
def test_imported_networks_agree_with_the_published_code(name):
    arrays = golden.load(name)
    config = golden_config(arrays, name)
    params = models.torch_import.score_sde(golden.state_dict(arrays), config)
    x = golden.channels_last(arrays["x"])
    output = jax.jit(models.create(config).apply)({"params": params}, x, arrays["labels"])
    golden.assert_close(output, golden.channels_last(arrays["output"]), 1e-5)


def edm_conditions(arrays):
    """Class labels as integers and augmentation labels as in EDM, if the file has them."""
    given = {}
    if "class_labels" in arrays:
        given["class_labels"] = arrays["class_labels"].argmax(1)
    if "augment_labels" in arrays:
        given["augment_labels"] = arrays["augment_labels"]
    return given


@pytest.mark.thorough
@pytest.mark.parametrize("name", EDM_NAMES)
def test_imported_edm_networks_agree_with_the_published_code(name):
    arrays = golden.load(name)
    config = golden.edm_config(arrays)
    params = models.torch_import.edm(golden.edm_state_dict(arrays), config)
    skip, out, scale, noise = (c.astype(np.float32) for c in golden.edm_preconditioning(arrays))
    x = golden.channels_last(arrays["x"])
    output = jax.jit(models.create(config).apply)(
        {"params": params}, scale[:, None, None, None] * x, noise, **edm_conditions(arrays)
    )
    denoised = skip[:, None, None, None] * x + out[:, None, None, None] * output
    golden.assert_close(denoised, golden.channels_last(arrays["output"]), 1e-5)


@pytest.mark.thorough
def test_rematerialised_networks_take_the_same_parameters():
    arrays = golden.load(NAMES[0])
    config, state = golden.config(arrays), golden.state_dict(arrays)
    plain = models.torch_import.score_sde(state, config)
    with config.unlocked():
        config.model.remat = True
    jax.tree.map(np.testing.assert_array_equal, models.torch_import.score_sde(state, config), plain)


def test_names_of_a_wrapped_module_and_buffers_are_understood():
    arrays = golden.load(NAMES[0])
    config, state = golden.config(arrays), golden.state_dict(arrays)
    wrapped = {f"module.{name}": value for name, value in state.items()}
    wrapped["module.sigmas"] = np.ones(1000)
    params = models.torch_import.score_sde(wrapped, config)
    np.testing.assert_array_equal(params["FourierEmbedding_0"]["W"], state["all_modules.0.W"])


def test_a_state_dict_of_another_network_is_refused_as_a_whole():
    arrays = golden.load(NAMES[0])
    config, state = golden.config(arrays), golden.state_dict(arrays)
    del state["all_modules.1.bias"]
    state["all_modules.99.weight"] = np.ones(3)
    state["all_modules.2.bias"] = np.ones(7)
    with pytest.raises(ValueError, match="does not fit") as error:
        models.torch_import.score_sde(state, config)
    for name in ("all_modules.1.bias", "all_modules.99.weight", "all_modules.2.bias: (7,)"):
        assert name in str(error.value)


def test_a_network_that_was_never_published_in_pytorch_form_is_refused_as_a_whole():
    arrays = golden.load("ddpm_vp")
    config, state = golden.config(arrays), golden.state_dict(arrays)
    config.model.name, config.model.nf = "ncsnv2_64", 4
    with pytest.raises(ValueError, match="NCSNv2 is none of score_sde's: it has 'ncsnpp'"):
        models.torch_import.score_sde(state, config)


def test_edm_names_are_understood_with_and_without_the_preconditioning():
    arrays = golden.load("edm_ncsnpp")
    config, state = golden.edm_config(arrays), golden.edm_state_dict(arrays)
    bare = {name.removeprefix("model."): value for name, value in state.items()}
    buffers = {"enc.8x8_down.conv0.resample_filter": np.ones((1, 1, 4, 4)), "u": np.ones(1001)}
    expected = models.torch_import.edm(state, config)
    found = models.torch_import.edm(bare | buffers, config)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    frequencies = state["model.map_noise.freqs"]
    np.testing.assert_array_equal(found["FourierEmbedding_0"]["W"], frequencies)


def test_an_edm_state_dict_of_another_network_is_refused_as_a_whole():
    arrays = golden.load("edm_ncsnpp")
    config, state = golden.edm_config(arrays), golden.edm_state_dict(arrays)
    del state["model.enc.8x8_block0.qkv.bias"]
    state["model.map_label.bias"] = np.ones(64)
    state["model.enc.8x8_aux_residual.bias"] = np.ones(7)
    with pytest.raises(ValueError, match="does not fit") as error:
        models.torch_import.edm(state, config)
    for name in ("8x8_block0.qkv.bias", "map_label.bias", "8x8_aux_residual.bias: (7,)"):
        assert name in str(error.value)


def test_edm_weights_are_refused_by_the_fields_of_another_network():
    config = golden.edm_config(golden.load("edm_ncsnpp"))
    config.model.log_labels = True
    config.model.fir = False
    with pytest.raises(ValueError, match=r"'log_labels': False, 'fir': True"):
        models.torch_import.edm({}, config)
    config.model.name = "ddpm"
    with pytest.raises(ValueError, match=r"the network DDPM with these fields is none of EDM's"):
        models.torch_import.edm({}, config)


def test_edm_weights_are_read_from_their_pickle_and_from_plain_arrays(tmp_path):
    arrays = golden.load("edm_ncsnpp")
    config, state = golden.edm_config(arrays), golden.edm_state_dict(arrays)
    ema = torch_writer.network(state, buffers=("freqs",))
    content = {"ema": ema, "loss_fn": torch_writer.persistent("EDMLoss"), "augment_pipe": None}
    (tmp_path / "edm.pkl").write_bytes(torch_writer.pickled(content, 4, nested=True)[0])
    np.savez(tmp_path / "edm.npz", **state)
    expected = models.torch_import.edm(state, config)
    for name in ("edm.pkl", "edm.npz"):
        found = models.torch_import.load_state_dict(tmp_path / name)
        params = models.torch_import.edm(found, config)
        jax.tree.map(np.testing.assert_array_equal, params, expected)


FOREIGN = torch_writer.Call("my.Thing", ())


def test_a_file_of_more_than_arrays_is_no_state_dict(tmp_path):
    torch_writer.save_zip(tmp_path / "file.pth", {"w": FOREIGN})
    with pytest.raises(ValueError, match=r"file.pth holds my\.Thing .* for w, no array: give"):
        models.torch_import.load_state_dict(tmp_path / "file.pth")
