"""The type of a config, and the shape of the data in it."""

from typing import Any

Config = Any
"""An ml_collections.ConfigDict, whose fields no type checker can know."""
DATA_KINDS = {1: "vectors", 2: "series", 3: "images", 4: "volumes"}
"""Nouns for samples by the number of their axes: (D,), (L, C), (H, W, C) and (D, H, W, C)."""
UNITS = {1: "numbers", 2: "steps", 3: "pixels", 4: "voxels"}


def data_shape(config: Config) -> tuple[int, ...]:
    """The shape of a sample: config.data.shape, or that of a square image, its short form."""
    data = config.data
    return tuple(data.get("shape", ())) or (data.image_size, data.image_size, data.num_channels)


def data_kind(shape: tuple[int, ...]) -> str:
    """A noun for samples of this shape, such as "images" for (H, W, C)."""
    return "points" if shape == (2,) else DATA_KINDS[len(shape)]


def describe(shape: tuple[int, ...]) -> str:
    """Samples of this shape in words, such as "images of 48 x 64 pixels"."""
    if data_kind(shape) == "points":
        return "points in the plane"
    sides = " x ".join(map(str, shape[:-1] or shape))
    return f"{DATA_KINDS[len(shape)]} of {sides} {UNITS[len(shape)]}"
