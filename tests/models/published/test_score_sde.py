import json

import golden
import jax
import ml_dtypes
import numpy as np
import pytest
import torch_writer

import models
from configs import cifar10, ffhq
from models import published
from models.published.score_sde import averaged

FLAX = "score_sde_flax_checkpoint"


@pytest.fixture(scope="module")
def flax_checkpoint():
    """The form, what was found, and the golden numbers of a checkpoint of the JAX version."""
    source = published.read(golden.FOLDER / f"{FLAX}.msgpack")
    return *published.identify(source), golden.load(FLAX)


@pytest.mark.thorough
def test_weights_of_the_jax_version_give_its_numbers(flax_checkpoint):
    form, found, arrays = flax_checkpoint
    config = golden.config(arrays)
    assert (form.name, found.step) == ("score_sde_jax", int(arrays["step"]))
    network = jax.jit(models.create(config).apply)
    for weights, name in ((found.arrays, "output"), (found.last, "output_optimizer_target")):
        params = published.params(form, weights, config)
        output = network({"params": params}, arrays["x"], arrays["labels"])
        for ours, theirs in zip(output, arrays[name], strict=True):
            golden.assert_close(ours, theirs, 1e-5)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("ve.cifar10_ncsnpp_continuous", cifar10.get_config("ve_ncsnpp_continuous")),
        pytest.param(
            *("ve.cifar10_ncsnpp_deep_continuous", cifar10.get_config("ve_ncsnpp_deep_continuous")),
            marks=pytest.mark.slow,
        ),
        ("vp.cifar10_ddpmpp_continuous", cifar10.get_config("vp_ddpmpp_continuous")),
        ("ve.ffhq_256_ncsnpp_continuous", ffhq.get_config("ve_ncsnpp_continuous_256")),
        ("vp.ddpm.cifar10", cifar10.get_config("vp_ddpm")),
    ],
)
def test_full_size_networks_have_the_jax_version_s_names_and_shapes(flax_checkpoint, name, config):
    form, _, arrays = flax_checkpoint
    theirs = json.loads(str(arrays[f"names/{name}"]))
    bare = published.skeleton(config)
    table = form.table(bare)
    ours = {table[location].name: leaf.shape for location, leaf in bare.shapes.items()}
    old_norms = {
        name: (shape[3],) if shape[:3] == [1, 1, 1] else tuple(shape) for name, shape in theirs
    }
    assert ours == old_norms


def checkpoint():
    """A small checkpoint of score_sde, in which each EMA weight is 100 above its weight."""
    model = {
        "module.sigmas": np.ones(3),
        "module.all_modules.0.W": np.arange(4.0),
        "module.all_modules.2.weight": np.full((2, 3), 2.0),
        "module.all_modules.10.NIN_0.W": np.full((2, 2), 3.0),
        "module.all_modules.10.NIN_0.b": np.full(2, 4.0),
    }
    averages = [value + 100 for value in list(model.values())[2:]]
    return {"model": model, "ema": {"shadow_params": averages}, "step": 7}


def test_averages_take_the_place_of_the_trained_parameters_in_their_order():
    model = checkpoint()["model"]
    made = averaged(model, checkpoint()["ema"]["shadow_params"])
    assert list(made) == list(model)
    for name, value in made.items():
        trained = name not in ("module.sigmas", "module.all_modules.0.W")
        np.testing.assert_array_equal(value, model[name] + 100 * trained, err_msg=name)


def test_averages_that_are_not_the_model_s_are_refused():
    model, averages = checkpoint()["model"], checkpoint()["ema"]["shadow_params"]
    with pytest.raises(ValueError, match="holds 2 arrays, but its model has 3 trained"):
        averaged(model, averages[1:])
    with pytest.raises(ValueError, match=r"all_modules.2.weight: \(2,\), not \(2, 3\)"):
        averaged(model, averages[::-1])


def written(saved):
    """The same as a file of PyTorch holds it."""
    model = {name: torch_writer.tensor(value) for name, value in saved["model"].items()}
    averages = [torch_writer.tensor(value) for value in saved["ema"]["shadow_params"]]
    return {
        "optimizer": {"state": {}},
        "model": torch_writer.Call("collections.OrderedDict", (), {"_metadata": {}}, model),
        "ema": {"decay": 0.999, "num_updates": 7, "shadow_params": averages},
        "step": 7,
    }


def test_a_checkpoint_gives_its_weights_its_averages_and_its_step(tmp_path):
    saved = checkpoint()
    torch_writer.save_zip(tmp_path / "zip.pth", written(saved))
    (tmp_path / "legacy.pth").write_bytes(torch_writer.legacy(written(saved)))
    for name in ("zip.pth", "legacy.pth"):
        form, found = published.identify(published.read(tmp_path / name))
        assert (form.name, found.step) == ("score_sde", 7)
        jax.tree.map(np.testing.assert_array_equal, found.last, saved["model"])
        expected = averaged(saved["model"], saved["ema"]["shadow_params"])
        jax.tree.map(np.testing.assert_array_equal, found.arrays, expected)


@pytest.mark.thorough
def test_numbers_of_fewer_bits_become_float32(tmp_path):
    arrays = golden.load("ddpm_vp")
    config, state = golden.config(arrays), golden.state_dict(arrays)
    config.model.name = "ddpm"
    half = {name: value.astype(ml_dtypes.bfloat16) for name, value in state.items()}
    content = {name: torch_writer.tensor(value) for name, value in half.items()}
    torch_writer.save_zip(tmp_path / "file.pth", content)
    form, found = published.identify(published.read(tmp_path / "file.pth"))
    params = published.params(form, found.arrays, config)
    expected = {name: value.astype(np.float32) for name, value in half.items()}
    jax.tree.map(np.testing.assert_array_equal, params, published.params(form, expected, config))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("name", ["ncsnpp_ve_continuous", "ncsnpp_residual_cat", "ddpm_vp"])
def test_a_written_checkpoint_is_read_back_in_the_order_of_pytorch(tmp_path, name):
    arrays = golden.load(name)
    config, state = golden.config(arrays), golden.state_dict(arrays)
    config.model.name = "ddpm" if name == "ddpm_vp" else "ncsnpp"
    form, bare = published.FORMATS["score_sde"], published.skeleton(config)
    written = published.base.extract(published.params(form, state, config), form.table(bare))
    fields = {"optim.lr": 1e-3, "optim.beta1": 0.9, "optim.beta2": 0.99, "optim.eps": 1e-8}
    fields |= {"optim.weight_decay": 0.0, "model.ema_rate": 0.999}
    about = published.base.About(fields, 7)
    path = form.write(tmp_path, written | form.constants(bare), {}, about)
    content = models.weights.read(path)
    assert content["step"] == 7
    names = [f"module.{name}" for name in state]
    assert list(content["model"]) == ["module.sigmas", *names]
    for name, value in state.items():
        np.testing.assert_array_equal(content["model"][f"module.{name}"], value)
    trained = [value for name, value in state.items() if name != "all_modules.0.W"]
    jax.tree.map(np.testing.assert_array_equal, content["ema"]["shadow_params"], trained)
    sigmas = content["model"]["module.sigmas"]
    assert (sigmas[0], sigmas[-1], len(sigmas)) == (50.0, np.float32(0.01), 1000)


STATE = {"all_modules.0.weight": torch_writer.tensor(np.ones(1))}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": STATE, "step": 1}, "but no list ema.shadow_params, their averages"),
        ({"model": STATE, "ema": {"w": 1}, "step": 1}, "but no list ema.shadow_params"),
        ({"state_dict": {}, "epoch": 3}, r"holds \['epoch', 'state_dict'\], which is no published"),
        ({"w": torch_writer.tensor(np.ones(1))}, r"holds \['w'\], which is no published model"),
        ([], "holds a list, which is no published model that is known here: known are a model"),
        (torch_writer.Call("my.Thing", ()), r"holds my\.Thing \(code, which is not run\), which"),
    ],
)
def test_another_file_is_refused_in_one_line(tmp_path, content, message):
    torch_writer.save_zip(tmp_path / "checkpoint.pth", content)
    with pytest.raises(ValueError, match=message) as error:
        published.identify(published.read(tmp_path / "checkpoint.pth"))
    assert "\n" not in str(error.value)


def test_the_card_of_a_published_folder_names_its_config():
    form = published.FORMATS["score_sde"]
    for folder, config in (
        ("vp/cifar10_ddpmpp_continuous", "cifar10:vp_ddpmpp_continuous"),
        ("subvp/cifar10_ddpmpp_continuous", "cifar10:subvp_ddpmpp_continuous"),
    ):
        source = published.Source(golden.FOLDER / folder / "checkpoint_26.pth", {})
        card = published.card(form, source)
        assert card is not None
        assert card.config == config
    assert published.card(form, published.Source(golden.FOLDER / "checkpoint_26.pth", {})) is None
