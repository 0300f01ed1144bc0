"""Files of safetensors, whose arrays are read in place and written one by one."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from safetensors import safe_open

from models.weights.dtypes import SAFETENSORS, TORCH
from models.weights.pickles import Cursor, UnreadableError


def read(path: Path, data: memoryview) -> dict[str, np.ndarray]:
    """The arrays by name. The library checks the header, and that the arrays fill the file."""
    cursor, arrays = Cursor(data), {}
    cursor.take(int.from_bytes(cursor.take(8), "little"))
    with safe_open(path, framework="numpy") as file:
        for name in file.offset_keys():
            part = file.get_slice(name)
            kind, shape = part.get_dtype(), part.get_shape()
            if kind not in SAFETENSORS:
                raise UnreadableError(f"it holds numbers of the type {kind}, which cannot be read")
            dtype = TORCH[SAFETENSORS[kind]]
            size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
            arrays[name] = np.ndarray(shape, dtype, cursor.take(size))
    return arrays


def metadata(path: Path) -> dict[str, str]:
    """Texts by name that the file holds beside its arrays."""
    with safe_open(path, framework="numpy") as file:
        return file.metadata() or {}


def write(
    file: IO[bytes],
    shapes: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    arrays: Iterable[np.ndarray],
    about: Mapping[str, str],
) -> None:
    """Writes arrays, of which one at a time is in memory.

    Args:
        file: open for writing.
        shapes: shape and type of each array by its name.
        arrays: the arrays in that order.
        about: texts beside them.
    """
    names = {TORCH[name]: kind for kind, name in SAFETENSORS.items()}
    header: dict[str, Any] = {"__metadata__": dict(about)}
    end = 0
    for name, (shape, dtype) in shapes.items():
        start, end = end, end + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        header[name] = {"dtype": names[dtype], "shape": shape, "data_offsets": (start, end)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for array in arrays:
        file.write(np.ascontiguousarray(array).data)
