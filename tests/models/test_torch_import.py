import re
import sys
import types
import zipfile
from pickle import UnpicklingError

import golden
import jax
import numpy as np
import pytest

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
    with pytest.raises(ValueError, match=r"missing \[.*gamma.*; left over .*all_modules.9.Conv_0"):
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
    for name in ("8x8_block0.qkv[2].bias", "map_label.bias", "8x8_aux_residual.bias: (7,)"):
        assert name in str(error.value)


def test_edm_weights_are_refused_by_the_fields_of_another_network():
    config = golden.edm_config(golden.load("edm_ncsnpp"))
    config.model.log_labels = True
    config.model.fir = False
    with pytest.raises(ValueError, match=r"'log_labels': False, 'progressive_input': 'none'"):
        models.torch_import.edm({}, config)
    config.model.name = "ddpm"
    with pytest.raises(ValueError, match=r"name='ddpm' .* is none of EDM's networks"):
        models.torch_import.edm({}, config)


def test_plain_arrays_are_read_and_objects_are_not(tmp_path):
    saved = {"model.a.weight": np.arange(3.0), "model.b.bias": np.ones(2)}
    np.savez(tmp_path / "plain.npz", **saved)
    jax.tree.map(
        np.testing.assert_array_equal, models.torch_import.load_npz(tmp_path / "plain.npz"), saved
    )
    np.savez(tmp_path / "code.npz", a=np.array([print], object))
    np.save(tmp_path / "array.npy", np.ones(2))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    (tmp_path / "text.npz").write_text("no weights")
    damage(tmp_path)
    for name in ("code", "array", "text", *DAMAGED):
        with pytest.raises(ValueError, match=r"is not an \.npz file of plain arrays"):
            models.torch_import.load_npz(tmp_path / f"{name}.npz")


DAMAGED = ("empty", "zip", "cut", "flipped", "encrypted", "packed")


def damage(folder):
    """Makes .npz files that are damaged, or zips of a kind that Python cannot unpack."""
    data = (folder / "plain.npz").read_bytes()
    at = data.find(b"PK\1\2")  # the list of its files, which repeats their headers
    for name, changes in (
        ("flipped", {data.find(b"NUMPY") + 130: 0xFF}),  # in the numbers of an array
        ("encrypted", {6: 1, at + 8: 1}),
        ("packed", {8: 99, at + 10: 99}),  # by an unknown method
    ):
        damaged = bytearray(data)
        for place, value in changes.items():
            damaged[place] ^= value
        (folder / f"{name}.npz").write_bytes(damaged)
    (folder / "empty.npz").write_bytes(b"")
    with zipfile.ZipFile(folder / "zip.npz", "w") as archive:
        archive.writestr("read me.txt", "no array")
    (folder / "cut.npz").write_bytes(data[: len(data) // 2])


class Tensor:
    """A tensor as PyTorch's are used here; of bfloat16, which NumPy does not have."""

    def __init__(self, values, size=4):
        self.values, self.size = np.asarray(values, np.float32), size

    def is_floating_point(self):
        return True

    def element_size(self):
        return self.size

    def float(self):
        return Tensor(self.values)

    def __int__(self):
        return int(self.values)

    def numpy(self, force):
        if self.size == 2:
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.values


@pytest.fixture
def pth(tmp_path, monkeypatch):
    """pth(content): the path of a file that a stand-in for PyTorch reads as that content."""
    path, torch = tmp_path / "checkpoint.pth", types.ModuleType("torch")
    monkeypatch.setitem(sys.modules, "torch", torch)

    def write(content):
        def load(*_, **__):
            if isinstance(content, Exception):
                raise content
            return content

        monkeypatch.setattr(torch, "load", load, raising=False)
        path.write_bytes(b"PK\3\4")
        return path

    return write


def test_numbers_that_numpy_lacks_become_float32(pth):
    content = {
        "model": {"w": Tensor([1.5], size=2)},
        "ema": {"shadow_params": [Tensor([2.5], size=2)]},
        "step": Tensor(7),
    }
    loaded = models.torch_import.load_pth(pth(content))
    assert loaded == {"model": {"w": 1.5}, "ema": {"shadow_params": [2.5]}, "step": 7}
    assert loaded["model"]["w"].dtype == np.float32
    assert models.torch_import.load_state_dict(pth(content["model"])) == {"w": 1.5}


STATE = {"w": Tensor([1.0])}
LIST = {"shadow_params": [Tensor([1.0])]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": STATE, "epoch": 3}, r"holds \['epoch', 'state_dict'\], but .* model \(t"),
        (STATE, r"holds \['w'\], but .* that has model \(tensors by name\), ema.shadow_params"),
        ({"model": STATE, "ema": STATE, "step": 1}, r"one that has ema.shadow_params \(a list"),
        ({"model": STATE, "ema": None, "step": 1}, r"one that has ema.shadow_params \(a list"),
        ({"model": STATE, "ema": {"shadow_params": [None]}, "step": 1}, "has ema.shadow_params"),
        ({"model": {"w": {}}, "ema": LIST, "step": 1}, r"one that has model \(tensors by name\)"),
        ({"model": STATE, "ema": LIST, "step": None}, r"one that has step \(a number\)"),
        ([STATE], "holds a list, but a checkpoint of score_sde holds model, ema and step"),
        ({str(i): 0 for i in range(99)}, "'14', '15'] and more, but"),
        (EOFError(), r"holds nothing else \(EOFError\)"),
        (IndexError("pop from empty list"), "pop from empty list"),
        (RuntimeError("failed finding central directory\nframe #0: c10"), "central directory"),
        (UnpicklingError("Weights only load failed\n\nPlease"), "Weights only load failed"),
    ],
)
def test_a_checkpoint_of_another_trainer_or_a_damaged_one_is_refused_in_one_line(
    pth, content, message
):
    with pytest.raises(ValueError, match=message) as error:
        models.torch_import.load_pth(pth(content))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["no weights", "(html", "]", "version https://git-lfs.github"])
def test_a_text_is_refused_without_pytorch(tmp_path, monkeypatch, text):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "text.pth").write_text(text)
    with pytest.raises(ValueError, match=f"numbers alone: .*begins with b'{re.escape(text[:32])}"):
        models.torch_import.load_pth(tmp_path / "text.pth")


def test_a_broken_pytorch_is_named(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so.12: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    with pytest.raises(ValueError, match=r"cannot be imported \(libcudart.so.12: cannot open\)"):
        models.torch_import.load_pth("checkpoint.pth")


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
    averaged = models.torch_import.ema_state_dict(checkpoint())
    model = checkpoint()["model"]
    assert list(averaged) == list(model)
    for name, value in averaged.items():
        trained = name not in ("module.sigmas", "module.all_modules.0.W")
        np.testing.assert_array_equal(value, model[name] + 100 * trained, err_msg=name)


def test_averages_that_are_not_the_model_s_are_refused():
    without, fewer, swapped = checkpoint(), checkpoint(), checkpoint()
    del without["ema"]
    with pytest.raises(ValueError, match="holds 0 arrays, but its model has 3 trained"):
        models.torch_import.ema_state_dict(without)
    fewer["ema"]["shadow_params"].pop()
    with pytest.raises(ValueError, match="holds 2 arrays, but its model has 3 trained"):
        models.torch_import.ema_state_dict(fewer)
    swapped["ema"]["shadow_params"].reverse()
    with pytest.raises(ValueError, match=r"all_modules.2.weight: \(2,\), not \(2, 3\)"):
        models.torch_import.ema_state_dict(swapped)


def test_a_file_is_not_read_without_pytorch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ValueError, match=r"pip install -e '.\[torch\]'"):
        models.torch_import.load_pth("checkpoint.pth")


def test_a_file_gives_back_what_pytorch_saved_in_its_order(tmp_path):
    torch = pytest.importorskip("torch")
    saved = checkpoint()
    tensors = {
        "optimizer": {"state": {}},
        "model": {name: torch.from_numpy(value) for name, value in saved["model"].items()},
        "ema": {
            "decay": 0.999,
            "num_updates": 7,
            "shadow_params": [torch.from_numpy(value) for value in saved["ema"]["shadow_params"]],
        },
        "step": 7,
    }
    torch.save(tensors, tmp_path / "checkpoint.pth")
    loaded = models.torch_import.load_pth(tmp_path / "checkpoint.pth")
    assert list(loaded["model"]) == list(saved["model"])
    jax.tree.map(np.testing.assert_array_equal, loaded, saved)

    torch.save({"model": tensors["model"]}, tmp_path / "other.pth")
    torch.save({"model": pytest.raises}, tmp_path / "code.pth")
    (tmp_path / "text.pth").write_text("no weights")
    for name, message in (
        ("other", r"holds \['model'\], but"),
        ("code", "not a PyTorch file of tensors and numbers alone"),
        ("text", "not a PyTorch file of tensors and numbers alone"),
    ):
        with pytest.raises(ValueError, match=message):
            models.torch_import.load_pth(tmp_path / f"{name}.pth")
