"""Distortions of images as on their way through the internet: compression, resizing, blur."""

import io
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFilter

QUALITY = 75  # of JPEG
RADIUS = 1.0  # of the blur, pixels


def jpeg(image: Image.Image) -> Image.Image:
    """The image, compressed by JPEG of quality 75."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return Image.open(file)


def resize(image: Image.Image) -> Image.Image:
    """The image, made half as large and large again (bicubic)."""
    half = max(image.width // 2, 1), max(image.height // 2, 1)
    return image.resize(half, Image.Resampling.BICUBIC).resize(image.size, Image.Resampling.BICUBIC)


def blur(image: Image.Image) -> Image.Image:
    """The image with a Gaussian blur of one pixel."""
    return image.filter(ImageFilter.GaussianBlur(RADIUS))


DISTORTIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "none": lambda image: image,
    "jpeg": jpeg,
    "resize": resize,
    "blur": blur,
}
"""Distortions by name. A new one is a function and a line here."""


def distorted(name: str, images: UInt8[np.ndarray, "n h w c"]) -> UInt8[np.ndarray, "n h w c"]:
    """Grey or RGB images, each distorted."""
    fn = DISTORTIONS[name]
    shape = images.shape[1:]
    squeezed = images[..., 0] if shape[-1] == 1 else images
    changed = [np.asarray(fn(Image.fromarray(image))) for image in squeezed]
    return np.stack(changed).reshape(-1, *shape)
