"""Images in an .npz file."""

import dataclasses
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.dataset import Dataset, DataSpec, as_labels, note_of, numbered, split
from experiments.data.lazy_arrays import take
from experiments.data.sources.numbers import masks
from experiments.runs.files import open_arrays

PARTS = {"train", "test"}
LABELS = {"labels", "train_labels", "test_labels"}
CONFIDENCES = {"confidence", "train_confidence", "test_confidence"}
KINDS = ("vector", "attributes", "image", "source", "embeddings")  # of conditions
CONDITIONS = {f"{part}condition_{kind}": kind for kind in KINDS for part in ("", "train_", "test_")}
CAPTIONS = {"captions", "train_captions", "test_captions"}
ABOUT = LABELS | CONFIDENCES | CAPTIONS | CONDITIONS.keys()
NAMES = PARTS | ABOUT | masks.NAMES
LAYOUT = (
    "uint8 images [N, H, W, C] in arrays 'train' and 'test', with integers 'train_labels' and "
    "'test_labels' if there are classes, and confidences of these in [0, 1], 'train_confidence' "
    "and 'test_confidence', if they are uncertain; or images in one array of any other name, with "
    "'labels' and 'confidence', of which config.data.test_fraction becomes the test set; other "
    "conditions are arrays such as 'captions' and 'condition_vector', or 'train_captions', "
    "'test_captions', 'train_condition_vector', ...; with config.data.missing='mask', masks "
    "'train_mask' and 'test_mask', or 'mask'"
)


def load(spec: DataSpec) -> Dataset:
    """Reads the arrays of the file spec.path; LAYOUT lists them.

    Raises:
        ValueError: the file is not an .npz file, is damaged, or has other arrays.
    """
    path = Path(spec.path)
    if not spec.path or not zipfile.is_zipfile(path):
        raise ValueError(f"config.data.path = {spec.path!r} must be an .npz file of {LAYOUT}")
    with open_arrays(path, "an intact .npz file of plain arrays (docs/howto/own_data.md)") as file:
        about, classes = numbered_labels(dict(file), "bSU")
        made = dataset_of(path, about, spec, 256)
    if not classes:
        return made
    notes = (*made.notes, note_of("the labels", classes))
    return dataclasses.replace(made, classes=classes, notes=notes)


def numbered_labels(arrays: dict[str, Any], kinds: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The arrays with labels from 0 on, and the names of the classes if these were others.

    `kinds` are NumPy's kinds of the labels that are numbered.
    """
    names = sorted(arrays.keys() & LABELS)
    if not names or not all(arrays[name].ndim == 1 for name in names):
        return arrays, ()
    whole = np.concatenate([arrays[name] for name in names])
    if whole.dtype.kind not in kinds:
        return arrays, ()
    if whole.dtype.kind in "iu" and (np.unique(whole) == np.arange(len(np.unique(whole)))).all():
        return arrays, ()
    classes, labels = numbered(whole.tolist())
    ends = np.cumsum([len(arrays[name]) for name in names])[:-1]
    return arrays | dict(zip(names, np.split(labels, ends), strict=True)), classes


def dataset_of(path: Path, arrays: dict[str, Any], spec: DataSpec, levels: int | None) -> Dataset:
    """The data set of arrays by their names in LAYOUT.

    Args:
        path: of their file, for errors.
        arrays: by name; samples may be a LazyArray.
        spec: of the data set.
        levels: grey levels of the samples; None for floats.

    Raises:
        ValueError: arrays of other names, lengths or types.
    """
    for name, values in arrays.items():
        if not values.shape:
            raise ValueError(f"{path}: {name} is a single value, it must be an array")
    arrays = _masked(path, arrays, spec)
    for name in arrays.keys() & LABELS:
        arrays[name] = as_labels(f"{path}: {name}", arrays[name])
    for name in arrays.keys() & CONFIDENCES:
        if arrays[name].dtype.kind not in "fiu":
            raise ValueError(f"{path}: {name} is {arrays[name].dtype}, it must be numbers")
        arrays[name] = arrays[name].astype(np.float32)

    for name in arrays.keys() & CONDITIONS.keys():
        values = arrays[name]
        if isinstance(values, np.ndarray) and values.dtype.kind == "f" and values.ndim > 2:
            arrays[name] = values.astype(np.float32)
    images, about = arrays.keys() - ABOUT, arrays.keys() & ABOUT
    halves = {name for name in about if name.startswith(("train_", "test_"))}
    if images == PARTS and about == halves:
        return Dataset(levels=levels, **_fields(arrays))
    if len(images) != 1 or images <= PARTS or halves:
        raise ValueError(f"{path} holds {sorted(arrays)}: expected {LAYOUT}")
    values = arrays[images.pop()]
    for name in about:
        if len(arrays[name]) != len(values):
            raise ValueError(f"{path} holds {len(arrays[name])} {name} for {len(values)} images")
    train, test = split(len(values), spec.test_fraction)
    more: dict[str, Any] = {
        f"{part}_{name}": take(arrays[name], rows)
        for name in about
        for part, rows in (("train", train), ("test", test))
    }
    about_split: dict[str, Any] = _fields(more) | {"test_share": spec.test_fraction}
    return Dataset(take(values, train), take(values, test), levels, **about_split)


def _masked(path: Path, arrays: dict[str, Any], spec: DataSpec) -> dict[str, Any]:
    """The arrays without masks, which are applied to their samples."""
    for samples in sorted(arrays.keys() - ABOUT - masks.NAMES):
        if (mask := arrays.get(masks.name_for(samples))) is not None:
            where = f"{path}: {masks.name_for(samples)}"
            masks.check(where, arrays[samples], mask, spec.missing)
            arrays = arrays | {samples: masks.apply(where, arrays[samples], mask)}
            del arrays[masks.name_for(samples)]
    return arrays


def _fields(arrays: dict[str, Any]) -> dict[str, Any]:
    """The fields of a Dataset: conditions are together in one for each split."""
    fields = {name: values for name, values in arrays.items() if name not in CONDITIONS}
    for part in ("train", "test"):
        names = [name for name in arrays if name in CONDITIONS and name.startswith(part)]
        fields[f"{part}_conditions"] = {CONDITIONS[name]: arrays[name] for name in names}
    return fields
