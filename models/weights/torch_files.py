"""Files of PyTorch, of NVIDIA's networks and of NumPy's arrays by name, read in place."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import numpy as np

from models.weights.constructors import CALLS, Storage, storage_dtype
from models.weights.pickles import Calls, Cursor, UnreadableError, load

MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
"""The number that begins PyTorch's files from before its zips, as a pickle."""


def read_zip(path: Path, data: memoryview) -> Any:
    """The content of a zip of PyTorch (data.pkl and its storages), or of NumPy (an .npz file)."""
    with ZipFile(path) as archive:
        names = archive.namelist()
        pickle = next((name for name in names if name.split("/")[1:] == ["data.pkl"]), None)
        if pickle is None:
            return _arrays(path, names)
        folder = pickle.removesuffix("data.pkl")
        order = "little"
        if f"{folder}byteorder" in names:
            order = archive.read(f"{folder}byteorder").decode()

        def read(key: str, dtype: np.dtype, _: int) -> Storage:
            return Storage(dtype, _member(archive, data, f"{folder}data/{key}"))

        return load(Cursor(archive.read(pickle)), CALLS, _storages(read, order))


def _arrays(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    if other := [name for name in names if not name.endswith(".npy")]:
        raise UnreadableError(f"it holds {other[:3]}, which no file of PyTorch or NumPy does")
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    if other := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
        raise UnreadableError(f"{other[:3]} in it are no arrays")
    return arrays


def _member(archive: ZipFile, data: memoryview, name: str) -> memoryview | bytes:
    """The bytes of a file in a zip: in place, unless they are compressed."""
    member = archive.getinfo(name)
    if member.compress_type != ZIP_STORED or member.flag_bits & 1:
        return archive.read(name)
    cursor = Cursor(data)
    cursor.take(member.header_offset + 26)  # the header says how long it is
    lengths = [int.from_bytes(cursor.take(2), "little") for _ in range(2)]
    cursor.take(sum(lengths))
    return cursor.take(member.file_size)


def read_pickle(_: Path, data: memoryview) -> Any:
    """The content of a file of PyTorch's from before its zips, or of a plain pickle."""
    if MAGIC in bytes(data[:32]):
        return _read_legacy(data)
    return load(Cursor(data), TORCH_CALLS)


def _read_legacy(data: memoryview | bytes) -> Any:
    """Four pickles (two numbers, the system, the content), the storages' keys, the storages.

    The content is read twice: first for the types of the storages, whose places follow from them.
    """
    cursor = Cursor(data)
    _, _, system = (load(cursor, CALLS) for _ in range(3))
    start, dtypes = cursor.position, {}

    def note(key: str, dtype: np.dtype, _: int) -> Storage:
        dtypes[key] = dtype
        return Storage(dtype, b"")

    order = "little" if system["little_endian"] else "big"
    load(cursor, {}, _storages(note, order))
    storages = {}
    for key in load(cursor, CALLS):
        count = int.from_bytes(cursor.take(8), "little")
        storages[key] = Storage(dtypes[key], cursor.take(count * dtypes[key].itemsize))
    cursor.position = start
    return load(cursor, CALLS, _storages(lambda key, *_: storages[key], order))


def _storages(read: Callable[[str, np.dtype, int], Storage], order: str) -> Callable[[Any], Any]:
    """A function from a persistent id to what it stands for.

    It is ("storage", class, key, device, count), in old files with (view's key, offset, count) or
    None last; or ("module", class, source file, source).
    """

    def find(persistent_id: Any) -> Any:
        kind, name, *rest = persistent_id
        if kind == "module":
            return name
        key, _, count, *view = rest
        dtype = storage_dtype(name)
        storage = read(key, dtype if order == "little" else dtype.newbyteorder(">"), count)
        if view and view[0]:
            _, offset, count = view[0]
            part = slice(offset * dtype.itemsize, (offset + count) * dtype.itemsize)
            return storage._replace(data=storage.data[part])
        return storage

    return find


TORCH_CALLS: Calls = {**CALLS, "torch.storage._load_from_bytes": _read_legacy}
