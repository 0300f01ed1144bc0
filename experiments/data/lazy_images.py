"""Images that are decoded when a batch needs them, for data sets larger than memory."""

import dataclasses
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from experiments.runs import progress

MODES = {1: "L", 3: "RGB"}  # Pillow's names of pixels with 1 and 3 channels
POOL = ThreadPoolExecutor(min(8, os.cpu_count() or 1), "decode")


@dataclasses.dataclass(frozen=True)
class LazyImages:
    """A sequence like a uint8 array [N, H, W, C], indexed by an array or a slice.

    Attributes:
        source: the data set's name in errors.
        keys: [N], names or numbers of the encoded files; errors name them.
        open: a function that opens the encoded file of a key.
        image_shape: (H, W, C) of every image.
    """

    source: str
    keys: np.ndarray
    open: Callable[[Any], IO[bytes]]
    image_shape: tuple[int, int, int]
    dtype = np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self), *self.image_shape)

    def __getitem__(self, index: slice | np.ndarray) -> UInt8[np.ndarray, "batch h w c"]:
        keys = self.keys[index]
        batch = np.empty((len(keys), *self.image_shape), np.uint8)
        for i, image in enumerate(POOL.map(self._decode, keys)):
            batch[i] = image
        return batch

    def check(self) -> None:
        """Raises ValueError for the first file with another size or kind of pixels."""
        for key in progress.track(self.keys, f"checking {self.source}", "image"):
            with self._opened(key):
                pass

    def _decode(self, key: Any) -> np.ndarray:
        with self._opened(key) as image:
            return np.asarray(image).reshape(self.image_shape)

    @contextmanager
    def _opened(self, key: Any) -> Iterator[Image.Image]:
        """Opens an image and checks its header; errors name the file."""
        try:
            with self.open(key) as file, Image.open(file) as image:
                _check_header(image, self.image_shape)
                yield image
        except Exception as error:  # decoders raise many kinds for a broken file
            raise ValueError(f"{self.source}: {key} cannot be used: {error}") from error


def check_channels(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The shape (H, W, C). Raises ValueError for pixels that image files do not have."""
    height, width, channels = shape
    if channels not in MODES:
        raise ValueError(
            f"config.data.num_channels is {channels}: image files have 1 (grey) or 3 (RGB)"
        )
    return height, width, channels


def _check_header(image: Image.Image, shape: tuple[int, int, int]) -> None:
    height, width, channels = shape
    if image.size != (width, height):
        raise ValueError(
            f"it has {image.width} x {image.height} pixels, config.data.image_size is {width}: "
            "images are not resized here; set image_size, or crop and resize the files"
        )
    if image.mode != MODES[channels]:
        alpha = image.mode in ("RGBA", "LA", "PA", "P")
        first = "paste the transparent image on a background, then " if alpha else ""
        raise ValueError(
            f"its pixels have Pillow's mode {image.mode}, config.data.num_channels = {channels} "
            f"means {MODES[channels]}: images are not converted here; {first}save "
            f"image.convert({MODES[channels]!r})"
        )
