"""Image files as pixels: upright, and refused where their pixels would have to be changed."""

import io
from typing import Any, Self

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps

MODES = {1: "L", 3: "RGB"}  # Pillow's names of pixels with 1 and 3 channels
MULTI_PICTURE = "MPO"  # a camera's JPEG with a preview or a depth map behind the photograph


def rescaling(pixels: str, save: str) -> str:
    """The advice to make 8 bits of pixels: `pixels` and `save` are Python, the latter with {}."""
    rescaled = f"numpy.uint8(numpy.clip(({pixels} - low) / (high - low), 0, 1) * 255 + 0.5)"
    return (
        "choose the two numbers, low and high, that become black and white in all images, and save "
        f"{save.format(rescaled)}"
    )


class UnfitError(ValueError):
    """A file that can be read, but that is not what the config describes."""


class RangeError(UnfitError):
    """Grey images with pixels of more than 8 bits, or floats.

    Attributes:
        mode: Pillow's name of the pixels.
        low: the least of them.
        high: the largest.
    """

    def __init__(self, mode: str, low: float, high: float, files: int = 1):
        self.mode, self.low, self.high = mode, low, high
        others = f", and those of {files - 1} more files," * (files > 1)
        advice = rescaling("numpy.asarray(image, float)", "Image.fromarray({}) of each")
        super().__init__(
            f"its pixels{others} have Pillow's mode {mode}, more than 8 bits, and values from "
            f"{low:.6g} to {high:.6g}: images are not rescaled here; {advice}"
        )

    @classmethod
    def of(cls, image: Image.Image) -> Self:
        """The error for an image."""
        pixels = np.asarray(image)
        return cls(image.mode, pixels.min().item(), pixels.max().item())

    @classmethod
    def joined(cls, errors: list[Self]) -> Self:
        """The error for the images of several errors together."""
        low, high = min(error.low for error in errors), max(error.high for error in errors)
        return cls(errors[0].mode, low, high, len(errors))


def decode(encoded: bytes, shape: tuple[int, int, int]) -> UInt8[np.ndarray, "h w c"]:
    """The pixels of an encoded image, turned as its EXIF orientation says.

    Raises:
        UnfitError: the image has another size or kind of pixels. Decoders raise many other kinds of
            errors for a damaged file.
    """
    with _open(encoded) as image:
        return _pixels(image, shape)


def examine(encoded: bytes, shape: tuple[int, int, int], first_frame: bool) -> None:
    """Decodes an image, and refuses what `decode` would drop in silence.

    Raises:
        UnfitError: as `decode`; or there are further pages or frames and `first_frame` is False,
            colours of 16 bits, or transparent pixels.
    """
    with _open(encoded) as image:
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and not first_frame and image.format != MULTI_PICTURE:
            raise UnfitError(
                f"it has {frames} pages or frames: set config.data.first_frame=True to take the "
                "first, or save each of them as a file"
            )
        bits = bits_of(image)
        _pixels(image, shape)
        if bits > 8:
            raise UnfitError(
                f"its colours have {bits} bits: to keep the upper 8, save it again by Pillow, "
                "Image.open(file).save(file)"
            )
        if "transparency" in image.info and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
            raise UnfitError(
                "some pixels are transparent: paste the image on a background, and save that"
            )


def _open(encoded: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(encoded))
    except Image.DecompressionBombError as error:  # before anything is decoded
        raise UnfitError(
            f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels: images are not "
            "resized here; crop or resize the file"
        ) from error


def _pixels(image: Image.Image, shape: tuple[int, int, int]) -> UInt8[np.ndarray, "h w c"]:
    height, width, channels = shape
    image.load()  # turns a TIFF image already, and drops its orientation
    turned = image.getexif().get(ExifTags.Base.Orientation, 1)
    size = image.size[::-1] if turned in (5, 6, 7, 8) else image.size
    if size != (width, height):
        raise UnfitError(
            f"it has {size[0]} x {size[1]} pixels, {_size_field(shape)}: images are not resized "
            f"here; set config.data.shape=({size[1]}, {size[0]}, {channels}), or crop and resize "
            "the files"
        )
    if image.mode[0] in "IF":
        raise RangeError.of(image)
    if image.mode != MODES[channels]:
        alpha = "A" in image.mode or "transparency" in image.info
        first = "paste the transparent image on a background, then " if alpha else ""
        raise UnfitError(
            f"its pixels have Pillow's mode {image.mode}, config.data.num_channels = {channels} "
            f"means {MODES[channels]}: images are not converted here; {first}save "
            f"image.convert({MODES[channels]!r})"
        )
    if turned != 1:
        image = ImageOps.exif_transpose(image)
    return np.asarray(image).reshape(shape)


def _size_field(shape: tuple[int, int, int]) -> str:
    """The config's size of images, in words."""
    height, width, _ = shape
    if height == width:
        return f"config.data.image_size is {width}"
    return f"config.data.shape is {shape}"


def bits_of(image: Image.Image) -> int:
    """Bits of a channel in the file. Pillow cuts those of colours to 8."""
    tiff: Any = getattr(image, "tag_v2", {})
    bits = max(tiff.get(258, (8,)))  # BitsPerSample
    for codec, _, _, options in getattr(image, "tile", ()):
        raw, *more = options if isinstance(options, tuple) else (options,)
        if codec == "ppm" and more:
            bits = max(bits, int(more[0]).bit_length())
        bits = max(bits, 16 if ";16" in str(raw) else 8)
    return bits
