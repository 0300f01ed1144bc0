"""Images and masks of edits from files."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from experiments.data.prepare.picture import Transform
from experiments.data.prepare.work import prepare_all
from experiments.data.sources.files import SUFFIXES
from experiments.data.sources.members import members
from experiments.runs import files

IMAGES = "config.edit.images"
MASK = "config.edit.mask"
Pixels = UInt8[np.ndarray, "height width channels"]


class Picture(NamedTuple):
    """An image in the size of its file, and the file's name."""

    pixels: Pixels
    name: str


def split(images: str) -> list[str]:
    """The paths in a text: the text itself if there is such a path, or else its parts at commas."""
    if not images or files.expand(images).exists():
        return [images] if images else []
    return [part.strip() for part in images.split(",") if part.strip()]


def read_images(paths: Sequence[str | Path], channels: int, background: str) -> list[Picture]:
    """The images of files, and those in folders, by name: upright, grey or RGB, in their own size.

    Args:
        paths: of files and folders.
        channels: 1 for grey, 3 for RGB.
        background: colour behind transparent pixels.

    Raises:
        ValueError: there is no such file, or it holds no image.
    """
    transform = Transform(channels=channels, background=background)
    return [_read(path, IMAGES, transform) for path in listed(paths)]


def read_mask(path: str | Path) -> np.ndarray:
    """The known part, True, of a mask file: the half of the grey levels nearer to black.

    Transparent pixels are black, as masks of painting programs have them.
    """
    transform = Transform(channels=1, background="black")
    return _read(files.expand(path), MASK, transform).pixels[..., 0] < 128


def listed(paths: Sequence[str | Path]) -> list[Path]:
    """The files, and those of images in folders, by name. Raises ValueError if there are none."""
    found: list[Path] = []
    for given in paths:
        path = files.expand(given)
        if not path.exists():
            raise ValueError(f"{IMAGES} is {str(given)!r}, which does not exist: give image files")
        if not path.is_dir():
            found.append(path)
            continue
        names = [n for n in members(path).names if Path(n).suffix.lower() in SUFFIXES]
        if not names:
            kinds = ", ".join(sorted(SUFFIXES))
            raise ValueError(f"{IMAGES} = {str(given)!r} holds no image: it needs files {kinds}")
        found += [path / name for name in sorted(names)]
    return found


def _read(path: Path, field: str, transform: Transform) -> Picture:
    (done,) = prepare_all(path.parent, [path.name], transform, processes=0)
    if done.picture is None:
        why = f" ({done.detail})" if done.detail else ""
        raise ValueError(f"{field}: {path}: {done.failure}{why}; give an image file")
    return Picture(done.picture.pixels, path.stem)
