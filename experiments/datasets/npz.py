"""Images in an .npz file."""

import zipfile
from pathlib import Path

import numpy as np

from experiments.datasets.dataset import Dataset, split
from models.config import Config

PARTS = {"train", "test", "train_labels", "test_labels"}
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
    for name in arrays.keys() & {"labels", "train_labels", "test_labels"}:
        if not np.issubdtype(arrays[name].dtype, np.integer):
            raise ValueError(f"{path}: {name} are {arrays[name].dtype}, they must be integers")
        arrays[name] = arrays[name].astype(np.int32)

    images = arrays.keys() - {"labels"}
    if {"train", "test"} <= images <= PARTS and "labels" not in arrays:
        train_labels, test_labels = arrays.get("train_labels"), arrays.get("test_labels")
        return Dataset(arrays["train"], arrays["test"], 256, train_labels, test_labels)
    if len(images) != 1 or images <= PARTS:
        raise ValueError(f"{path} holds {sorted(arrays)}: expected {LAYOUT}")
    values, labels = arrays[images.pop()], arrays.get("labels")
    train, test = split(len(values), config.data.test_fraction)
    if labels is None:
        return Dataset(values[train], values[test], 256)
    if len(labels) != len(values):
        raise ValueError(f"{path} holds {len(labels)} labels for {len(values)} images")
    return Dataset(values[train], values[test], 256, labels[train], labels[test])
