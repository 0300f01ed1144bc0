"""The files of a folder or of a .zip."""

import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, NamedTuple

from experiments.runs.files import reading

HIDDEN = (".", "__MACOSX")  # beginnings of names of hidden files, and of those that systems add
ENCRYPTED = 1  # a bit of a zip member's flags
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


class Members(NamedTuple):
    """The files below a path.

    Attributes:
        names: relative to the path, without hidden files and those that systems add.
        open: opens the file of a name.
        stamp: a text that changes with the content of the file of a name.
        broken: names of links that lead nowhere.
    """

    names: list[str]
    open: Callable[[str], IO[bytes]]
    stamp: Callable[[str], str]
    broken: list[str]


def members(path: Path) -> Members:
    """The files below a folder, with those behind links, or in a .zip.

    Raises:
        ValueError: a .zip that is damaged, or has a member twice or outside of it.
    """
    return _folder(path) if path.is_dir() else _zip(path)


def check_inside(archive: Path, names: list[str]) -> None:
    """Raises ValueError for a member whose path leads out of the archive."""
    for name in names:
        for path in (PurePosixPath(name), PureWindowsPath(name)):
            if path.anchor or ".." in path.parts:
                raise ValueError(
                    f"{archive} is refused: its member {name!r} leads out of the archive; pack it "
                    "with relative names"
                )


def _folder(path: Path) -> Members:
    def stamp(name: str) -> str:
        about = (path / name).stat()
        return f"{about.st_size} {about.st_mtime_ns}"

    found, broken = [], []
    for file, exists in _walk(path, ()):
        (found if exists else broken).append(Path(file).relative_to(path).as_posix())
    return Members(found, lambda name: (path / name).open("rb"), stamp, broken)


def _walk(folder: Path, above: tuple[Path, ...]) -> Iterator[tuple[str, bool]]:
    """The files below a folder, and False for links that lead nowhere.

    A link to a folder that the link is in is skipped, and so are hidden files.
    """
    real = folder.resolve()
    if any(outer.is_relative_to(real) for outer in above):
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(HIDDEN):
                continue
            # A link may lead to itself, which a path knows to be nowhere, but an entry does not.
            about = Path(entry.path) if entry.is_symlink() else entry
            if about.is_dir():
                yield from _walk(Path(entry.path), (*above, real))
            elif about.is_file() or entry.is_symlink():
                yield entry.path, about.is_file()


def _zip(path: Path) -> Members:
    with reading(path, "a .zip of images"):
        archive = zipfile.ZipFile(path)
    infos = {info.filename: info for info in archive.infolist() if not info.is_dir()}
    check_inside(path, list(infos))
    if len(infos) < sum(not info.is_dir() for info in archive.infolist()):
        raise ValueError(f"{path} holds several files of one name: pack it again")
    for name, info in infos.items():
        if info.flag_bits & ENCRYPTED or info.compress_type not in METHODS:
            why = "encrypted" if info.flag_bits & ENCRYPTED else "packed by a method unknown here"
            raise ValueError(
                f"{path} cannot be read: {name} is {why}; unpack it, and give the folder"
            )
    about = path.stat()

    def stamp(name: str) -> str:
        return f"{about.st_size} {about.st_mtime_ns} {infos[name].CRC}"

    names = [name for name in infos if not any(p.startswith(HIDDEN) for p in name.split("/"))]
    return Members(names, archive.open, stamp, [])
