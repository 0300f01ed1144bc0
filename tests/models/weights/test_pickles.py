import copyreg
import os
import pickle
import sys

import numpy as np
import pytest
import torch_writer
from torch_writer import Call, Name

from models import weights
from models.weights.constructors import CALLS
from models.weights.pickles import Cursor, Record, UnreadableError, load

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def loaded(data):
    return load(Cursor(data), CALLS)


def data():
    """Data of every kind that a pickle can hold; one list stands in it twice."""
    shared = [1, [2]]
    numbers = [0, -1, 255, 256, 65536, -(2**31), 2**40, -(10**30), 10**700, 0.1, -1e300, 1j, True]
    texts = ["", "a\nb\\", "\u1234\U0001f600", "x" * 300, "y" * 70000, b"", b"\0\xff\n", b"z" * 300]
    sets = [set(), {1, 2}, frozenset(), frozenset({"a"}), bytearray(b"abc")]
    dicts = [{}, {1: "a", "b": None, (1, 2): False}, dict.fromkeys(range(2000))]
    return [*numbers, texts, sets, dicts, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), shared, shared]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_data_are_what_python_reads(protocol):
    found = loaded(pickle.dumps(data(), protocol))
    assert found == data()
    assert found[-1] is found[-2]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_and_numbers_of_numpy_are_read(protocol):
    arrays = [
        np.arange(6.0).reshape(2, 3),
        np.arange(6).reshape(2, 3).T.copy(order="F"),
        np.arange(3, dtype=">i2"),
        np.array(["ab", "c"]),
        np.zeros((0, 2), np.complex64),
        np.ones(9999, bool),
        np.float32(1.5),
        np.int64(7),
    ]
    found = loaded(pickle.dumps([arrays, arrays[0]], protocol))
    for value, expected in zip(found[0], arrays, strict=True):
        np.testing.assert_array_equal(value, expected, strict=True)
    assert found[1] is found[0][0]


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_arrays_and_numbers_of_old_and_new_numpy_are_read(core):
    state = (3, "<", None, None, None, -1, -1, 0)
    dtype = Call("numpy.dtype", ("f8", False, True), state)
    array = Call(f"{core}.multiarray._reconstruct", (Name("numpy.ndarray"), (0,), b"b"))
    array.state = (1, (2,), dtype, False, np.array([1.0, 2.0]).tobytes())
    number = Call(f"{core}.multiarray.scalar", (dtype, np.float64(1.5).tobytes()))
    found = loaded(torch_writer.pickled([array, number], 4)[0])
    np.testing.assert_array_equal(found[0], [1.0, 2.0])
    assert found[1] == 1.5


def test_dicts_and_lists_that_hold_themselves_are_read():
    tree = {"a": []}
    tree["a"].append(tree)
    found = loaded(pickle.dumps(tree))
    assert found["a"][0] is found
    with pytest.raises(ValueError, match="list for a, no array"):
        weights.state_dict(found)
    tree["a"] = tree
    with pytest.raises(ValueError, match="dicts inside of themselves"):
        weights.state_dict(loaded(pickle.dumps(tree)))


@pytest.mark.parametrize("protocol", [2, 4])
def test_whatever_is_not_data_is_a_record(protocol):
    tree = {
        "type": Name("torch.float32"),
        "options": Call("argparse.Namespace", (), {"lr": 0.1}, is_new=True),
        "path": Call("pathlib.PosixPath", ("a", "b")),
        "list": Call("other.Dict", (), {"x": 1}, {"k": 2}, is_new=True),
        "twice": Call("builtins.getattr", (Name("a.B"), "c")),
    }
    found = loaded(torch_writer.pickled(tree, protocol)[0])
    assert found["type"].name == "torch.float32"
    assert found["type"].args is None
    assert (found["options"].name, found["options"].state) == ("argparse.Namespace", {"lr": 0.1})
    assert found["path"].args == ("a", "b")
    assert (found["list"].state, found["list"].items) == ({"x": 1}, [("k", 2)])
    assert found["twice"].args[0].name == "a.B"
    assert repr(found["path"]) == "Record(name='pathlib.PosixPath')"


def touch(path):
    return f"open({str(path)!r}, 'w').close()"


def hostile(path):
    """Pickles each of which makes a file where Python's own pickle reads it."""
    shell, python = f"touch {path}", touch(path)
    inner = torch_writer.pickled(Call("os.system", (shell,)))[0]
    objects = Call("numpy.core.multiarray._reconstruct", (Name("numpy.ndarray"), (0,), b"b"))
    objects.state = (1, (1,), Call("numpy.dtype", ("O", False, True)), False, [inner])
    trees = {
        "system": Call("posix.system", (shell,)),
        "old name": Call("__builtin__.eval", (python,)),
        "new": Call("subprocess.Popen", (["touch", str(path)],), is_new=True),
        "deep": [{"a": (Call("builtins.exec", (python,)),)}],
        "nested name": Call("pathlib.os.system", (shell,)),
        "getattr": Call("builtins.getattr", (Name("shutil"), "os")),
        "through NumPy": Call("numpy.testing._private.utils.runstring", (python, {})),
        "objects": objects,
        "pickle": Call("pickle.loads", (inner,)),
        "storage": Call("torch.storage._load_from_bytes", (inner,)),
        "partial": Call("functools.partial", (Name("posix.system"), shell)),
        "state": Call("torch._utils._rebuild_tensor_v2", (), {"__class__": Name("os.system")}),
        "reduced": Call("copyreg.__reduce_ex__", (Name("os.system"), 2)),
        "module": Call("torch_utils.persistence._reconstruct_persistent_obj", ({"meta": inner},)),
        "import": Name("antigravity.fly"),
    }
    pickles = {name: torch_writer.pickled(tree, 4)[0] for name, tree in trees.items()}
    pickles |= {
        "instance": b"\x80\x02(S'touch'\nios\nsystem\n.",
        "object": b"\x80\x02(cos\nsystem\nS'touch'\no.",
        "called twice": b"\x80\x02cbuiltins\ngetattr\n(cos2\nX\nS'system'\ntR(S'touch'\ntR.",
        "called text": b"\x80\x02S'system'\n(S'touch'\ntR.",
        "extension": b"\x80\x02\x82\x01(S'touch'\ntR.",
        "state of a name": b"\x80\x02ctorch\nSize\n}S'__call__'\ncos2\nsystem\nsb.",
        "state of an array": pickle.dumps(np.ones(2))[:-1] + b"(K\x01tb.",
        "buffer": b"\x80\x05\x97.",
    }
    return pickles


@pytest.fixture
def forbidden(monkeypatch):
    """Fails if a program is run, and knows an extension of pickles that would run one."""

    def run(*_):
        raise SystemExit("a program ran")

    monkeypatch.setattr(os, "system", run)
    monkeypatch.setitem(copyreg._inverted_registry, 1, ("os", "system"))
    monkeypatch.setattr(copyreg, "_extension_cache", {1: run}, raising=False)


@pytest.mark.parametrize("name", hostile("x"))
def test_hostile_pickles_never_run(tmp_path, forbidden, name):
    (tmp_path / "file.pkl").write_bytes(hostile(tmp_path / "ran")[name])
    with pytest.raises(ValueError, match=r"file\.pkl|no array") as error:
        weights.state_dict({"a": weights.read(tmp_path / "file.pkl")})
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("system", r"asks for posix\.system, which runs programs \(it did not run\)"),
        ("old name", r"asks for builtins\.eval"),
        ("new", r"asks for subprocess\.Popen"),
        ("deep", r"asks for builtins\.exec"),
        ("storage", r"asks for os\.system"),
        ("nested name", r"holds pathlib\.os\.system \(.*\) for a, no array"),
        ("through NumPy", r"holds numpy\.testing\._private\.utils\.runstring \("),
        ("objects", r"holds numpy\.ndarray \("),
        ("called twice", r"holds builtins\.getattr\(\.\.\.\) \("),
        ("called text", "calls a str"),
        ("extension", "uses the instruction EXT1"),
        ("state of an array", "sets attributes of a ndarray"),
    ],
)
def test_a_file_is_refused_by_the_name_of_what_it_wants(tmp_path, name, message):
    (tmp_path / "file.pkl").write_bytes(hostile(tmp_path / "ran")[name])
    with pytest.raises(ValueError, match=message):
        weights.state_dict({"a": weights.read(tmp_path / "file.pkl")})


def test_lengths_alone_allocate_nothing(tmp_path):
    for name in ("bytearray", "bytes"):
        content = torch_writer.pickled(Call(f"builtins.{name}", (10**15,)))[0]
        (tmp_path / "file.pkl").write_bytes(content)
        with pytest.raises(ValueError, match="cannot be read"):
            weights.read(tmp_path / "file.pkl")


def test_damaged_instructions_are_refused():
    for content in (
        b"\x80\x02.",
        b"\x80\x02(.",
        b"\x80\x02(\x85.",
        b"\x80\x02K\x01a.",
        b"\x80\x02t.",
    ):
        with pytest.raises((UnreadableError, IndexError)):
            loaded(content)
    assert isinstance(loaded(b"\x80\x02ca b\nc\n."), Record)
