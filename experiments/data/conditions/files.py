"""Files of conditions to draw samples for: arrays, tables, images."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from experiments.data.image_files import MODES
from experiments.data.sources.files import SUFFIXES
from experiments.runs.files import open_arrays, reading

FIELD = "config.sampling.condition"
EXPECTED = (
    "an .npy or .npz file of plain arrays, a .csv file of numbers below their names, a .txt file "
    "of prompts, an image file or a folder of such"
)


def read(path: str, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """The values in a file by kind of condition.

    Args:
        path: a .npz file has an array for each kind, by name. Others hold the values of one kind.
        kinds: those of the model, by name; that of images has the `source` shape of an image.

    Raises:
        ValueError: no such file, a damaged one, or a model without conditions or with several.
    """
    file = Path(path)
    if not kinds:
        raise ValueError(
            f"{FIELD} is {path!r}, but the model has no conditions: leave it out, or train a model "
            "with some (docs/howto/conditions.md)"
        )
    if not file.exists():
        raise ValueError(f"{FIELD} is {path!r}, which does not exist: give {EXPECTED}")
    if file.is_dir() or file.suffix.lower() in SUFFIXES:
        if "image" not in kinds:
            raise ValueError(
                f"{FIELD} is {path!r}, which holds images, but the model's conditions are "
                f"{', '.join(map(repr, kinds))}: give an .npy, .npz or .csv file of these"
            )
        _check_one(path, kinds)
        return {"image": _images(file, kinds["image"].source)}
    reader = READERS.get(file.suffix.lower())
    if reader is None:
        raise ValueError(f"{FIELD} is {path!r}: give {EXPECTED}")
    values = reader(file)
    if isinstance(values, dict):
        for name in values.keys() - kinds:
            raise ValueError(
                f"{FIELD} = {path!r} has {name!r}, but the model's conditions are "
                f"{', '.join(map(repr, kinds))}: name the arrays by these"
            )
        return values
    _check_one(path, kinds)
    return {next(iter(kinds)): values}


def _check_one(path: str, kinds: Mapping[str, Any]) -> None:
    if len(kinds) > 1:
        raise ValueError(
            f"{FIELD} is {path!r}, and the model has the conditions "
            f"{', '.join(map(repr, kinds))}: give an .npz file of arrays by these names"
        )


def _images(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The images of a file or a folder as numbers [N, *shape]; transparent pixels are NaN."""
    names = [path]
    if path.is_dir():
        names = sorted(f for f in path.iterdir() if f.suffix.lower() in SUFFIXES)
    if not names:
        raise ValueError(f"{FIELD} is {str(path)!r}, a folder without images: give {EXPECTED}")
    if len(shape) != 3 or shape[-1] not in MODES:
        raise ValueError(
            f"{FIELD} is {str(path)!r}, but the model's condition images have the shape {shape}, "
            "which image files do not have: give an .npy file"
        )
    return np.stack([_pixels(name, shape) for name in names])


def _pixels(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    with reading(path, "an intact image"), Image.open(path) as image:
        turned = ImageOps.exif_transpose(image)
        pixels = np.asarray(turned.convert(MODES[shape[-1]]), np.float32)
        alpha = np.asarray(turned.convert("RGBA"))[..., 3] if turned.has_transparency_data else None
    if pixels.shape[:2] != shape[:2]:
        raise ValueError(
            f"{path} has {pixels.shape[0]} x {pixels.shape[1]} pixels, and the model's condition "
            f"images have {shape[0]} x {shape[1]}: crop or resize it first"
        )
    pixels = pixels.reshape(shape)
    return pixels if alpha is None else np.where(alpha[..., None] > 0, pixels, np.nan)


def _npz(path: Path) -> dict[str, np.ndarray]:
    with open_arrays(path, EXPECTED) as file:
        return dict(file)


def _npy(path: Path) -> np.ndarray:
    with reading(path, EXPECTED):
        return np.load(path, allow_pickle=False)


def _csv(path: Path) -> np.ndarray:
    """The rows below the header, as numbers if all are, otherwise as strings."""
    with reading(path, EXPECTED), path.open(newline="", encoding="utf-8-sig") as file:
        header, *rows = [row for row in csv.reader(file) if row] or [[]]
    if not rows or any(len(row) != len(header) for row in rows):
        raise ValueError(f"{path} must be {EXPECTED}, as many in each row")
    try:
        return np.array(rows, float)
    except ValueError:  # classes may have names
        return np.array(rows)


def _txt(path: Path) -> dict[str, list[str]]:
    """Prompts, a line each."""
    with reading(path, EXPECTED):
        return {"text": path.read_text(encoding="utf-8-sig").splitlines()}


READERS = {".npz": _npz, ".npy": _npy, ".csv": _csv, ".txt": _txt}
