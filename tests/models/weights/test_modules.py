import golden
import numpy as np
import pytest
import torch_writer
from torch_writer import Call

from models import weights


def container(**modules):
    state = torch_writer.module_state(modules=modules)
    return Call("torch.nn.modules.container.ModuleDict", (), state, is_new=True)


def snapshot(path, state, buffers=()):
    """A file of an EDM run."""
    content = {
        "ema": torch_writer.network(state, buffers),
        "loss_fn": torch_writer.persistent("EDMLoss"),
        "augment_pipe": None,
        "dataset_kwargs": Call("dnnlib.util.EasyDict", (), None, {"path": "x"}, is_new=True),
    }
    path.write_bytes(torch_writer.pickled(content, 4, nested=True)[0])
    return path


def test_networks_of_nvidia_are_read_without_their_source(tmp_path):
    state = golden.edm_state_dict(golden.load("edm_adm_class"))
    found = weights.read(snapshot(tmp_path / "edm.pkl", state, ("resample_filter", "freqs")))
    assert found["dataset_kwargs"] == {"path": "x"}
    assert weights.is_module(found["ema"])
    assert not weights.is_module(found)
    ema = found["ema"]
    assert (ema.name, ema.args, ema.kwargs) == ("Module", (8,), {"label_dim": 3})
    arrays = weights.state_dict(ema)
    assert arrays.keys() == state.keys()
    for name, value in state.items():
        np.testing.assert_array_equal(arrays[name], value, strict=True)


def test_only_what_pytorch_would_save_is_in_the_state_dict(tmp_path):
    state = torch_writer.module_state({"w": np.ones(2)}, buffers={"kept": np.ones(1)})
    state["_buffers"] |= {"unsaved": torch_writer.tensor(np.ones(3)), "none": None}
    state["_non_persistent_buffers_set"] = {"unsaved"}
    inner = torch_writer.persistent("Linear", {"weight": np.zeros((2, 2), np.float16)})
    modules = {"enc": container(a=inner, b=inner)}
    state["_modules"] = modules
    whole = Call("some.where.Net", (), state, is_new=True)
    torch_writer.save_zip(tmp_path / "net.pt", whole)
    found = weights.state_dict(weights.read(tmp_path / "net.pt"))
    assert list(found) == ["w", "kept", "enc.a.weight", "enc.b.weight"]


def test_arrays_in_dicts_have_names_with_dots():
    one = np.ones(1)
    assert list(weights.state_dict({"a": {"b": one, "c": {}}, "d": one})) == ["a.b", "d"]
    gain = weights.state_dict({"gain": np.float32(2)})["gain"]
    np.testing.assert_array_equal(gain, np.array(2, np.float32), strict=True)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": {"step": 3}}, "holds an int for a.step, no array"),
        ([np.ones(1)], "holds a list, no arrays by name"),
        (
            {"a": weights.Record("my.Thing", ())},
            r"holds my\.Thing \(code, which is not run\) for a, no array",
        ),
        (weights.Record("my.Thing", (), state={"_modules": {}}), r"holds my\.Thing \("),
    ],
)
def test_what_is_no_array_is_named(tree, message):
    with pytest.raises(ValueError, match=message):
        weights.state_dict(tree)


def test_objects_are_described_for_messages():
    assert weights.about({"b": 1, "a": 2}) == "['a', 'b']"
    assert weights.about(dict.fromkeys(range(10))).endswith("'7'] and more")
