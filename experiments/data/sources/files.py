"""A folder or a .zip of image files."""

import json
import posixpath
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

import numpy as np

from experiments.data.dataset import Dataset, DataSpec, split
from experiments.data.lazy_images import LazyImages, check_channels

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
LABELS = "dataset.json"
TEST = ("test", "val", "valid", "validation")  # what people call the part beside train


def load(spec: DataSpec) -> Dataset:
    """Lists the images below spec.path; they are decoded when a batch needs them.

    Classes are those of a file dataset.json, {"labels": [["a/b.png", 3], ...] or null} (EDM's
    layout); without one, the outermost folders in alphabetical order; without folders, none.
    Folders train/ and one of TEST around all of that are the two parts; without them
    spec.test_fraction is kept for tests.

    Raises:
        ValueError: nothing to read, names that lead out of a zip, or labels that do not fit the
            files.
    """
    path = Path(spec.path)
    if not spec.path or not (path.is_dir() or zipfile.is_zipfile(path)):
        raise ValueError(
            f"config.data.path = {spec.path!r} is neither a folder nor a .zip file of images"
        )
    members, open_member = _folder(path) if path.is_dir() else _zip(path)
    names = sorted(name for name in members if posixpath.splitext(name)[1].lower() in SUFFIXES)
    if not names:
        raise ValueError(f"{path} holds no image: it needs files {', '.join(sorted(SUFFIXES))}")

    root = posixpath.commonpath([posixpath.dirname(name) for name in names])
    parts = [PurePosixPath(name).relative_to(root).parts for name in names]
    outermost = np.array([part[0] for part in parts])
    if set(outermost) in [{"train", name} for name in TEST]:
        train, test = np.flatnonzero(outermost == "train"), np.flatnonzero(outermost != "train")
        parts = [part[1:] for part in parts]
    else:
        train, test = split(len(names), spec.test_fraction)

    tables = [name for name in members if posixpath.basename(name) == LABELS]
    if len(tables) > 1:
        raise ValueError(f"{path} holds several label files, it must be one: {', '.join(tables)}")
    labels = _table(path, tables[0], open_member, names) if tables else _folder_classes(parts)

    keys, shape = np.array(names, dtype=object), check_channels(spec.shape)
    train_images = LazyImages(str(path), keys[train], open_member, shape)
    test_images = LazyImages(str(path), keys[test], open_member, shape)
    if labels is None:
        return Dataset(train_images, test_images, 256)
    return Dataset(train_images, test_images, 256, labels[train], labels[test])


def check_inside(archive: Path, names: list[str]) -> None:
    """Raises ValueError for the name of a member that leads out of the archive."""
    for name in names:
        for path in (PurePosixPath(name), PureWindowsPath(name)):
            if path.anchor or ".." in path.parts:
                raise ValueError(
                    f"{archive} is refused: its member {name!r} leads out of the archive; pack it "
                    "with relative names"
                )


def _folder(path: Path) -> tuple[list[str], Callable[[str], IO[bytes]]]:
    names = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
    return _visible(names), lambda name: (path / name).open("rb")


def _zip(path: Path) -> tuple[list[str], Callable[[str], IO[bytes]]]:
    archive = zipfile.ZipFile(path)
    names = [info.filename for info in archive.infolist() if not info.is_dir()]
    check_inside(path, names)
    return _visible(names), archive.open


def _visible(names: list[str]) -> list[str]:
    """Leaves out what a system keeps beside a user's files."""
    return [
        name
        for name in names
        if not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
    ]


def _table(
    path: Path, table: str, open_member: Callable[[str], IO[bytes]], names: list[str]
) -> np.ndarray | None:
    """The labels of names that the file `table` tells."""
    folder = posixpath.dirname(table)
    with open_member(table) as file:
        try:
            labels = json.load(file)["labels"]
            labels = labels and {posixpath.join(folder, name): label for name, label in labels}
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f'{path}: {table} is not of the form {{"labels": [["a/b.png", 3], ...]}}: {error!r}'
            ) from error
    if not labels:
        return None
    wrong = {
        "labels of files that do not exist": sorted(labels.keys() - set(names)),
        "no labels for the files": sorted(set(names) - labels.keys()),
        "labels that are no integers from 0 on, of": [
            name for name, label in labels.items() if type(label) is not int or label < 0
        ],
    }
    for what, which in wrong.items():
        if which:
            more = f" and {len(which) - 3} more" if len(which) > 3 else ""
            raise ValueError(f"{path}: {table} has {what} {', '.join(which[:3])}{more}")
    return np.array([labels[name] for name in names], np.int32)


def _folder_classes(parts: list[tuple[str, ...]]) -> np.ndarray | None:
    """The numbers of the outermost folders, if each image is in one and they are several."""
    folders = {part[0] for part in parts}
    if len(folders) == 1 or any(len(part) == 1 for part in parts):
        return None
    return np.unique([part[0] for part in parts], return_inverse=True)[1].astype(np.int32)
