"""Readers of published weights: they run no code of a file, and need no PyTorch.

    tree = weights.read("checkpoint_24.pth")        # arrays, numbers, texts, dicts and lists
    arrays = weights.state_dict(tree["model"])      # {name: array}

Arrays stay in the file until they are used, where its format allows. Whatever is not data becomes a
Record, which holds a name, arguments and state. A network in a pickle is such a Record too.
"""

import mmap
import re
import struct
import zlib
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile

import numpy as np
from safetensors import SafetensorError

from models.weights import flax_files, safetensors_files, torch_files
from models.weights.modules import about, is_module, state_dict
from models.weights.pickles import Record, UnreadableError

__all__ = ["Record", "about", "is_module", "read", "release", "state_dict"]

FORMATS = (  # what a file looks like, a pattern of its first bytes, and the reader
    ("a safetensors file", rb".{4}\0{4}\{", safetensors_files.read),
    ("a zip of PyTorch or NumPy", rb"PK(\x03\x04|\x05\x06)", torch_files.read_zip),
    ("a pickle, as old PyTorch and NVIDIA write", rb"\x80[\x02-\x05]", torch_files.read_pickle),
    (  # a map whose first key is a text
        "a msgpack checkpoint of Flax",
        rb"([\x81-\x8f]|\xde..|\xdf....)[\xa1-\xbf\xd9]",
        flax_files.read,
    ),
)

OTHERS = {
    b"version https://git-lfs": "a pointer of Git LFS: download the file itself",
    b"<": "a web page",
    b"{": "JSON",
    b"\x1f\x8b": "a gzip file: unpack it",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a single array of NumPy without a name: make an .npz file",
    b"GGUF": "a GGUF file",
}

DAMAGES = (  # what reading a damaged, encrypted or foreign file may raise
    *(ArithmeticError, AttributeError, BadZipFile, EOFError, LookupError, OSError, RuntimeError),
    *(SafetensorError, TypeError, UnpicklingError, ValueError, struct.error, zlib.error),
)


def read(path: str | Path) -> Any:
    """The content of a file of weights, whose format is found from its first bytes.

    safetensors; PyTorch (.pt, .pth, .bin); pickles of NVIDIA's networks; Flax's msgpack; .npz.

    Returns:
        Arrays, numbers, texts, dicts and lists; and Records of whatever else the file holds.

    Raises:
        ValueError: the file has another format, is damaged, or asks for what runs programs.
        OSError: there is no such file, or it cannot be opened.
    """
    path = Path(path)
    with path.open("rb") as file:
        head = file.read(512)
        found = [(what, read) for what, start, read in FORMATS if re.match(start, head, re.DOTALL)]
        if not found:
            raise ValueError(
                f"{path} is no file of weights: it looks like {_other(head)}. Give a file of "
                "safetensors, PyTorch, Flax (msgpack) or NumPy (.npz), or a pickle of NVIDIA's"
            )
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    what, reader = found[0]
    try:
        return reader(path, data)
    except UnreadableError as error:
        raise ValueError(f"{path} looks like {what}, but {error}") from error
    except DAMAGES as error:
        reason = next(iter(str(error).splitlines()), "")
        raise ValueError(
            f"{path} looks like {what}, but cannot be read: give a whole file of arrays "
            f"({type(error).__name__}: {reason})"
        ) from error


def release(array: np.ndarray) -> None:
    """Frees the memory of the file behind an array that is used no more, or is copied.

    Parts of a file that were used stay in memory as long as there is room, and count as memory of
    this process. They are read anew if an array of the file is used again.
    """
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


def _other(head: bytes) -> str:
    if head[257:262] == b"ustar":
        return "a tar, as PyTorch wrote before version 0.2: save it again with a newer one"
    found = (what for start, what in OTHERS.items() if head.lstrip().startswith(start))
    return next(found, f"nothing known (it begins with {head[:16]!r})" if head else "an empty file")
