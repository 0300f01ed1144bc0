import contextlib
import os
import pickle
import re
import subprocess
import sys
import tracemalloc
import types
import zipfile
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
import torch_writer
from torch_writer import HOOKS, Call, Name, Storage, Tensor

from models import weights


@pytest.fixture(params=["zip", "compressed", "legacy", "nested"])
def save(request, tmp_path):
    """save(tree): the path of a file of PyTorch, or of a pickle that holds such files."""
    path = tmp_path / "file"

    def write(tree, protocol=2):
        if request.param == "legacy":
            path.write_bytes(torch_writer.legacy(tree, protocol))
        elif request.param == "nested":
            path.write_bytes(torch_writer.pickled(tree, protocol, nested=True)[0])
        else:
            stored = request.param == "zip"
            kind = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
            torch_writer.save_zip(path, tree, protocol, kind)
        return path

    return write


@pytest.mark.parametrize("protocol", [2, 4])
def test_tensors_of_every_type_are_read(save, protocol):
    arrays = {
        str(dtype): (np.arange(6) % 2).astype(dtype).reshape(2, 3) for dtype in torch_writer.KINDS
    }
    arrays |= {"scalar": np.float32(3), "empty": np.zeros((0, 3), np.float32)}
    found = weights.read(save({k: torch_writer.tensor(v) for k, v in arrays.items()}, protocol))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


def test_tensors_share_storages_by_offsets_and_strides(save):
    storage = Storage(np.arange(12, dtype=np.float32))
    found = weights.read(
        save(
            {
                "all": torch_writer.parameter(Tensor(storage, 0, (12,), (1,))),
                "transposed": Tensor(storage, 1, (3, 2), (1, 4)),
                "repeated": Tensor(storage, 5, (2, 2), (0, 1)),
            }
        )
    )
    np.testing.assert_array_equal(found["all"], np.arange(12))
    np.testing.assert_array_equal(found["transposed"], [[1, 5], [2, 6], [3, 7]])
    np.testing.assert_array_equal(found["repeated"], [[5, 6], [5, 6]])


def test_a_checkpoint_keeps_its_numbers_texts_and_options(save):
    tree = {
        "state": Call("collections.OrderedDict", (), {"_metadata": {"": {}}}, {"z": 1, "a": 2}),
        "size": Call("torch.Size", ([1, 2],)),
        "device": Call("torch.device", ("cuda", 0)),
        "type": Name("torch.float16"),
        "args": Call("argparse.Namespace", (), {"lr": 0.1}, is_new=True),
        "betas": np.linspace(0, 1, 5),
        "step": 7,
    }
    found = weights.read(save(tree))
    assert list(found["state"].items()) == [("z", 1), ("a", 2)]
    assert (found["size"], found["device"], found["step"]) == ((1, 2), "cuda:0", 7)
    assert (found["type"].name, found["args"].state) == ("torch.float16", {"lr": 0.1})
    np.testing.assert_array_equal(found["betas"], tree["betas"])


def test_other_ways_to_write_a_tensor_are_read(save):
    numbers = np.arange(6).astype(ml_dtypes.float8_e4m3fn)
    storage = Storage(numbers.view(np.uint8), "torch.storage.UntypedStorage")
    place = (storage, 2, (2,), (2,), False, HOOKS)
    tensor = torch_writer.tensor(np.ones(2, np.float32))
    function, kind = Name("torch._utils._rebuild_tensor_v2"), Name("torch.nn.Parameter")
    args = torch_writer.rebuilt(tensor).args
    found = weights.read(
        save(
            {
                "v1": Call("torch._utils._rebuild_tensor", args[:4]),
                "v3": Call(
                    "torch._utils._rebuild_tensor_v3", (*place, Name("torch.float8_e4m3fn"))
                ),
                "with state": Call(
                    "torch._utils._rebuild_parameter_with_state", (tensor, True, HOOKS, {"a": 1})
                ),
                "subclass": Call(
                    "torch._tensor._rebuild_from_type_v2", (function, kind, args, {"a": 1})
                ),
            }
        )
    )
    np.testing.assert_array_equal(found["v3"], numbers[[2, 4]], strict=True)
    for name in ("v1", "with state", "subclass"):
        np.testing.assert_array_equal(found[name], [1, 1])


def test_views_and_modules_of_the_oldest_files_are_read(tmp_path):
    """A storage that is a part of another, and a class that is stored with its source."""
    content = torch_writer.legacy({"a": Storage(np.arange(8.0)), "b": 1})
    pickle_of_none, of_view = b"K\x08Ntq", b"K\x08(U\x01vK\x02K\x03ttq"
    assert content.count(b"K\x08tq") == 1
    (tmp_path / "file").write_bytes(content.replace(b"K\x08tq", of_view))
    np.testing.assert_array_equal(
        np.frombuffer(weights.read(tmp_path / "file")["a"].data), [2.0, 3.0, 4.0]
    )
    (tmp_path / "file").write_bytes(content.replace(b"K\x08tq", pickle_of_none))
    assert len(weights.read(tmp_path / "file")["a"].data) == 64


def test_numbers_from_a_machine_of_the_other_byte_order_are_turned(tmp_path):
    array = np.arange(3, dtype=np.float32)
    swapped = torch_writer.tensor(array)
    swapped.storage.array, swapped.storage.kind = array.astype(">f4"), "torch.FloatStorage"
    content = torch_writer.legacy({"a": swapped}).replace(
        b"little_endianq\x02\x88", b"little_endianq\x02\x89"
    )
    (tmp_path / "file").write_bytes(content)
    found = weights.read(tmp_path / "file")["a"]
    np.testing.assert_array_equal(found, array, strict=True)


@pytest.mark.parametrize("kind", ["torch.QInt8Storage", "torch.cuda.QUInt4x2Storage"])
def test_quantised_numbers_are_refused_by_name(save, kind):
    storage = Storage(np.arange(12, dtype=np.int8), kind)
    path = save({"a": Call("torch._utils._rebuild_qtensor", (storage, 0, (12,), (1,)))})
    with pytest.raises(ValueError, match=rf"numbers of the type {kind}, which cannot be read"):
        weights.read(path)


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (0, (13,), (1,)),
        (9, (2, 2), (3, 1)),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (0, (2**62,), (4,)),
    ],
)
def test_tensors_never_leave_their_storage(save, offset, shape, strides):
    storage = Storage(np.arange(12, dtype=np.float32))
    with pytest.raises(ValueError, match="cannot be read"):
        weights.read(save({"a": Tensor(storage, offset, shape, strides)}))


def test_a_file_that_is_cut_anywhere_is_refused(save, tmp_path):
    content = save({"a": torch_writer.tensor(np.arange(40.0)), "b": np.ones(3)}).read_bytes()
    for end in range(0, len(content), 7):
        (tmp_path / "cut").write_bytes(content[:end])
        with pytest.raises(ValueError, match=r"cut looks like|cut is no file of weights"):
            weights.read(tmp_path / "cut")


def test_a_damaged_file_is_read_or_refused(save, tmp_path):
    content = save({"a": torch_writer.tensor(np.arange(40.0)), "b": np.ones(3)}).read_bytes()
    random = np.random.RandomState(0)
    for _ in range(200):
        damaged = bytearray(content)
        damaged[random.randint(len(content))] = random.randint(256)
        (tmp_path / "damaged").write_bytes(damaged)
        with contextlib.suppress(ValueError):
            weights.read(tmp_path / "damaged")


def test_a_file_that_lost_a_storage_is_refused(tmp_path):
    torch_writer.save_zip(tmp_path / "whole", {"a": torch_writer.tensor(np.ones(2))})
    with (
        zipfile.ZipFile(tmp_path / "whole") as whole,
        zipfile.ZipFile(tmp_path / "zip", "w") as zip,
    ):
        zip.writestr("archive/data.pkl", whole.read("archive/data.pkl"))
    with pytest.raises(ValueError, match=r"KeyError: .*no item named 'archive/data/0'"):
        weights.read(tmp_path / "zip")


def peak(function):
    """The most memory that a function allocates, in bytes, and its result."""
    tracemalloc.start()
    try:
        result = function()
        return tracemalloc.get_traced_memory()[1], result
    finally:
        tracemalloc.stop()


@pytest.mark.thorough
def test_a_gigabyte_is_read_in_place(tmp_path):
    """The file is sparse. A copy of an array needs the memory of that array alone."""
    size, parts, path = 2**28, 16, tmp_path / "file.pth"
    sparse = types.SimpleNamespace(dtype=np.dtype(np.float32), size=size, tobytes=lambda: b"")
    storage, each = Storage(sparse), size // parts
    tensors = {str(i): Tensor(storage, i * each, (each,), (1,)) for i in range(parts)}
    path.write_bytes(torch_writer.legacy(tensors))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + 4 * size)

    memory, found = peak(lambda: weights.read(path))
    assert memory < 2**20
    memory, copies = peak(lambda: [np.array(found[str(i)]) for i in range(2)])
    assert memory < 1.01 * sum(copy.nbytes for copy in copies)


@pytest.mark.parametrize("kind", ["zip", "legacy", "nested"])
def test_storages_stay_in_the_file(tmp_path, kind):
    arrays = {str(i): torch_writer.tensor(np.ones(2**20, np.float32)) for i in range(4)}
    if kind == "zip":
        torch_writer.save_zip(tmp_path / "file", arrays)
    else:
        nested = kind == "nested"
        content = (
            torch_writer.pickled(arrays, 4, True)[0] if nested else torch_writer.legacy(arrays)
        )
        (tmp_path / "file").write_bytes(content)
    memory, found = peak(lambda: weights.read(tmp_path / "file"))
    assert memory < (5 if kind == "nested" else 1) * 2**20  # one array at a time is passed over
    for array in found.values():
        np.testing.assert_array_equal(array, 1)
        assert not array.flags.writeable
    before = file_pages()
    weights.release(found["2"])
    assert before - file_pages() > 15 * 2**20
    np.testing.assert_array_equal(found["2"], 1)


def file_pages():
    """The bytes of files that are in the memory of this process."""
    return 1024 * int(re.search(r"RssFile:\s+(\d+)", Path("/proc/self/status").read_text())[1])


IMPORT = """
import re, sys
from pathlib import Path
import jax.numpy as jnp
from models import weights

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

jnp.ones(1).block_until_ready()
start, copies = peak(), []
for array in weights.read(sys.argv[1]).values():
    copies.append(jnp.asarray(array.reshape(1024, -1).T, jnp.float32).block_until_ready())
    weights.release(array)
print((peak() - start) / 2**20)
"""


@pytest.mark.slow
def test_a_gigabyte_becomes_parameters_in_little_more_memory(tmp_path):
    ones = np.ones(2**22, np.float32)
    tree = {str(i): torch_writer.tensor(ones) for i in range(64)}
    (tmp_path / "file").write_bytes(torch_writer.legacy(tree))
    command = [sys.executable, "-c", IMPORT, str(tmp_path / "file")]
    root = str(Path(weights.__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": root}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert float(done.stdout) < 1.2


def test_files_of_pytorch_itself_are_read(tmp_path):
    torch = pytest.importorskip("torch")
    base = torch.arange(24.0).reshape(4, 6)
    tagged = torch.nn.Parameter(base.clone())
    tagged.name_of_mine = "w"
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
    tree = {
        "state": network.state_dict(),
        "tagged": tagged,
        "views": [base.t(), base[1:3, ::2], torch.zeros(1, 3).expand(4, 3), torch.zeros(0, 2)],
        "half": base.bfloat16(),
        "conjugated": torch.view_as_complex(base.reshape(2, 6, 2)).clone().conj(),
        "layout": torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
    }
    expected = {
        "state": {name: value.numpy() for name, value in network.state_dict().items()},
        "tagged": tagged.detach().numpy(),
        "views": [value.numpy() for value in tree["views"]],
        "half": base.numpy().astype(ml_dtypes.bfloat16),
        "conjugated": tree["conjugated"].resolve_conj().numpy(),
        "layout": tree["layout"].numpy(),
    }
    path = tmp_path / "file"
    for write in (
        lambda content: torch.save(content, path),
        lambda content: torch.save(content, path, _use_new_zipfile_serialization=False),
        lambda content: path.write_bytes(pickle.dumps(content, 4)),
    ):
        write(tree)
        jax.tree.map(np.testing.assert_array_equal, weights.read(path), expected)
        write(network)
        assert list(weights.state_dict(weights.read(path))) == list(expected["state"])
