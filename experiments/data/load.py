"""Loading a data set by its name, with checks of what the source returned."""

import dataclasses
import logging
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.conditions import attributes
from experiments.data.conditions.beside import with_file
from experiments.data.dataset import (
    SPLITS,
    Dataset,
    DataSpec,
    Split,
    as_labels,
    missing,
    note_of,
    split_advice,
)
from experiments.data.image_files import rescaling
from experiments.data.lazy_arrays import LazyArray, check_finite, complete
from experiments.data.lazy_images import LazyImages
from experiments.data.scaling import Scaling
from experiments.data.sources import SOURCES
from experiments.runs import hosts
from models.config import data_kind
from sde_lib.checks import check_name

LOG = logging.getLogger(__name__)
COUNTED = 1024  # samples of data beyond memory whose missing values are counted
READ_LATER = ("arrays", "prepared")  # sources beside images whose files training may read
SHOWN = 12  # classes that are listed one by one


def load(spec: DataSpec) -> Dataset:
    """The data set that the spec names, checked; what was found is shown.

    Raises:
        ValueError: an unknown name, a path for a source that reads no files, or data that are
            missing, damaged, of another shape, outside their grey levels, not finite, or with
            labels that do not fit.
    """
    check_name("config.data.dataset", spec.name, SOURCES)
    _check_path(spec)
    if not hosts.is_first():
        hosts.everyone(True)  # waits for the first process, which may download
    dataset = SOURCES[spec.name].load(spec)
    if hosts.is_first():
        hosts.everyone(True)
    _check_options(spec, dataset)
    if spec.conditions:
        dataset = with_file(dataset, spec.conditions)
    dataset = _captioned(attributes.with_numbers(dataset))
    dataset = _renumbered(spec, dataset)
    for split in SPLITS:
        what = f"{split} data of {spec.name!r}"
        _check_conditions(what, dataset, split)
        dataset = _readable(spec, _labelled(what, dataset, split), split)
        _check_values(what, dataset, split, spec.missing)
        _check_shape(spec, what, getattr(dataset, split).shape[1:])
    dataset = dataclasses.replace(dataset, notes=(*dataset.notes, *_missing(dataset)))
    for line in describe(spec, dataset):
        LOG.info("%s", line)
    return dataset


def _renumbered(spec: DataSpec, dataset: Dataset) -> Dataset:
    """The data set with labels from 0 on, and a note, if they are others of as many classes.

    Labels that the model's classes fit stay, with gaps among them too.
    """
    labels = {
        f"{split}_labels": getattr(dataset, f"{split}_labels")
        for split in SPLITS
        if getattr(dataset, f"{split}_labels") is not None
    }
    arrays = [np.asarray(values) for values in labels.values()]
    if not spec.n_classes or not arrays or any(a.dtype.kind not in "iu" for a in arrays):
        return dataset
    found = np.unique(np.concatenate(arrays))
    fits = not len(found) or (found[0] >= 0 and found[-1] < spec.n_classes)
    if fits or len(found) > spec.n_classes:
        return dataset
    made: dict[str, Any] = {
        name: np.searchsorted(found, a) for name, a in zip(labels, arrays, strict=True)
    }
    named = dataset.classes and found[0] >= 0 and found[-1] < len(dataset.classes)
    classes = tuple(dataset.classes[k] if named else str(k) for k in found.tolist())
    notes = (*dataset.notes, note_of("the labels", tuple(map(str, found.tolist()))))
    return dataclasses.replace(dataset, **made, classes=classes, notes=notes)


def _check_path(spec: DataSpec) -> None:
    """Raises ValueError for a path that the source would not read."""
    if spec.path and not SOURCES[spec.name].takes_path:
        readers = ", ".join(name for name, source in SOURCES.items() if source.takes_path)
        raise ValueError(
            f"config.data.path is {spec.path!r}, but config.data.dataset = {spec.name!r} reads no "
            f"files: set config.data.dataset to one of {readers}, or leave config.data.path empty"
        )


def _check_options(spec: DataSpec, dataset: Dataset) -> None:
    """Raises ValueError for an option of image files or of tables if the data are none."""
    for name in ("condition_columns", "attribute_columns", "caption_column"):
        if getattr(spec, name) and not dataset.columns:
            raise ValueError(
                f"config.data.{name} is {getattr(spec, name)!r}, but the data {spec.name!r} are no "
                "table: leave it out, and give the conditions beside the data"
            )
    images = isinstance(dataset.train, LazyImages)
    fitting = {"first_frame": images, "max_unreadable": images or spec.name in READ_LATER}
    for name, fits in fitting.items():
        if getattr(spec, name) and not fits:
            raise ValueError(
                f"config.data.{name} is {getattr(spec, name)!r}, but the data {spec.name!r} are no "
                "image files: leave it out"
            )


def describe(spec: DataSpec, dataset: Dataset) -> list[str]:
    """The content of a data set, in lines: samples, classes, and the notes of its source."""
    found = f"{len(dataset.train):,} {data_kind(spec.shape)} to train on"
    counts = f"{found} and {len(dataset.test):,} to test on"
    first = f"data {spec.name!r}{spec.path and f' of {spec.path}'}: {counts}"
    if dataset.test_share is None and spec.test_fraction != DataSpec.test_fraction:
        first += ": config.data.test_fraction is not used, as the data have a test set"
    elif dataset.test_share is not None:
        first += f", a share of config.data.test_fraction = {dataset.test_share}"
    return [first, *(f"  {line}" for line in (*_describe_classes(dataset), *dataset.notes))]


def _missing(dataset: Dataset) -> list[str]:
    """The share of missing values among some training samples, if there are any."""
    values = dataset.train
    if isinstance(values, LazyImages):
        return []
    some = values.some(COUNTED) if isinstance(values, LazyArray) else values
    if some.dtype.kind != "f" or not (gone := np.isnan(some)).any():
        return []
    whole = len(complete(some)) / len(some)
    return [f"{gone.mean():.1%} of the values are missing, and {whole:.1%} of samples are complete"]


def _describe_classes(dataset: Dataset) -> list[str]:
    """The number of training and test samples of each class, or of the first ones."""
    parts = (dataset.train_labels, dataset.test_labels)
    train, test = (
        {} if part is None else dict(zip(*np.unique(part, return_counts=True), strict=True))
        for part in parts
    )
    found = sorted(train.keys() | test.keys())
    if not found:
        return []
    listed = [
        f"{dataset.class_name(k)} {train.get(k, 0):,} + {test.get(k, 0):,}" for k in found[:SHOWN]
    ]
    more = f", and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    lines = [f"{len(found)} classes (training + test): {', '.join(listed)}{more}"]
    absent = [
        dataset.class_name(k) for k in islice(missing(train, range(dataset.n_classes)), SHOWN)
    ]
    if train and absent:
        lines.append(f"classes without training data: {', '.join(absent)}")
    return lines


def _readable(spec: DataSpec, dataset: Dataset, split: Split) -> Dataset:
    """The data set without the unreadable images of a split, as far as the spec allows them."""
    values = getattr(dataset, split)
    if not isinstance(values, LazyImages):
        return dataset
    cache = Path(spec.cache).expanduser()
    broken = values.check(cache, spec.first_frame, spec.max_unreadable)
    good = np.ones(len(values), bool)
    good[list(broken)] = False
    good = hosts.everywhere(good)
    if good.all():
        return dataset
    which = f"{', '.join(list(broken.values())[:3])}{' ...' if len(broken) > 3 else ''}"
    note = f"left out: {np.sum(~good)} unreadable {split} images, {which}"
    kept = dataset.only(split, np.flatnonzero(good))
    return dataclasses.replace(kept, notes=(*dataset.notes, note))


def _check_shape(spec: DataSpec, what: str, shape: tuple[int, ...]) -> None:
    if len(shape) != len(spec.shape):
        raise ValueError(
            f"the arrays of {spec.name!r} have {len(shape) + 1} axes, they must have "
            f"{len(spec.shape) + 1}: the samples, then the axes of config.data.shape = "
            f"{spec.shape}, of which the last are channels, also for one channel"
        )
    if shape != spec.shape:
        square = len(shape) == 3 and shape[0] == shape[1]
        fields = f"config.data.image_size={shape[0]} and num_channels={shape[-1]}, or " * square
        raise ValueError(
            f"{what}: {data_kind(shape)} of {spec.name!r} have the shape {shape}, but config.data "
            f"says {spec.shape}: set {fields}config.data.shape={shape}, or make all of one shape"
        )


def _labelled(what: str, dataset: Dataset, split: Split) -> Dataset:
    """The data set with the labels of a split as int32; labels and confidences are checked."""
    labels, confidences = (getattr(dataset, f"{split}_{name}") for name in ("labels", "confidence"))
    n = len(getattr(dataset, split))
    if labels is not None:
        labels = as_labels(f"{what}: the labels", labels)
        if labels.shape != (n,):
            raise ValueError(f"{what}: labels of shape {labels.shape} for {n} samples")
        if n and labels.min() < 0:
            raise ValueError(f"{what}: the label {labels.min()} is negative, classes count from 0")
        dataset = dataclasses.replace(dataset, **{f"{split}_labels": labels})
    if confidences is not None:
        if confidences.shape != (n,):
            raise ValueError(f"{what}: confidences of shape {confidences.shape} for {n} samples")
        if not ((confidences >= 0) & (confidences <= 1)).all():
            raise ValueError(
                f"{what}: confidences from {confidences.min()} to {confidences.max()}: they must "
                "be in [0, 1]"
            )
    return dataset


def _captioned(dataset: Dataset) -> Dataset:
    """The data set with a note of the captions that are missing, which count as empty ones."""
    notes = []
    for split in SPLITS:
        captions = getattr(dataset, f"{split}_captions")
        if captions is not None:
            n = sum(not str(caption or "").strip() for caption in captions)
            if n:
                notes.append(f"{n:,} of {len(captions):,} {split} captions are missing: empty ones")
    return dataclasses.replace(dataset, notes=(*dataset.notes, *notes))


def _check_conditions(what: str, dataset: Dataset, split: Split) -> None:
    """Raises ValueError, naming `what`, for conditions of another number than the samples."""
    n = len(getattr(dataset, split))
    captions = getattr(dataset, f"{split}_captions")
    found = dataset.conditions(split) | ({} if captions is None else {"text": captions})
    for kind, rows in found.items():
        if len(rows) != n:
            raise ValueError(
                f"{what}: there are {len(rows)} conditions {kind!r} for {n} samples: give one for "
                "each sample"
            )


def _check_values(what: str, dataset: Dataset, split: Split, missing: bool) -> None:
    """Raises ValueError, naming `what`, for samples that cannot be."""
    values, levels = getattr(dataset, split), dataset.levels
    if len(values) < 2:
        count = len(dataset.train) + len(dataset.test)
        advice = "" if dataset.test_share is None else f"; {split_advice(count)}"
        raise ValueError(f"{what}: there are {len(values)} samples, at least 2 are needed{advice}")
    if not isinstance(values, np.ndarray):
        return
    dtype = Scaling(levels).dtype
    if levels is None or (missing and values.dtype.kind == "f"):
        check_finite(values, what, "sample {}".format, dataset.columns, missing)
    elif values.dtype != dtype:
        message = f"{what}: the images are {values.dtype}, they must be {dtype}"
        if values.dtype.kind in "iuf" and values.size and levels == 256:
            message += f"; their values are from {values.min():g} to {values.max():g}: "
            message += rescaling("images", "{}")
        raise ValueError(message)
    if levels and values.size and np.nanmax(values) >= levels:
        raise ValueError(f"{what}: grey level {values.max()} is outside 0 ... {levels - 1}")
