"""Images in an .npz file."""

import zipfile
from pathlib import Path

import numpy as np

from experiments.data.dataset import Dataset, DataSpec, split

PARTS = {"train", "test"}
LABELS = {"labels", "train_labels", "test_labels"}
CONFIDENCES = {"confidence", "train_confidence", "test_confidence"}
LAYOUT = (
    "uint8 images [N, H, W, C] in arrays 'train' and 'test', with integers 'train_labels' and "
    "'test_labels' if there are classes, and confidences of these in [0, 1], 'train_confidence' "
    "and 'test_confidence', if they are uncertain; or images in one array of any other name, with "
    "'labels' and 'confidence', of which config.data.test_fraction becomes the test set"
)


def load(spec: DataSpec) -> Dataset:
    """Reads the arrays of the file spec.path; LAYOUT lists them.

    Raises:
        ValueError: the file is not an .npz file, or has other arrays.
    """
    path = Path(spec.path)
    if not spec.path or not zipfile.is_zipfile(path):
        raise ValueError(f"config.data.path = {spec.path!r} must be an .npz file of {LAYOUT}")
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    for name in arrays.keys() & LABELS:
        if not np.issubdtype(arrays[name].dtype, np.integer):
            raise ValueError(f"{path}: {name} are {arrays[name].dtype}, they must be integers")
        arrays[name] = arrays[name].astype(np.int32)
    for name in arrays.keys() & CONFIDENCES:
        arrays[name] = arrays[name].astype(np.float32)

    images, about = arrays.keys() - LABELS - CONFIDENCES, arrays.keys() & (LABELS | CONFIDENCES)
    if images == PARTS and not about & {"labels", "confidence"}:
        return Dataset(levels=256, **arrays)
    if len(images) != 1 or images <= PARTS or not about <= {"labels", "confidence"}:
        raise ValueError(f"{path} holds {sorted(arrays)}: expected {LAYOUT}")
    values = arrays[images.pop()]
    for name in about:
        if len(arrays[name]) != len(values):
            raise ValueError(f"{path} holds {len(arrays[name])} {name} for {len(values)} images")
    train, test = split(len(values), spec.test_fraction)
    more = {
        f"{part}_{name}": arrays[name][rows]
        for name in about
        for part, rows in (("train", train), ("test", test))
    }
    return Dataset(values[train], values[test], 256, **more)
