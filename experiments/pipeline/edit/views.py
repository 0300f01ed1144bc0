"""Images of any size as views, which have the model's size, and their way back."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from experiments.data.prepare.picture import Transform
from experiments.pipeline.edit import files, masks
from experiments.pipeline.edit.files import MASK, Pixels
from experiments.pipeline.edit.masks import Weight
from experiments.pipeline.edit.options import Edit
from experiments.runs.pictures import to_picture
from sde_lib.checks import check_name

Known = Bool[np.ndarray, "height width"]
Mask = Any
"""A name in MASKS, an image file, or arrays [H, W] or [N, H, W], True where images are known."""


@dataclasses.dataclass(frozen=True)
class Fit:
    """The way in which images are brought to the model's size.

    Attributes:
        crop: "center" cuts the largest centred part of the model's aspect ratio; "none" squeezes.
        filter: of the resizing, a name in experiments/data/prepare/picture.py.
        background: colour behind transparent pixels.

    Raises:
        ValueError: an unknown name.
    """

    crop: str = "center"
    filter: str = "lanczos"
    background: str = "white"

    def __post_init__(self):
        check_name("config.edit.crop", self.crop, ("center", "none"))
        try:
            self.transform((1, 1))
        except ValueError as error:
            raise ValueError(str(error).replace("config.prepare.", "config.edit.")) from error

    def transform(self, sides: Sequence[int]) -> Transform:
        """The transform to images of (height, width)."""
        return Transform(tuple(sides), self.crop, self.filter, 3, self.background)


CUT = Fit()


def load_mask(mask: Mask) -> Mask:
    """A mask's name, or its known part as an array, which is read if it is a file.

    Raises:
        ValueError: neither a name, nor an image file.
    """
    if not isinstance(mask, str | Path) or str(mask) in masks.MASKS:
        return mask
    masks.check_known(str(mask))
    return files.read_mask(mask)


def known_of(mask: Mask, k: int, sides: Sequence[int]) -> Known:
    """The known part of the k-th image, [H, W], by a mask as of load_mask.

    Raises:
        ValueError: a mask that has another aspect ratio than the image, or no two sides.
    """
    if isinstance(mask, str):
        return masks.MASKS[mask](*sides)
    known = np.asarray(mask)
    known = known[..., 0] if known.ndim > 2 and known.shape[-1] == 1 else known
    known = known[k] if known.ndim == 3 and k < len(known) else known
    if known.ndim != 2 or known.shape[0] * sides[1] != known.shape[1] * sides[0]:
        raise ValueError(
            f"{MASK} has the shape {np.shape(mask)}, and the image number {k} has {tuple(sides)} "
            "(height, width): give a mask of the image's size, or of its aspect ratio"
        )
    if known.dtype != bool and not np.isin(known, (0, 1)).all():
        raise ValueError(f"{MASK} must be True (or 1) where images are known, and False (or 0)")
    known = known.astype(bool)
    return known if known.shape == tuple(sides) else ~smaller(~known, sides, "none")


def around(made: Known, padding: int, sides: Sequence[int]) -> tuple[slice, slice]:
    """The rows and columns around a mask, which have the aspect ratio of the sides.

    They have the padding around the mask, but for the edges of the image, where they may be
    squeezed.
    """
    ends = []
    for axis in (1, 0):
        at = np.flatnonzero(made.any(axis=axis))
        ends.append((at[0] - padding, at[-1] + 1 + padding))
    scale = max((last - first) / side for (first, last), side in zip(ends, sides, strict=True))
    places = []
    for (first, last), side, most in zip(ends, sides, made.shape, strict=True):
        length = min(round(scale * side), most)
        start = min(max((first + last - length) // 2, 0), most - length)
        places.append(slice(start, start + length))
    return places[0], places[1]


def paste(images: np.ndarray, results: np.ndarray, weights: Weight) -> UInt8[np.ndarray, "..."]:
    """Images of 0 to 255 with results in them; where the weight is 0 they stay as they are."""
    mixed = images + weights * (results.astype(np.float32) - images)
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def view(image: Pixels, sides: Sequence[int], options: Edit, fit: Fit) -> Pixels:
    """An image at the model's size. A smaller one is to be enlarged: its pixels are blocks then."""
    factor, small = options.factor, options.degrade is False
    if options.degrade is None:
        small = image.shape[0] < sides[0] and image.shape[1] < sides[1]
    if options.task != "super_resolution" or not small:
        return _resized(image, fit.transform(sides))
    low_res = _resized(image, fit.transform([side // factor for side in sides]))
    return low_res.repeat(factor, axis=0).repeat(factor, axis=1)


def squeezed(pixels: Pixels, sides: Sequence[int], fit: Fit) -> Pixels:
    """An image at other sides, whatever its aspect ratio."""
    return _resized(pixels, Transform(tuple(sides), "none", fit.filter))


def smaller(made: Known, sides: Sequence[int], crop: str) -> Known:
    """A mask at other sides: a pixel is True if a part of it was."""
    pixels = np.where(made, np.uint8(255), np.uint8(0))[..., None]
    return _resized(pixels, Transform(tuple(sides), crop, "box"))[..., 0] > 0


def _resized(pixels: Pixels, transform: Transform) -> Pixels:
    """An image as `transform` cuts and resizes it; one of its size stays as it is."""
    shape = transform.shape
    assert shape
    if pixels.shape[:2] == shape[:2]:
        return pixels
    image, _ = transform.resized(to_picture(pixels))
    return np.asarray(image).reshape(*shape[:2], -1)
