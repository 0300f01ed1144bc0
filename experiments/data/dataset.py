"""Data sets: the request for one, the arrays that every source returns, and the split for tests."""

import dataclasses
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from experiments.data.lazy_images import LazyImages

Split = Literal["train", "test"]


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """The request for a data set.

    Attributes:
        name: a source, by its name in experiments/data/sources.
        shape: of one sample: (H, W, C) of images, (D,) of points.
        path: a file, a folder or a name, for the sources that need one.
        cache: the folder for downloaded and rendered data.
        test_fraction: the share of the samples kept for tests, if the data have no test set.
        captions: read the captions too, if the data have some.
    """

    name: str
    shape: tuple[int, ...]
    path: str = ""
    cache: str = "~/.cache/score-sde-jax"
    test_fraction: float = 0.1
    captions: bool = False


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Training and test data.

    Attributes:
        train: uint8 images [N, H, W, C] of grey levels 0, ..., levels - 1, or floats [N, ...]
            (points, or latents of images).
        test: likewise.
        levels: grey levels; None for floats.
        train_labels: int32 [N], classes counted from 0; None without labels.
        test_labels: likewise.
        train_confidence: float32 [N] in [0, 1], confidences of the labels; None without.
        test_confidence: likewise.
        train_captions: N strings; None without captions.
        test_captions: likewise.
        latents: provenance of latents (experiments/data/latents.py); None for other data.
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

    def check_labels(self, n_classes: int) -> None:
        """Raises ValueError unless both splits have labels, all below n_classes."""
        for split, labels in (("train", self.train_labels), ("test", self.test_labels)):
            if labels is None:
                raise ValueError(
                    f"the {split} data have no labels of all samples, which a classifier and a "
                    "class-conditional model need: supply integers from 0 on, in the way of the "
                    "data set's kind (docs/guide.md, Data)"
                )
        if self.n_classes > n_classes:
            raise ValueError(
                f"the data have {self.n_classes} classes, but the model has only {n_classes}: set "
                f"config.data.num_classes={self.n_classes}"
            )


def split(
    count: int, fraction: float
) -> tuple[Int[np.ndarray, " train"], Int[np.ndarray, " test"]]:
    """The indices 0, ..., count - 1 in two fixed parts; `fraction` of them are for tests.

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
    """A summary that differs between data sets: the array itself, or file names and some images."""
    if isinstance(values, np.ndarray):
        return values
    some = values[np.linspace(0, len(values) - 1, 64).astype(int)]
    return [list(map(str, values.keys)), some]
