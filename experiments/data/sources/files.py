"""A folder or a .zip of image files."""

import json
import posixpath
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

import numpy as np

from experiments.data.dataset import SPLITS, Dataset, DataSpec, as_labels, split
from experiments.data.lazy_images import LazyImages, check_channels
from experiments.data.sources import parts
from experiments.data.sources.members import Members, members
from experiments.runs.files import reading

SUFFIXES = {
    *(".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm"),
    *(".png", ".ppm", ".tif", ".tiff", ".webp"),
}
LABELS = "dataset.json"
FORM = '{"labels": [["a/b.png", 3], ...]}'


class Layout(NamedTuple):
    """The splits of a list of images.

    Attributes:
        train: indices of the training images.
        test: indices of the test images.
        folders: the folder of each image within its split; "" for an image outside of folders.
        notes: how the splits were found, and what is left out.
        test_share: config.data.test_fraction, if it was used.
    """

    train: np.ndarray
    test: np.ndarray
    folders: np.ndarray
    notes: tuple[str, ...]
    test_share: float | None


def load(spec: DataSpec) -> Dataset:
    """Lists the images below spec.path; they are decoded when a batch needs them.

    Outermost folders with names of parts (sources/parts.py) are the splits; without them,
    spec.test_fraction of the images are the test set. Classes come from a file dataset.json, of the
    form FORM, where null stands for no classes (EDM's layout). Without that file, the outermost
    folders within the splits are the classes, in alphabetical order; numbers are in theirs.

    Raises:
        ValueError: there are no images, a .zip is damaged or has a member outside of it, folders
            look like parts and do not fit, or labels do not fit the files.
    """
    path = Path(spec.path)
    if not spec.path or not (path.is_dir() or zipfile.is_zipfile(path)):
        raise ValueError(
            f"config.data.path = {spec.path!r} is neither a folder nor a .zip file of images (one "
            "that is cut short is none)"
        )
    files = members(path)
    names = sorted(n for n in files.names if posixpath.splitext(n)[1].lower() in SUFFIXES)
    if not names:
        raise ValueError(f"{path} holds no image: it needs files {', '.join(sorted(SUFFIXES))}")
    layout = layout_of(path, names, spec.test_fraction)
    if layout.test_share is not None:
        train, test = split(len(names), layout.test_share)
        layout = layout._replace(train=train, test=test)
    tables = [name for name in files.names if posixpath.basename(name) == LABELS]
    if len(tables) > 1:
        raise ValueError(f"{path} holds several label files: keep one of {', '.join(tables)}")
    about: dict[str, Any] = {"notes": layout.notes} if tables else folder_classes(layout)
    if tables and (labels := _table(path, tables[0], files.open, names)) is not None:
        about |= {"train_labels": labels[layout.train], "test_labels": labels[layout.test]}

    captions, texts = _captions(files, names) if spec.captions else ([], set())
    if texts:
        about |= {f"{part}_captions": captions[getattr(layout, part)] for part in SPLITS}
    about["notes"] += _left_out({*files.names} - {*names, *tables, *texts}, files.broken)
    keys, shape = np.array(names, dtype=object), check_channels(spec.shape)
    train, test = (
        LazyImages(str(path), keys[rows], files.open, shape, files.stamp)
        for rows in (layout.train, layout.test)
    )
    return Dataset(train, test, 256, **about, test_share=layout.test_share)


def _captions(files: Members, names: list[str]) -> tuple[Any, set[str]]:
    """The texts in files .txt beside the images, "" for an image without one; and these files."""
    beside = {posixpath.splitext(name)[0]: name for name in files.names if name.endswith(".txt")}
    of_images = [beside.get(posixpath.splitext(name)[0], "") for name in names]

    def text(name: str) -> str:
        with reading(name, "captions in UTF-8"), files.open(name) as file:
            return " ".join(file.read().decode("utf-8-sig").split())

    texts = [name and text(name) for name in of_images]
    return np.array(texts, dtype=object), {*filter(None, of_images)}


def _left_out(others: set[str], broken: list[str]) -> tuple[str, ...]:
    """Notes of the files that are no images, by their suffixes, and of links that lead nowhere."""
    counts = Counter(posixpath.splitext(name)[1] for name in others).most_common(5)
    listed = ", ".join(f"{count} {suffix}" for suffix, count in counts)
    notes = (f"left out, as they are no images by their names: files {listed}",) if listed else ()
    return (*notes, f"left out: links that lead nowhere, {_some(broken)}") if broken else notes


def layout_of(path: Path, names: list[str], fraction: float) -> Layout:
    """The splits of files, and their folders; without parts, all are in train, to be split."""
    root = posixpath.commonpath([posixpath.dirname(name) for name in names])
    parts.choose(path, PurePosixPath(root).parts)
    below = [PurePosixPath(name).relative_to(root).parts for name in names]
    outermost = np.array([part[0] if len(part) > 1 else "" for part in below], dtype=object)
    counts = Counter(outermost.tolist())
    loose = counts.pop("", 0)
    chosen = parts.choose(path, counts)
    if chosen is None or chosen.test is None:
        parts.check_classes(path, counts, {name for part in below for name in part[1:-1]})
        every = np.arange(len(names))
        return Layout(every, every[:0], outermost, (), fraction)
    parts.check_left_out(path, chosen.left_out)
    notes = [f"the training data are those in {chosen.train}, the test data in {chosen.test}"]
    notes += [f"left out: {counts[name]} images in {name}" for name in chosen.left_out]
    if loose:
        notes.append(f"left out: {loose} images outside of these folders")
    within = [part[1] if len(part) > 2 else "" for part in below]
    train, test = (np.flatnonzero(outermost == name) for name in (chosen.train, chosen.test))
    return Layout(train, test, np.array(within, dtype=object), tuple(notes), None)


def folder_classes(layout: Layout) -> dict[str, Any]:
    """Labels by the images' folders, and notes, as a Dataset has them.

    There are no classes in a single folder, or if a training image lies outside of the folders.
    """
    splits = {name: layout.folders[getattr(layout, name)].tolist() for name in SPLITS}
    names = _in_order({*splits["train"], *splits["test"]} - {""})
    loose = {name: folders.count("") for name, folders in splits.items()}
    if len(names) < 2:
        return {"notes": layout.notes}
    if loose["train"] or (loose["test"] and layout.test_share is not None):
        note = f"no classes: {sum(loose.values())} images are outside of the folders {_some(names)}"
        return {"notes": (*layout.notes, note)}
    number = {name: i for i, name in enumerate(names)}
    labels = {
        f"{name}_labels": as_labels("folders", [number[folder] for folder in folders])
        for name, folders in splits.items()
        if not loose[name]
    }
    notes = ("the test images have no classes: some are outside of folders",) * bool(loose["test"])
    return {**labels, "classes": tuple(names), "notes": layout.notes + notes}


def _in_order(names: set[str]) -> list[str]:
    """The names in alphabetical order, or by size if all are numbers: 2 comes before 10."""
    numbers = all(name.isdecimal() for name in names)
    return sorted(names, key=lambda name: (int(name) if numbers else 0, name))


def _table(
    path: Path, table: str, open_member: Callable[[str], IO[bytes]], names: list[str]
) -> np.ndarray | None:
    """The labels that the file `table` has for these names; None if it has none."""
    with reading(f"{path}: {table}", f"a file {FORM}"), open_member(table) as file:
        encoded = file.read()
    try:
        rows = [(str(name), label) for name, label in json.loads(encoded)["labels"] or ()]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        where = f" ({error})" if isinstance(error, json.JSONDecodeError) else ""
        raise ValueError(f"{path}: {table} must have the form {FORM}{where}") from error
    if not rows:
        return None
    folder = posixpath.dirname(table)
    files = [posixpath.normpath(posixpath.join(folder, n.replace("\\", "/"))) for n, _ in rows]
    labels = dict(zip(files, (label for _, label in rows), strict=True))
    wrong = {
        "several labels for the files": [n for n, count in Counter(files).items() if count > 1],
        "labels of files that do not exist": sorted(labels.keys() - set(names)),
        "no labels for the files": sorted(set(names) - labels.keys()),
        "labels that are not integers from 0 on, of": [
            name for name, label in labels.items() if type(label) is not int or label < 0
        ],
    }
    for what, which in wrong.items():
        if which:
            raise ValueError(f"{path}: {table} has {what} {_some(which)}")
    return as_labels(f"{path}: the labels in {table}", [labels[name] for name in names])


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"
