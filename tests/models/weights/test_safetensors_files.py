import json
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from models import weights
from models.weights.dtypes import SAFETENSORS, TORCH


def test_arrays_of_every_type_are_read(tmp_path):
    arrays = {kind: np.ones((2, 3), TORCH[name]) for kind, name in SAFETENSORS.items()}
    arrays |= {
        "scalar": np.array(2.5),
        "empty": np.zeros((0, 3), ml_dtypes.bfloat16),
    }
    save_file(arrays, tmp_path / "file", metadata={"format": "pt"})
    found = weights.read(tmp_path / "file")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


def raw(header, data=b""):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(kind, *offsets):
    return {"dtype": kind, "shape": [2], "data_offsets": offsets}


def test_damaged_files_and_unknown_numbers_are_refused(tmp_path):
    whole = raw({"a": entry("F32", 0, 8)}, bytes(8))
    for content, message in (
        (whole[:-1], "SafetensorError"),
        (whole + b"\0", "SafetensorError"),
        (whole[:20], "it ends 49 bytes early"),
        (raw({"a": entry("F32", 0, 8), "b": entry("F32", 4, 12)}, bytes(12)), "SafetensorError"),
        (raw({"a": entry("F32", 4, 12)}, bytes(12)), "SafetensorError"),
        (raw({"a": entry("F4", 0, 1)}, bytes(1)), "holds numbers of the type F4"),
    ):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(ValueError, match=f"looks like a safetensors file, but .*{message}"):
            weights.read(tmp_path / "file")
    (tmp_path / "file").write_bytes(whole)
    np.testing.assert_array_equal(weights.read(tmp_path / "file")["a"], [0, 0])


def test_arrays_stay_in_the_file(tmp_path):
    size = 2**28
    header = {"a": {"dtype": "F32", "shape": [size], "data_offsets": [0, 4 * size]}}
    (tmp_path / "file").write_bytes(raw(header))
    with (tmp_path / "file").open("r+b") as file:
        file.truncate(len(raw(header)) + 4 * size)
    tracemalloc.start()
    array = weights.read(tmp_path / "file")["a"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
    assert array[-1] == 0
    assert not array.flags.writeable
