"""Image data sets of Hugging Face's library `datasets`."""

import io
from pathlib import Path
from typing import IO, Any

import numpy as np

from experiments.data.dataset import Dataset, DataSpec, split
from experiments.data.lazy_images import LazyImages, check_channels
from experiments.data.sources.optional import require


def load(spec: DataSpec) -> Dataset:
    """Reads spec.path: a name for load_dataset, or a folder written by save_to_disk.

    Images and labels are the columns of the types Image and ClassLabel. The test set is the split
    "test", or else "validation", or else spec.test_fraction of "train". Hidden labels, -1, count as
    no labels.

    Raises:
        ValueError: there is no split "train", not exactly one column of images, or more than one of
            labels.
    """
    path, hub = spec.path, require("datasets", "huggingface")
    if not path:
        raise ValueError(
            "config.data.path is empty: give the name of a data set, as in 'ylecun/mnist'"
        )
    saved = any((Path(path) / name).exists() for name in ("dataset_dict.json", "state.json"))
    parts = hub.load_from_disk(path) if saved else hub.load_dataset(path)
    if isinstance(parts, hub.Dataset):
        parts = {"train": parts}
    if "train" not in parts:
        raise ValueError(f"{path} has no split train, it has {', '.join(parts)}")
    train = parts["train"]
    image, label = _column(path, train, hub.Image), _column(path, train, hub.ClassLabel)
    if image is None:
        raise ValueError(f"{path} has no column of images, it has {', '.join(train.features)}")
    test = next((parts[name] for name in ("test", "validation") if name in parts), None)
    if test is None:
        train, test = map(train.select, split(len(train), spec.test_fraction))

    shape, encoded = check_channels(spec.shape), hub.Image(decode=False)
    return Dataset(
        _images(f"{path} (train)", train.cast_column(image, encoded), image, shape),
        _images(f"{path} (test)", test.cast_column(image, encoded), image, shape),
        256,
        _labels(train, label),
        _labels(test, label),
    )


def _column(path: str, part: Any, kind: type) -> str | None:
    """The name of the column of this type; None without one."""
    names = [name for name, feature in part.features.items() if isinstance(feature, kind)]
    if len(names) > 1:
        raise ValueError(
            f"{path} has several columns of the type {kind.__name__}: {', '.join(names)}; save a "
            "copy with one of them (remove_columns, save_to_disk) and give its folder"
        )
    return names[0] if names else None


def _images(source: str, part: Any, column: str, shape: tuple[int, int, int]) -> LazyImages:
    part = part.select_columns([column])

    def open_row(row: np.integer) -> IO[bytes]:
        encoded = part[int(row)][column]
        if encoded["bytes"] is None:
            return Path(encoded["path"]).open("rb")
        return io.BytesIO(encoded["bytes"])

    return LazyImages(source, np.arange(len(part)), open_row, shape)


def _labels(part: Any, column: str | None) -> np.ndarray | None:
    labels = None if column is None else np.asarray(part[column], np.int32)
    return None if labels is None or (labels < 0).any() else labels
