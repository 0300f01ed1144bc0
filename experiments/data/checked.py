"""A memory of the files that were decoded without a fault, so that it is done once."""

import hashlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt64

LOG = logging.getLogger(__name__)


def marks(about: str, files: Iterable[str]) -> UInt64[np.ndarray, " files"]:
    """A number for each file, which changes with `about` and with the file's description."""
    start = hashlib.blake2b(about.encode(), digest_size=8)

    def mark(file: str) -> int:
        own = start.copy()
        own.update(file.encode(errors="surrogateescape"))
        return int.from_bytes(own.digest(), "little")

    return np.fromiter(map(mark, files), np.uint64)


class Checked:
    """The marks of files that are known to be good.

    Args:
        path: where they are kept; None: nowhere.
    """

    def __init__(self, path: Path | None):
        self._path = path
        self._marks = np.empty(0, np.uint64)
        if path is not None and path.exists():
            self._marks = np.fromfile(path, np.uint64)

    def know(self, files: UInt64[np.ndarray, " files"]) -> Bool[np.ndarray, " files"]:
        """True for each file that is known to be good."""
        return np.isin(files, self._marks)

    def keep(self, files: UInt64[np.ndarray, " files"]) -> None:
        """Adds to the marks. A folder that cannot be written to is only warned of."""
        marks = np.union1d(self._marks, files)
        if self._path is None or len(marks) == len(self._marks):
            return
        part = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            marks.tofile(part)
            part.replace(self._path)
        except OSError as error:
            LOG.warning("the images will be checked again at the next start: %s", error)
