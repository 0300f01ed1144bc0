"""Masks of missing values beside arrays of samples: arrays of 1 (observed) and 0 (missing)."""

from typing import Any

import numpy as np

NAMES = {"mask", "train_mask", "test_mask"}


def name_for(samples: str) -> str:
    """The name of the mask of an array of samples."""
    return f"{samples}_mask" if samples in ("train", "test") else "mask"


def check(where: Any, samples: Any, mask: Any, missing: bool) -> None:
    """Raises ValueError for a mask that is not asked for, or that does not go with its samples.

    Args:
        where: the mask's name in errors.
        samples: an array [N, ...], or something with its shape.
        mask: an array, or something with shape and dtype.
        missing: config.data.missing allows missing values.
    """
    if not missing:
        raise ValueError(
            f"{where} marks missing values: set config.data.missing='mask', or leave the mask out"
        )
    shape = tuple(samples.shape)
    if tuple(mask.shape) not in (shape, shape[:-1], (*shape[:-1], 1)):
        raise ValueError(
            f"{where} has the shape {tuple(mask.shape)}: it must be that of the samples, {shape}, "
            f"or without the channels, {shape[:-1]}"
        )
    if mask.dtype.kind not in "biu":
        raise ValueError(
            f"{where} holds {mask.dtype}: it must be bool or integers, 1 where a value is observed "
            "and 0 where it is missing"
        )


def apply(where: Any, values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The samples with NaN where the mask is 0, bytes as float16 and wider integers as float32.

    Both hold their integers exactly.

    Raises:
        ValueError: a mask with other numbers than 0 and 1.
    """
    if mask.dtype.kind != "b" and mask.size and not np.isin(mask, (0, 1)).all():
        raise ValueError(
            f"{where} holds {mask.min()} to {mask.max()}: it must be 1 where a value is observed "
            "and 0 where it is missing"
        )
    result = values.astype(float_type(values.dtype))
    seen = mask.astype(bool)
    seen = seen if seen.ndim == values.ndim else seen[..., None]
    result[~np.broadcast_to(seen, values.shape)] = np.nan
    return result


def float_type(dtype: np.dtype) -> np.dtype:
    """The least type of floats that holds the values of samples, and NaN."""
    if dtype.kind == "f":
        return dtype
    return np.dtype(np.float16 if dtype.itemsize == 1 else np.float32)
