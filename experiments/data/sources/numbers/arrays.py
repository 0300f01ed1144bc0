"""Arrays in .npy and .npz files, folders of .npy files, HDF5 and zarr.

Data beyond memory are read a batch at a time, but for .npz files, which are packed.
"""

import dataclasses
import posixpath
import zipfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.data.dataset import SPLITS, Dataset, DataSpec, note_of, split
from experiments.data.lazy_arrays import Part, take, values_of
from experiments.data.sources import files, npz
from experiments.data.sources.members import members
from experiments.data.sources.numbers import masks
from experiments.data.sources.optional import require
from experiments.runs.files import open_arrays, reading

TYPES = {  # of the arrays in files by config.data.dtype, and of the samples in memory
    "uint8": (("uint8",), np.dtype(np.uint8), 256),
    "uint16": (("uint16",), np.dtype(np.uint16), 65_536),
    "float": (("float16", "float32", "float64"), np.dtype(np.float32), None),
}
HDF5 = b"\x89HDF\r\n\x1a\n"
ZARR = (".zarray", ".zgroup", "zarr.json")
EXPECTED = "an .npy, .npz, HDF5 or zarr file of plain arrays, or a folder of .npy files"


class Stored(NamedTuple):
    """An array in a file.

    Attributes:
        name: of the file, and of the array in it.
        shape: of the array.
        dtype: of its values.
        read: a function that reads the rows of increasing indices, or of a slice.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[Any], np.ndarray]


def load(spec: DataSpec) -> Dataset:
    """The arrays at spec.path.

    One array is split for tests. Several ones of a file, or of the .npy files of a folder, have the
    names of npz.LAYOUT. Other folders of .npy files hold a sample or several in each, with parts
    and classes by sub-folders, as folders of images have them.

    Raises:
        ValueError: no such arrays, or arrays of other shapes or types than the config says.
    """
    path = Path(spec.path)
    if not spec.path or not path.exists():
        raise ValueError(f"config.data.path = {spec.path!r} does not exist: give {EXPECTED}")
    if path.is_dir() and not any((path / name).exists() for name in ZARR):
        found = members(path)
        names = sorted(name for name in found.names if name.endswith(".npy"))
        if not names:
            raise ValueError(f"{path} holds no .npy file: give {EXPECTED}")
        stems = {posixpath.splitext(name)[0] for name in names}
        if not (stems >= npz.PARTS and stems <= npz.NAMES):
            return _folder(spec, path, names)
        arrays = {stem: _npy(path / f"{stem}.npy") for stem in stems}
    else:
        arrays = _in_file(path)
    for stored in arrays.values():
        if not stored.shape:
            raise ValueError(f"{stored.name} is a single value: leave it out of the file")
    about = {name: arrays.pop(name) for name in arrays.keys() & npz.ABOUT}
    marks = {name: arrays.pop(name) for name in arrays.keys() & masks.NAMES}
    values = {}
    for name, stored in arrays.items():
        mask = marks.pop(masks.name_for(name), None)
        values[name] = _values(spec, [stored], mask)
    if marks:
        raise ValueError(f"{path} has {', '.join(sorted(marks))} of no samples: leave it out")
    read = {
        name: _images(stored) if npz.CONDITIONS.get(name) == "image" else stored.read(slice(None))
        for name, stored in about.items()
    }
    read, classes = npz.numbered_labels(read, "biuOSUT")
    made = npz.dataset_of(path, values | read, spec, TYPES[spec.dtype][2])
    notes = (note_of("the labels", classes),) if classes else ()
    return dataclasses.replace(made, classes=classes, notes=notes)


def _folder(spec: DataSpec, path: Path, names: list[str]) -> Dataset:
    """The data set of a folder whose .npy files hold a sample or several each."""
    stored = [_npy(path / name) for name in names]
    layout, parts = files.layout_of(path, names, spec.test_fraction), {}
    about, labels = files.folder_classes(layout), {}
    for part in SPLITS:
        own = [stored[k] for k in getattr(layout, part)]
        parts[part] = _values(spec, own) if own else []
        of_files = about.pop(f"{part}_labels", None)
        if of_files is not None:
            labels[part] = np.repeat(of_files, [_length(spec, each) for each in own])
    if layout.test_share is not None:
        rows = dict(zip(SPLITS, split(len(parts["train"]), layout.test_share), strict=True))
        parts = {part: take(parts["train"], rows[part]) for part in SPLITS}
        labels = {part: labels["train"][rows[part]] for part in SPLITS if labels}
    about |= {f"{part}_labels": values for part, values in labels.items()}
    return Dataset(**parts, levels=TYPES[spec.dtype][2], **about, test_share=layout.test_share)


def _values(spec: DataSpec, stored: Iterable[Stored], mask: Stored | None = None) -> Any:
    """The samples of some arrays, which are read at once only if they are small.

    A mask marks the missing values of one array.
    """
    known, dtype, _ = TYPES[spec.dtype]
    parts = []
    for each in stored:
        if each.dtype.name not in known:
            fitting = next(
                (name for name, (types, *_) in TYPES.items() if each.dtype.name in types), ""
            )
            advice = f"set config.data.dtype={fitting!r}, or " if fitting else ""
            raise ValueError(
                f"{each.name} holds values of the type {each.dtype}, and config.data.dtype = "
                f"{spec.dtype!r} means {' or '.join(known)}: {advice}save it again with astype"
            )
        if spec.shape not in (each.shape, each.shape[1:]):
            raise ValueError(
                f"{each.name} has the shape {each.shape}: it must be that of one sample, "
                f"config.data.shape = {spec.shape}, or of several, (N, "
                f"{', '.join(map(str, spec.shape))})"
            )
        if mask is not None:
            masks.check(mask.name, each, mask, spec.missing)
            each, dtype = _masked(each, mask), masks.float_type(dtype)
        read = _one(each) if each.shape == spec.shape else each.read
        parts.append(Part(each.name, _length(spec, each), read))
    return values_of(parts, spec.shape, dtype, spec.missing)


def _masked(samples: Stored, mask: Stored) -> Stored:
    def read(rows: Any) -> np.ndarray:
        return masks.apply(mask.name, np.asarray(samples.read(rows)), np.asarray(mask.read(rows)))

    return samples._replace(read=read)


def _images(stored: Stored) -> Any:
    """Images beside the samples, of any size and type, which are read at once if they are small."""
    dtype = np.dtype(np.float32) if stored.dtype.kind == "f" else stored.dtype
    part = Part(stored.name, stored.shape[0], stored.read)
    return values_of([part], stored.shape[1:], dtype)


def _one(stored: Stored) -> Callable[[Any], np.ndarray]:
    return lambda rows: np.asarray(stored.read(...))[None]


def _length(spec: DataSpec, stored: Stored) -> int:
    return 1 if stored.shape == spec.shape else stored.shape[0]


def _npy(path: Path) -> Stored:
    """The array of an .npy file. The file is mapped for each reading alone, to free its pages."""
    with reading(path, EXPECTED):
        about = np.load(path, mmap_mode="r", allow_pickle=False)

    def read(rows: Any) -> np.ndarray:
        return np.array(np.load(path, mmap_mode="r", allow_pickle=False)[rows])

    return Stored(str(path), about.shape, about.dtype, read)


def _in_file(path: Path) -> dict[str, Stored]:
    """The arrays of a file that may hold several, by their names."""
    zipped = not path.is_dir() and zipfile.is_zipfile(path)
    if path.is_dir() or (zipped and _is_zarr(path)):
        zarr = require("zarr", "zarr")
        with reading(path, EXPECTED):
            store = zarr.storage.ZipStore(str(path), mode="r") if zipped else str(path)
            opened = zarr.open(store, mode="r")
        return _opened(path, opened, lambda array, rows: array.oindex[rows])
    with path.open("rb") as file:
        start = file.read(len(HDF5))
    if start == HDF5:
        h5py = require("h5py", "hdf5")
        with reading(path, EXPECTED):
            opened = h5py.File(path, "r")
        return _opened(path, opened, lambda array, rows: array[rows])
    if zipped:
        with open_arrays(path, EXPECTED) as file:
            return {
                name: Stored(f"{path}: {name}", values.shape, values.dtype, values.__getitem__)
                for name, values in dict(file).items()
            }
    return {"data": _npy(path)}


def _is_zarr(archive: Path) -> bool:
    with reading(archive, EXPECTED), zipfile.ZipFile(archive) as file:
        return bool({*ZARR} & {*file.namelist()})


def _opened(path: Path, group: Any, get: Callable[[Any, Any], Any]) -> dict[str, Stored]:
    """The arrays of an open HDF5 or zarr file."""
    if hasattr(group, "dtype"):
        group = {"data": group}
    members = group.arrays() if hasattr(group, "arrays") else group.items()
    arrays = {name: each for name, each in members if hasattr(each, "dtype")}
    if not arrays:
        raise ValueError(
            f"{path} holds no arrays, but for those within groups: write a file whose arrays are "
            "outside of groups"
        )

    def read(array: Any, rows: Any) -> np.ndarray:
        return np.asarray(array[...] if rows is ... else get(array, rows))

    return {
        name: Stored(
            f"{path}: {name}", tuple(array.shape), np.dtype(array.dtype), partial(read, array)
        )
        for name, array in arrays.items()
    }
