"""Writes files of PyTorch without PyTorch: a zip of a pickle and of the tensors' numbers."""

import pickle
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import numpy as np

from models.weights.dtypes import TORCH, TORCH_STORAGE

STORAGES = {TORCH[name]: f"{kind}Storage" for kind, name in reversed(TORCH_STORAGE.items())}
"""Names of PyTorch's storages by the type of their numbers."""


def write(path: Path, content: Any) -> None:
    """Writes dicts, lists, tuples, texts, numbers and arrays, which become tensors.

    Raises:
        ValueError: the content holds something else.
    """
    arrays: list[np.ndarray] = []
    program = b"\x80\x02" + _pickled(content, arrays) + pickle.STOP
    with ZipFile(path, "w", ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/byteorder", "little")
        for key, array in enumerate(arrays):
            little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            with archive.open(f"archive/data/{key}", "w", force_zip64=True) as file:
                file.write(little.tobytes())
        archive.writestr("archive/version", "3\n")


def _pickled(value: Any, arrays: list[np.ndarray]) -> bytes:
    """The opcodes that make a value. Arrays in it are appended to `arrays`."""
    for kind, make in MAKERS.items():
        if isinstance(value, kind):
            return make(value, arrays)
    raise ValueError(f"{type(value).__name__} cannot be written to a file of PyTorch")


def _text(value: str, _: Any) -> bytes:
    data = value.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(data)) + data


def _whole(value: int, _: Any) -> bytes:
    data = pickle.encode_long(int(value))
    return pickle.LONG1 + bytes([len(data)]) + data


def _mapping(value: Mapping[Any, Any], arrays: list[np.ndarray]) -> bytes:
    items = b"".join(_pickled(part, arrays) for item in value.items() for part in item)
    return pickle.EMPTY_DICT + pickle.MARK + items + pickle.SETITEMS


def _list(value: list[Any], arrays: list[np.ndarray]) -> bytes:
    items = b"".join(_pickled(item, arrays) for item in value)
    return pickle.EMPTY_LIST + pickle.MARK + items + pickle.APPENDS


def _tuple(value: tuple[Any, ...], arrays: list[np.ndarray]) -> bytes:
    return pickle.MARK + b"".join(_pickled(item, arrays) for item in value) + pickle.TUPLE


def _tensor(value: np.ndarray, arrays: list[np.ndarray]) -> bytes:
    """A call of torch._utils._rebuild_tensor_v2 with a storage in another entry of the zip."""
    key, strides = str(len(arrays)), np.empty(value.shape, np.int8).strides
    arrays.append(value)
    storage = (
        *(pickle.MARK, _text("storage", arrays), _global("torch", STORAGES[value.dtype])),
        *(_text(key, arrays), _text("cpu", arrays), _whole(value.size, arrays)),
        *(pickle.TUPLE, pickle.BINPERSID),
    )
    no_hooks = _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    return b"".join(
        (
            *(_global("torch._utils", "_rebuild_tensor_v2"), pickle.MARK, *storage),
            *(_pickled(part, arrays) for part in (0, value.shape, strides, False)),
            *(no_hooks, pickle.TUPLE, pickle.REDUCE),
        )
    )


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


MAKERS: dict[Any, Callable[[Any, list[np.ndarray]], bytes]] = {
    type(None): lambda *_: pickle.NONE,
    bool: lambda value, _: pickle.NEWTRUE if value else pickle.NEWFALSE,
    int: _whole,
    float: lambda value, _: pickle.BINFLOAT + struct.pack(">d", value),
    str: _text,
    np.ndarray: _tensor,
    Mapping: _mapping,
    list: _list,
    tuple: _tuple,
}
"""Functions that write a value, by its type."""
