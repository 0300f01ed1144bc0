"""Image data sets of Hugging Face's library `datasets`."""

import io
from pathlib import Path
from typing import IO, Any

import numpy as np

from experiments.data.dataset import Dataset, DataSpec, as_labels, split
from experiments.data.lazy_images import LazyImages, check_channels
from experiments.data.sources import parts
from experiments.data.sources.optional import require
from experiments.runs.files import reading

CAPTION = {"text", "caption", "captions", "prompt", "description", "title"}
LABELS = {"label", "labels", "class", "classes", "class_id", "target", "targets", "y"}


def load(spec: DataSpec) -> Dataset:
    """Reads spec.path: a name for load_dataset, or a folder written by save_to_disk.

    Images are the column of the type Image. Labels are that of the type ClassLabel, or else a
    column of integers with a name in LABELS. The splits are named as in sources/parts.py; without
    a test or validation split, spec.test_fraction of "train" is the test set. A split with hidden
    labels, -1 or None, has no labels.

    Raises:
        ValueError: the data cannot be read; there is no split "train", not exactly one column of
            images, or more than one of labels.
    """
    path, hub = spec.path, require("datasets", "huggingface")
    if not path:
        raise ValueError(
            "config.data.path is empty: give the name of a data set, as in 'ylecun/mnist'"
        )
    found = _open(hub, path)
    if not {name.casefold() for name in found} & set(parts.NAMES["train"]):
        raise ValueError(f"{path} has no split train, it has {', '.join(found)}")
    chosen = parts.choose(path, found)
    assert chosen is not None
    train = found[chosen.train]
    image, label = _column(path, train, hub.Image), _label(hub, path, train)
    if image is None:
        raise ValueError(f"{path} has no column of images, it has {', '.join(train.features)}")
    caption = _caption(hub, train) if spec.captions else None
    columns = [name for name in train.features if name not in (image, label, caption)]
    if chosen.test:
        test = found[chosen.test]
    else:
        train, test = map(train.select, split(len(train), spec.test_fraction))
    labels = {name: _labels(path, part, label) for name, part in (("train", train), ("test", test))}
    hidden = [name for name, values in labels.items() if label and values is None]
    shape, encoded = check_channels(spec.shape), hub.Image(decode=False)
    return Dataset(
        _images(f"{path} (train)", train.cast_column(image, encoded), image, shape),
        _images(f"{path} (test)", test.cast_column(image, encoded), image, shape),
        256,
        labels["train"],
        labels["test"],
        classes=tuple(getattr(train.features[label], "names", ())) if label else (),
        notes=_notes(chosen, columns, label, hidden),
        test_share=None if chosen.test else spec.test_fraction,
        **_captions(caption, train, test),
    )


def _caption(hub: Any, part: Any) -> str | None:
    """The name of the column of captions; None without one."""
    texts = [
        name
        for name, feature in part.features.items()
        if isinstance(feature, hub.Value) and feature.dtype == "string"
    ]
    return next((name for name in texts if name.casefold() in CAPTION), None)


def _captions(caption: str | None, train: Any, test: Any) -> dict[str, Any]:
    """The captions of both splits, as a Dataset has them."""
    if caption is None:
        return {}
    parts_ = {"train": train, "test": test}
    return {
        f"{name}_captions": np.array([text or "" for text in part[caption]], dtype=object)
        for name, part in parts_.items()
    }


def _notes(
    chosen: parts.Parts, columns: list[str], label: str | None, hidden: list[str]
) -> tuple[str, ...]:
    """Notes of the splits in use and of those left out; `hidden` are those with hidden labels."""
    left_out = {"splits": chosen.left_out, "columns": columns}
    notes = [f"the test data are the split {chosen.test}"] if chosen.test else []
    notes += [f"left out: {what} {', '.join(names)}" for what, names in left_out.items() if names]
    notes += [f"the labels are the column {label}"] if label else []
    notes += [f"no classes of the {name} data: some of their labels are hidden" for name in hidden]
    return tuple(notes)


def _open(hub: Any, path: str) -> dict[str, Any]:
    """The splits by their names."""
    saved = any((Path(path) / name).exists() for name in ("dataset_dict.json", "state.json"))
    with reading(path, "the name of a data set, or a folder written by save_to_disk"):
        try:
            found = hub.load_from_disk(path) if saved else hub.load_dataset(path)
        except hub.exceptions.DatasetsError as error:
            raise ValueError(error) from error
    return {"train": found} if isinstance(found, hub.Dataset) else found


def _column(path: str, part: Any, kind: type) -> str | None:
    """The name of the column of this type; None without one."""
    names = [name for name, feature in part.features.items() if isinstance(feature, kind)]
    return _only(path, names, f"of the type {kind.__name__}")


def _label(hub: Any, path: str, part: Any) -> str | None:
    """The name of the column of labels; None without one."""
    integers = [
        name
        for name, feature in part.features.items()
        if isinstance(feature, hub.Value) and feature.dtype.startswith(("int", "uint"))
    ]
    named = [name for name in integers if name.casefold() in LABELS]
    label = _column(path, part, hub.ClassLabel) or _only(path, named, "of integer labels")
    # `datasets` may take the folders train and test for classes.
    return None if label and parts.are_parts(getattr(part.features[label], "names", "?")) else label


def _only(path: str, names: list[str], what: str) -> str | None:
    if len(names) > 1:
        raise ValueError(
            f"{path} has several columns {what}: {', '.join(names)}; save a copy with one of them "
            "(remove_columns, save_to_disk) and give its folder"
        )
    return names[0] if names else None


def _images(source: str, part: Any, column: str, shape: tuple[int, int, int]) -> LazyImages:
    part = part.select_columns([column])

    def open_row(row: np.integer) -> IO[bytes]:
        encoded = part[int(row)][column]
        if encoded["bytes"] is None:
            return Path(encoded["path"]).open("rb")
        return io.BytesIO(encoded["bytes"])

    return LazyImages(source, np.arange(len(part)), open_row, shape, lambda row: part._fingerprint)


def _labels(path: str, part: Any, column: str | None) -> np.ndarray | None:
    values = [] if column is None else list(part[column])
    if column is None or None in values:
        return None
    labels = as_labels(f"{path}: the labels in column {column}", values)
    return None if (labels < 0).any() else labels
