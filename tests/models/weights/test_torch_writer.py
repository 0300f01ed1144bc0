import ml_dtypes
import numpy as np
import pytest

from models import weights
from models.weights import torch_writer

CONTENT = {
    "model": {
        "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
        "scalar": np.full((), 3, np.float32),
        "empty": np.zeros((0, 3), np.float64),
        "whole": np.arange(4),
        "half": np.ones(3, np.float16),
        "bfloat16": np.ones(2, ml_dtypes.bfloat16),
        "view": np.arange(6.0).reshape(2, 3).T,
    },
    "averages": [np.ones((2, 1, 3), np.float32)],
    "numbers": (7, 2**40, -3, 0.999),
    "others": [None, True, False, "text \u00e9", [], {}],
}


def equal(found, expected):
    """The same values of the same types, all the way down."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        found, expected = found.values(), expected.values()
    if isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    elif isinstance(expected, str | float | int | None):
        assert found == expected
    else:
        for ours, theirs in zip(found, expected, strict=True):
            equal(ours, theirs)


def test_content_is_read_back(tmp_path):
    torch_writer.write(tmp_path / "file.pt", CONTENT)
    equal(weights.read(tmp_path / "file.pt"), CONTENT)


def test_pytorch_reads_the_same(tmp_path):
    torch = pytest.importorskip("torch")
    content = {"model": {k: v for k, v in CONTENT["model"].items() if k != "bfloat16"}}
    torch_writer.write(tmp_path / "file.pt", content | {"numbers": CONTENT["numbers"]})
    found = torch.load(tmp_path / "file.pt", weights_only=True)
    assert found["numbers"] == CONTENT["numbers"]
    found = {name: tensor.numpy() for name, tensor in found["model"].items()}
    equal(found, content["model"])


def test_what_is_no_data_is_refused(tmp_path):
    with pytest.raises(ValueError, match="type cannot be written to a file of PyTorch"):
        torch_writer.write(tmp_path / "file.pt", {"a": int})
