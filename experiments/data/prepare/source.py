"""Data sets that --mode=prepare made. Many images are read when a batch needs them."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.dataset import SPLITS, Dataset, DataSpec
from experiments.data.lazy_arrays import Part, values_of
from experiments.runs.files import reading

ABOUT = "data.json"
VERSION = 1
EXPECTED = "the folder that --mode=prepare made"


def load(spec: DataSpec) -> Dataset:
    """Opens the folder spec.path; images stay on the disk.

    Raises:
        ValueError: no such folder, a damaged one, or one of a later version.
    """
    path = Path(spec.path)
    if not spec.path or not (path / ABOUT).is_file():
        raise ValueError(f"config.data.path = {spec.path!r} must be {EXPECTED}")
    with reading(path, EXPECTED):
        about = json.loads((path / ABOUT).read_text())
        if about["version"] > VERSION:
            raise ValueError(f"a later version of this program made it, {about['version']}")
        arrays: dict[str, Any] = {}
        for split in SPLITS:
            arrays[split] = _images(path / f"{split}.npy")
            if len(arrays[split]) != about["images"][split]:
                raise ValueError(f"{split}.npy has not the images that {ABOUT} says")
            if about["classes"]:
                arrays[f"{split}_labels"] = np.load(path / f"{split}_labels.npy")
            if about["captions"] and spec.captions:
                arrays[f"{split}_captions"] = _captions(path / f"{split}_captions.jsonl")
    return Dataset(
        levels=256, **arrays, classes=tuple(about["classes"]), notes=tuple(about["notes"])
    )


def _images(path: Path) -> Any:
    """The images of an .npy file. It is mapped for each reading alone, to free its pages."""

    def read(rows: np.ndarray) -> np.ndarray:
        return np.array(np.load(path, mmap_mode="r")[rows])

    mapped = np.load(path, mmap_mode="r")
    return values_of([Part(str(path), len(mapped), read)], mapped.shape[1:], mapped.dtype)


def _captions(path: Path) -> np.ndarray:
    """The strings of a .jsonl file, a line each."""
    with path.open() as lines:
        return np.array([json.loads(line) for line in lines], dtype=object)
