"""Files: written in one step, so that nobody sees half of one, and read with errors of one line."""

import csv
import io
import json
import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from experiments.runs import hosts

DAMAGED = (  # what the readers of archives, arrays, images and JSON raise for files of users
    *(OSError, EOFError, MemoryError, RuntimeError),  # RuntimeError: encrypted, or packed oddly
    *(ValueError, TypeError, KeyError, IndexError, OverflowError, SyntaxError, struct.error),
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, lzma.LZMAError, tarfile.TarError),
)


@contextmanager
def reading(what: Any, expected: str) -> Iterator[None]:
    """Turns whatever a reader raises for a user's file into a ValueError of one line.

    Args:
        what: the file, as the error names it.
        expected: the file to give instead.
    """
    try:
        yield
    except DAMAGED as error:
        raise ValueError(f"{what} cannot be read: {reason(error)}; give {expected}") from error


def reason(error: Exception) -> str:
    """The text of a reader's error in one line; its type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


class Arrays(Mapping[str, np.ndarray]):
    """The arrays of an open .npz file; one is read when it is asked for."""

    def __init__(self, path: Path, file: Any, expected: str):
        self.path, self._file, self._expected = path, file, expected

    def __getitem__(self, name: str) -> np.ndarray:
        with reading(f"{self.path}, array {name!r},", self._expected):
            try:
                value = self._file[name]
            except ValueError as error:
                if "pickle" not in str(error):
                    raise
                raise ValueError(
                    "it holds Python objects, such as None or rows of several lengths"
                ) from error
            if not isinstance(value, np.ndarray):
                raise ValueError("it is no array")
            return value

    def __contains__(self, name: object) -> bool:
        return name in self._file.files

    def __iter__(self) -> Iterator[str]:
        return iter(self._file.files)

    def __len__(self) -> int:
        return len(self._file.files)


@contextmanager
def open_arrays(path: str | Path, expected: str) -> Iterator[Arrays]:
    """Opens a user's .npz file.

    Args:
        path: the file.
        expected: the file to give instead, for errors.

    Raises:
        ValueError: no such file, a damaged one, or one of another kind.
    """
    with reading(path, expected):
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise ValueError("it is no .npz file, or cut short")
        opened = np.load(path, allow_pickle=False)
    with opened:
        yield Arrays(Path(path), opened, expected)


def expand(path: str | Path) -> Path:
    """A path that a user gave, where ~ is the home folder."""
    return Path(os.path.expanduser(path))


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Gives a file to write, which takes the place of `path` once it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as file:
        yield file
    temporary.replace(path)


def write_text(path: Path, text: str) -> None:
    """Replaces a text file; only the first process writes."""
    if hosts.is_first():
        with replacing(path) as file:
            file.write(text.encode())


def write_json(path: Path, value: Any, default: Callable[[Any], Any] | None = None) -> None:
    """Replaces a JSON file; `default` makes plain values of others."""
    write_text(path, json.dumps(value, indent=2, default=default) + "\n")


def write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    """Replaces a file of comma-separated values."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_text(path, text.getvalue())
    return path


def write_arrays(path: Path, **arrays: np.ndarray | int) -> None:
    """Replaces an .npz file; only the first process writes."""
    if hosts.is_first():
        with replacing(path) as file:
            np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]


def read_json(path: Path) -> Any:
    """The contents of a JSON file.

    Raises:
        ValueError: the file is cut short or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or not even text
        raise ValueError(f"{path} is damaged: {error}") from error


def write_lines(path: Path, values: Iterable[Any]) -> None:
    """Replaces a .jsonl file by a line for each value; only the first process writes."""
    write_text(path, "".join(json.dumps(value) + "\n" for value in values))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file; [] without one. Lines that a crash has damaged are dropped."""
    lines = path.read_text(errors="replace").splitlines(keepends=True) if path.exists() else []
    found = [_object(line) for line in lines if line.endswith("\n")]
    return [each for each in found if each is not None]


def _object(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except json.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None
