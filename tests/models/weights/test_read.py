import zipfile

import numpy as np
import pytest
import torch_writer
from safetensors.numpy import save_file

from models import weights


def test_the_format_is_found_whatever_the_file_is_called(tmp_path):
    path, arrays = tmp_path / "file.txt", {"a": np.arange(3.0)}
    save_file(arrays, path)
    np.testing.assert_array_equal(weights.read(path)["a"], arrays["a"])
    torch_writer.save_zip(path, {"a": torch_writer.tensor(arrays["a"])})
    np.testing.assert_array_equal(weights.read(str(path))["a"], arrays["a"])
    with path.open("wb") as file:
        np.savez(file, **arrays)
    np.testing.assert_array_equal(weights.read(path)["a"], arrays["a"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS: download"),
        (b"\n<!DOCTYPE html>", "a web page"),
        (b'{"model": 1}', "JSON"),
        (b"\x1f\x8b\x08", "a gzip file: unpack it"),
        (b"\x89HDF\r\n", "an HDF5 file"),
        (b"\x93NUMPY\x01", "a single array of NumPy"),
        (b"\0" * 257 + b"ustar", "a tar, as PyTorch wrote before"),
        (b"cos\nsystem\n(S'true'\ntR.", 'nothing known (it begins with b"cos\\nsystem'),
        (b"]", "nothing known (it begins with b']')"),
    ],
)
def test_another_file_is_refused_by_what_it_looks_like(tmp_path, content, message):
    (tmp_path / "file.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"file\.pth is no file of weights: it looks") as error:
        weights.read(tmp_path / "file.pth")
    assert f"looks like {message}" in str(error.value)


def test_a_missing_file_and_a_folder_are_errors_of_the_system(tmp_path):
    for path in (tmp_path / "missing.pth", tmp_path):
        with pytest.raises(OSError, match=str(path)):
            weights.read(path)


DAMAGED = ("code", "empty", "other", "cut", "flipped", "encrypted", "packed")


def damage(folder):
    """Makes .npz files that are damaged, or zips of a kind that Python cannot unpack."""
    np.savez(folder / "plain.npz", **{"model.a.weight": np.arange(3.0), "b": np.ones(2)})
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
    for name, member in (("empty", "a.npy"), ("other", "read me.txt")):
        with zipfile.ZipFile(folder / f"{name}.npz", "w") as archive:
            archive.writestr(member, "no array")
    (folder / "cut.npz").write_bytes(data[: len(data) // 2])
    np.savez(folder / "code.npz", a=np.array([print], object))


def test_damaged_archives_of_numpy_and_objects_are_refused(tmp_path):
    damage(tmp_path)
    assert list(weights.read(tmp_path / "plain.npz")) == ["model.a.weight", "b"]
    for name in DAMAGED:
        with pytest.raises(ValueError, match="looks like a zip of PyTorch or NumPy, but"):
            weights.read(tmp_path / f"{name}.npz")
