"""Files of safetensors, whose arrays are read in place."""

from pathlib import Path

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
