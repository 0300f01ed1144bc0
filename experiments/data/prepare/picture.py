"""One image file as pixels of the size and kind that are asked for."""

import dataclasses
import io
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageColor, ImageOps

from experiments.data.image_files import MULTI_PICTURE, UnfitError, bits_of
from sde_lib.checks import check_name

CROPS = ("center", "wide", "tall", "none")
FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "box": Image.Resampling.BOX,
}
DEEP = ("PNG", "PPM")  # formats whose integers of Pillow's mode I go up to 65,535
Box = tuple[int, int, int, int]


class Picture(NamedTuple):
    """An image that was prepared.

    Attributes:
        pixels: uint8 [H, W, C].
        size: (width, height) of the upright image in the file.
        traits: what was changed, in words for a report.
    """

    pixels: UInt8[np.ndarray, "h w c"]
    size: tuple[int, int]
    traits: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Transform:
    """The size and kind of prepared images.

    Attributes:
        size: (height, width) or (side,) in pixels; () keeps the size of the files.
        crop: "center" cuts the largest centred part of that aspect ratio. "wide" and "tall" do so
            too, and put the image on a black square of its longer side. "none" squeezes the image.
        filter: of the antialiased resizing, a name in FILTERS.
        channels: 1 for grey, 3 for RGB.
        background: colour behind transparent pixels, a name or "#rrggbb".

    Raises:
        ValueError: an impossible value.
    """

    size: tuple[int, ...] = ()
    crop: str = "center"
    filter: str = "lanczos"
    channels: int = 3
    background: str = "white"

    def __post_init__(self):
        check_name("config.prepare.crop", self.crop, CROPS)
        check_name("config.prepare.filter", self.filter, FILTERS)
        if len(self.size) > 2 or not all(type(side) is int and side > 0 for side in self.size):
            raise ValueError(
                f"config.prepare.size is {self.size}: give (height, width), a side, or () to keep "
                "the size of the files"
            )
        if self.channels not in (1, 3):
            raise ValueError(
                f"config.prepare.channels is {self.channels}: it must be 1 (grey) or 3 (RGB)"
            )
        try:
            ImageColor.getrgb(self.background)
        except ValueError as error:
            raise ValueError(
                f"config.prepare.background is {self.background!r}: give the name of a colour or "
                "#rrggbb"
            ) from error
        height, width = self._target() or (0, 0)
        if (self.crop == "wide" and width <= height) or (self.crop == "tall" and height <= width):
            longer = "width above its height" if self.crop == "wide" else "height above its width"
            raise ValueError(
                f"config.prepare.crop is {self.crop!r} and config.prepare.size {self.size}: such a "
                f"crop needs a size (height, width) with its {longer}, or another crop"
            )

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """The shape (H, W, C) of the images; None if it is that of the files."""
        target = self._target()
        if target is None:
            return None
        height, width = (max(target),) * 2 if self.crop in ("wide", "tall") else target
        return height, width, self.channels

    def _target(self) -> tuple[int, int] | None:
        return (self.size[0], self.size[-1]) if self.size else None

    def __call__(self, encoded: bytes) -> Picture:
        """Decodes an image, turns it upright and makes it of this size and kind.

        Raises:
            UnfitError: pixels whose range is not known. Decoders raise other errors.
        """
        with Image.open(io.BytesIO(encoded)) as opened:
            traits = _traits(opened)
            opened.load()
            image = ImageOps.exif_transpose(opened)
        image = self._plain(image, str(opened.format))
        size = image.size
        image, enlarged = self.resized(image)
        traits += ["enlarged"] * enlarged
        pixels = np.asarray(image)
        if image.mode == "F":
            pixels = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
        pixels = pixels.reshape(*pixels.shape[:2], -1)
        pixels = np.broadcast_to(pixels, (*pixels.shape[:2], self.channels))
        return Picture(self._framed(pixels), size, tuple(traits))

    def resized(self, image: Image.Image) -> tuple[Image.Image, bool]:
        """The image, cut and resized, and True if it was smaller on a side before."""
        target = self._target()
        if target is None:
            return image, False
        box = _centred(image.size, target) if self.crop != "none" else (0, 0, *image.size)
        smaller = box[2] - box[0] < target[1] or box[3] - box[1] < target[0]
        cut = image.crop(box)  # before the filter, which else would see beyond the box
        return cut.resize((target[1], target[0]), FILTERS[self.filter]), smaller

    def _plain(self, image: Image.Image, format: str) -> Image.Image:
        """The image in grey (L), in RGB, or in floats of 0 to 255 (F) if it has 16 bits."""
        if image.mode.startswith("I;16") or (image.mode == "I" and format in DEEP):
            return Image.fromarray(np.asarray(image).astype(np.float32) / 257)
        if image.mode in ("I", "F"):
            raise UnfitError(
                f"its pixels have Pillow's mode {image.mode}, whose black and white are not known"
            )
        if image.has_transparency_data:
            image = image.convert("RGBA")
            ground = Image.new("RGBA", image.size, self.background)
            image = Image.alpha_composite(ground, image)
        if image.mode not in ("1", "L"):
            image = image.convert("RGB")
        return image.convert("RGB" if self.channels == 3 and image.mode == "RGB" else "L")

    def _framed(self, pixels: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w c"]:
        """The image in the middle of a black square, if the crop is one with bars."""
        shape = self.shape
        if shape is None or pixels.shape == shape:
            return np.ascontiguousarray(pixels)
        canvas = np.zeros(shape, np.uint8)
        top, left = ((shape[axis] - pixels.shape[axis]) // 2 for axis in (0, 1))
        canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
        return canvas


def _centred(size: tuple[int, int], target: tuple[int, int]) -> Box:
    """The largest centred box with the aspect ratio of the target (height, width)."""
    (width, height), (rows, columns) = size, target
    if width * rows >= height * columns:
        kept_width, kept_height = max(1, round(height * columns / rows)), height
    else:
        kept_width, kept_height = width, max(1, round(width * rows / columns))
    left, top = (width - kept_width) // 2, (height - kept_height) // 2
    return left, top, left + kept_width, top + kept_height


def _traits(image: Image.Image) -> list[str]:
    """The special traits of an image file that was just opened."""
    traits = []
    if bits_of(image) > 8:  # first, as reading EXIF may decode the image
        traits.append("more than 8 bits, of which the upper 8 are kept")
    if getattr(image, "n_frames", 1) > 1 and image.format != MULTI_PICTURE:
        traits.append("several frames, of which the first is taken")
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        traits.append("turned upright")
    if image.has_transparency_data:
        traits.append("transparent, put on the background")
    if image.mode in ("P", "PA"):
        traits.append("palette")
    if image.mode == "CMYK":
        traits.append("CMYK")
    return traits
