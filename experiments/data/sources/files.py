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
TEST = ("test", "val", "valid", "validation")  # usual names of the folder beside train


def load(spec: DataSpec) -> Dataset:
    """Lists the images below spec.path; they are decoded when a batch needs them.

    Classes come from a file dataset.json, {"labels": [["a/b.png", 3], ...] or null} (EDM's layout).
    Without that file, the outermost folders are the classes, in alphabetical order. Without folders
    there are none. Outermost folders train/ and one of TEST are the two splits; without them,
    spec.test_fraction of the images are the test set.

    Raises:
        ValueError: there are no images, a member of a zip is outside of it, or the labels do not
            fit the files.
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
        raise ValueError(f"{path} holds several label files: keep one of {', '.join(tables)}")
    labels = _table(path, tables[0], open_member, names) if tables else _folder_classes(parts)

    keys, shape = np.array(names, dtype=object), check_channels(spec.shape)
    train_images = LazyImages(str(path), keys[train], open_member, shape)
    test_images = LazyImages(str(path), keys[test], open_member, shape)
    if labels is None:
        return Dataset(train_images, test_images, 256)
    return Dataset(train_images, test_images, 256, labels[train], labels[test])


def check_inside(archive: Path, names: list[str]) -> None:
    """Raises ValueError for a member whose path leads out of the archive."""
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
    """The names without hidden files and those that systems add."""
    return [
        name
        for name in names
        if not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
    ]


def _table(
    path: Path, table: str, open_member: Callable[[str], IO[bytes]], names: list[str]
) -> np.ndarray | None:
    """The labels that the file `table` has for these names; None if it has none."""
    folder = posixpath.dirname(table)
    with open_member(table) as file:
        try:
            labels = json.load(file)["labels"]
            labels = labels and {posixpath.join(folder, name): label for name, label in labels}
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f'{path}: {table} must have the form {{"labels": [["a/b.png", 3], ...]}}: {error!r}'
            ) from error
    if not labels:
        return None
    wrong = {
        "labels of files that do not exist": sorted(labels.keys() - set(names)),
        "no labels for the files": sorted(set(names) - labels.keys()),
        "labels that are not integers from 0 on, of": [
            name for name, label in labels.items() if type(label) is not int or label < 0
        ],
    }
    for what, which in wrong.items():
        if which:
            more = f" and {len(which) - 3} more" if len(which) > 3 else ""
            raise ValueError(f"{path}: {table} has {what} {', '.join(which[:3])}{more}")
    return np.array([labels[name] for name in names], np.int32)


def _folder_classes(parts: list[tuple[str, ...]]) -> np.ndarray | None:
    """The index of each image's outermost folder; None for one folder, or images outside."""
    folders = {part[0] for part in parts}
    if len(folders) == 1 or any(len(part) == 1 for part in parts):
        return None
    return np.unique([part[0] for part in parts], return_inverse=True)[1].astype(np.int32)
