"""Loading a data set by its name, with checks of what the source returned."""

import numpy as np

from experiments.data.dataset import Dataset, DataSpec
from experiments.data.lazy_images import LazyImages
from experiments.data.sources import SOURCES
from experiments.runs import hosts
from sde_lib.checks import check_name


def load(spec: DataSpec) -> Dataset:
    """The data set that the spec names, checked.

    Raises:
        ValueError: an unknown name, or data that are missing, of another shape, outside their grey
            levels, not finite, or with labels that do not fit.
    """
    check_name("config.data.dataset", spec.name, SOURCES)
    if not hosts.is_first():
        hosts.everyone(True)  # waits for the first process, which may download
    dataset = SOURCES[spec.name].load(spec)
    if hosts.is_first():
        hosts.everyone(True)
    for split in ("train", "test"):
        parts = (getattr(dataset, split + name) for name in ("", "_labels", "_confidence"))
        _check_split(f"{split} data of {spec.name!r}", dataset.levels, *parts)
        _check_shape(spec, getattr(dataset, split).shape[1:])
    return dataset


def _check_shape(spec: DataSpec, shape: tuple[int, ...]) -> None:
    if len(shape) != len(spec.shape):
        raise ValueError(
            f"the arrays of {spec.name!r} have {len(shape) + 1} axes, they must have "
            f"{len(spec.shape) + 1}: [images, height, width, channels], also for one channel"
        )
    if shape != spec.shape:
        raise ValueError(
            f"images of {spec.name!r} have the shape {shape}, but config.data says {spec.shape}: "
            "set config.data.image_size and num_channels"
        )


def _check_split(
    what: str,
    levels: int | None,
    values: np.ndarray | LazyImages,
    labels: np.ndarray | None,
    confidences: np.ndarray | None,
) -> None:
    """Raises ValueError, naming `what`, for values, labels or confidences that cannot be."""
    if len(values) < 2:
        raise ValueError(f"{what}: there are {len(values)} samples, at least 2 are needed")
    if isinstance(values, LazyImages):
        values.check()
    elif levels is None:
        if not np.isfinite(values).all():
            raise ValueError(f"{what}: {np.sum(~np.isfinite(values))} numbers are not finite")
    elif values.dtype != np.uint8:
        raise ValueError(f"{what}: the images are {values.dtype}, they must be uint8")
    elif values.max() >= levels:
        raise ValueError(f"{what}: grey level {values.max()} is outside 0 ... {levels - 1}")
    if labels is not None and labels.shape != (len(values),):
        raise ValueError(f"{what}: labels of shape {labels.shape} for {len(values)} samples")
    if labels is not None and labels.min() < 0:
        raise ValueError(f"{what}: the label {labels.min()} is negative, classes count from 0")
    if confidences is None:
        return
    if confidences.shape != (len(values),):
        raise ValueError(
            f"{what}: confidences of shape {confidences.shape} for {len(values)} samples"
        )
    if not ((confidences >= 0) & (confidences <= 1)).all():
        raise ValueError(
            f"{what}: confidences from {confidences.min()} to {confidences.max()}: they must be in "
            "[0, 1]"
        )
