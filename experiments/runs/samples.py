"""Sets of samples in .npz files, with the settings that made them."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from experiments.runs import files

EXPECTED = "a file of samples, made of a trained model by --mode=generate"


def read_about(path: Path) -> dict[str, Any]:
    """The settings of a set of samples.

    Raises:
        ValueError: there is no such file, or one of another kind.
    """
    if zipfile.is_zipfile(path):
        with files.open_arrays(path, EXPECTED) as file:
            if {"samples", "about"} <= set(file):
                with files.reading(path, EXPECTED):
                    return json.loads(str(file["about"]))
    raise ValueError(
        f"{path} is no file of samples: make one of a trained model by --mode=generate"
    )


def read_classes(path: Path) -> np.ndarray:
    """The class of each sample of a set. Raises ValueError without classes, or without a file."""
    if zipfile.is_zipfile(path):
        with files.open_arrays(path, EXPECTED) as file:
            if "class_labels" in file:
                with files.reading(path, EXPECTED):
                    return np.asarray(file["class_labels"], np.int32)
    raise ValueError(
        f"config.model.class_conditional is True, but the samples have no classes on record in "
        f"{path}: make them of a class-conditional model by --mode=generate, or set it to False"
    )


def read_noise(path: Path) -> np.ndarray:
    """The noise that each sample of a set was drawn from, in model space at t_max.

    Raises:
        ValueError: a set without it.
    """
    with files.open_arrays(path, EXPECTED) as file:
        if "noise" in file:
            with files.reading(path, EXPECTED):
                return np.asarray(file["noise"], np.float32)
    raise ValueError(
        f"{path} holds samples without their noise: make it by --mode=generate with "
        "--config.sampling.pairs=True"
    )


def read_samples(path: Path) -> tuple[dict[str, Any], np.ndarray]:
    """The settings and the samples of a set."""
    about = read_about(path)
    with files.open_arrays(path, EXPECTED) as file:
        return about, file["samples"]


def write_samples(path: Path, about: dict[str, Any], **arrays: np.ndarray) -> None:
    """Writes a set of samples, as "samples" among the arrays, with its settings."""
    files.write_arrays(path, **arrays, about=np.asarray(json.dumps(about)))
