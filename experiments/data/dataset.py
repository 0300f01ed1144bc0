"""What every loader returns, and the split of data that come without a test set."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from experiments.data.sources.lazy_images import LazyImages


@dataclasses.dataclass(frozen=True)
class Dataset:
    """train and test: uint8 images [N, H, W, C] of grey levels 0 to levels - 1, or floats.

    The floats are points, or latents of images, with `latents` saying whose; levels is None then.
    Labels are int32 [N], classes counted from 0, or None; confidences in them float32 [N], in
    [0, 1], or None; captions N strings, or None.
    """

    train: np.ndarray | LazyImages
    test: np.ndarray | LazyImages
    levels: int | None
    train_labels: Int[np.ndarray, " train"] | None = None
    test_labels: Int[np.ndarray, " test"] | None = None
    train_confidence: Float[np.ndarray, " train"] | None = None
    test_confidence: Float[np.ndarray, " test"] | None = None
    train_captions: np.ndarray | None = None
    test_captions: np.ndarray | None = None
    latents: dict[str, Any] | None = None

    @property
    def n_classes(self) -> int:
        """One more than the largest label; 0 without labels."""
        labels = [part for part in (self.train_labels, self.test_labels) if part is not None]
        return 1 + max((int(part.max()) for part in labels), default=-1)


def split(
    count: int, fraction: float
) -> tuple[Int[np.ndarray, " train"], Int[np.ndarray, " test"]]:
    """0, ..., count - 1 in two parts: a `fraction` is for testing, and always the same.

    Raises:
        ValueError: one of the two would be empty.
    """
    n_test = round(count * fraction)
    if not 0 < n_test < count:
        raise ValueError(
            f"config.data.test_fraction = {fraction} of {count} samples are {n_test}: training and "
            "testing need at least one each"
        )
    order = np.random.RandomState(0).permutation(count)
    return np.sort(order[n_test:]), np.sort(order[:n_test])


def identity(values: np.ndarray | LazyImages) -> Any:
    """What tells data sets apart: all of an array, the names and some of the images in files."""
    if isinstance(values, np.ndarray):
        return values
    some = values[np.linspace(0, len(values) - 1, 64).astype(int)]
    return [list(map(str, values.keys)), some]
