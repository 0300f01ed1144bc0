"""Images in an .npz file."""

import zipfile
from pathlib import Path

import numpy as np

from experiments.datasets.dataset import Dataset, split
from models.config import Config

LABELS = ("train_labels", "test_labels", "labels")
LAYOUT = (
    "uint8 images [N, H, W, C] in arrays 'train' and 'test', with integers 'train_labels' and "
    "'test_labels' if there are classes; or in one array of any other name, with 'labels', from "
    "which config.data.test_fraction is kept for tests"
)


def load(config: Config) -> Dataset:
    """The arrays of config.data.path: see LAYOUT.

    Raises:
        ValueError: no .npz file, or other arrays.
    """
    path = Path(config.data.path)
    if not config.data.path or not zipfile.is_zipfile(path):
        raise ValueError(f"config.data.path = {config.data.path!r} is no .npz file of {LAYOUT}")
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    labels = {name: arrays.pop(name) for name in LABELS if name in arrays}
    for name, values in labels.items():
        if not np.issubdtype(values.dtype, np.integer):
            raise ValueError(f"{path}: {name} are {values.dtype}, they must be integers")
        labels[name] = values.astype(np.int32)
    if set(arrays) == {"train", "test"}:
        train_labels, test_labels = labels.get("train_labels"), labels.get("test_labels")
        return Dataset(arrays["train"], arrays["test"], 256, train_labels, test_labels)
    if len(arrays) != 1 or set(arrays) <= {"train", "test"}:
        raise ValueError(f"{path} holds {sorted(arrays | labels)}: expected {LAYOUT}")
    images, classes = *arrays.values(), labels.get("labels")
    train, test = split(len(images), config.data.test_fraction)
    if classes is None:
        return Dataset(images[train], images[test], 256)
    return Dataset(images[train], images[test], 256, classes[train], classes[test])
