"""Data sets: the request for one, the arrays that every source returns, and the split for tests."""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, Int

from experiments.data.lazy_arrays import LazyArray, take
from experiments.data.lazy_images import LazyImages
from sde_lib import GaussianField
from sde_lib.checks import check_at_least, check_in

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """The request for a data set.

    Attributes:
        name: a source, by its name in experiments/data/sources.
        shape: of one sample, such as (H, W, C) of images.
        path: a file, a folder or a name, for the sources that need one.
        cache: the folder for downloaded and rendered data.
        test_fraction: the share of the samples kept for tests, if the data have no test set.
        captions: read the captions too, if the data have some.
        first_frame: take the first of several pages or frames of an image file.
        max_unreadable: the share of image files that may be unreadable; they are left out. It is
            also the share of samples that may become so during training.
        dtype: "uint8", "uint16" or "float", the values of arrays; "" for other sources.
        label_column: the name of the column of classes in a table; "" for none.
        missing: NaN is a missing value, and masks beside the data are read; otherwise both are
            refused.
        attribute_columns: names of its columns that are classes, a condition each.
        caption_column: the name of its column of captions; "" for none.
        conditions: a file of conditions beside the data; "" for none.
        condition_columns: names of the columns of a table that are the vector of a condition.
        n_classes: classes of the model, which labels must fit; 0 if it has none.
    """

    name: str
    shape: tuple[int, ...]
    path: str = ""
    cache: str = "~/.cache/score-sde-jax"
    test_fraction: float = 0.1
    captions: bool = False
    first_frame: bool = False
    max_unreadable: float = 0.0
    dtype: str = ""
    label_column: str = ""
    missing: bool = False
    condition_columns: tuple[str, ...] = ()
    attribute_columns: tuple[str, ...] = ()
    caption_column: str = ""
    conditions: str = ""
    n_classes: int = 0

    def __post_init__(self):
        for name, side in (("image_size", self.shape[0]), ("num_channels", self.shape[-1])):
            check_at_least(1, **{f"config.data.{name}": side})
        check_in("(0, 1)", **{"config.data.test_fraction": self.test_fraction})
        if not 0 <= self.max_unreadable < 1:
            raise ValueError(
                f"config.data.max_unreadable is {self.max_unreadable}: it must be a share of the "
                "files, in [0, 1)"
            )


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Training and test data.

    Attributes:
        train: grey levels 0, ..., levels - 1, [N, ...] as uint8, or as uint16 if they are more than
            256; or floats (tables, fields, points, or latents of images). Missing values are NaN:
            grey levels of which some are missing are floats too.
        test: likewise.
        levels: grey levels; None for floats.
        train_labels: int32 [N], classes counted from 0; None without labels.
        test_labels: likewise.
        train_confidence: float32 [N] in [0, 1], confidences of the labels; None without.
        test_confidence: likewise.
        train_captions: N strings; None without captions.
        test_captions: likewise.
        train_conditions: other conditions [N, ...] by kind, such as "vector"
            (experiments/pipeline/conditions).
        test_conditions: likewise.
        latents: provenance of latents (experiments/data/latents.py); None for other data.
        classes: names of the classes, by label; () if only numbers are known.
        attributes: names of the classes of each attribute, by number; () without attributes.
        laws: the known law of the data of each class, or of all; () if it is not known.
        law_of: the known law of the samples with a condition vector; None if it is not known.
        columns: names of the columns of a table; () for other data.
        real: the data themselves, if train and test hold samples of a model too; None otherwise.
        notes: what the source assumed and left out, a sentence each; they are shown.
        test_share: config.data.test_fraction, if the test set was split off; None if the data have
            one.
        own_split: the source split it off in its own way; otherwise by `split`, below.
    """

    train: np.ndarray | LazyImages | LazyArray
    test: np.ndarray | LazyImages | LazyArray
    levels: int | None
    train_labels: Int[np.ndarray, " train"] | None = None
    test_labels: Int[np.ndarray, " test"] | None = None
    train_confidence: Float[np.ndarray, " train"] | None = None
    test_confidence: Float[np.ndarray, " test"] | None = None
    train_captions: np.ndarray | None = None
    test_captions: np.ndarray | None = None
    train_conditions: dict[str, Any] = dataclasses.field(default_factory=dict)
    test_conditions: dict[str, Any] = dataclasses.field(default_factory=dict)
    latents: dict[str, Any] | None = None
    classes: tuple[str, ...] = ()
    attributes: tuple[tuple[str, ...], ...] = ()
    laws: tuple[GaussianField, ...] = ()
    law_of: Callable[[np.ndarray], GaussianField] | None = None
    columns: tuple[str, ...] = ()
    real: "Dataset | None" = None
    notes: tuple[str, ...] = ()
    test_share: float | None = None
    own_split: bool = False

    @property
    def n_classes(self) -> int:
        """One more than the largest label; 0 without labels."""
        labels = [part for part in (self.train_labels, self.test_labels) if part is not None]
        return 1 + max((int(part.max()) for part in labels), default=-1)

    def conditions(self, split: Split) -> dict[str, Any]:
        """The conditions of one split by kind, but for labels, confidences and captions."""
        return self.train_conditions if split == "train" else self.test_conditions

    def only(self, split: Split, rows: Int[np.ndarray, " kept"]) -> "Dataset":
        """The data set with these rows of one split, and their labels and conditions."""
        values = getattr(self, split)
        lazy = isinstance(values, LazyImages)
        kept = dataclasses.replace(values, keys=values.keys[rows]) if lazy else take(values, rows)
        changes: dict[str, Any] = {split: kept}
        for name in ("labels", "confidence", "captions"):
            each = getattr(self, f"{split}_{name}")
            changes |= {} if each is None else {f"{split}_{name}": each[rows]}
        of_split = self.conditions(split).items()
        changes[f"{split}_conditions"] = {kind: take(each, rows) for kind, each in of_split}
        return dataclasses.replace(self, **changes)

    def check_labels(self, n_classes: int) -> None:
        """Raises ValueError unless both splits have labels, all below n_classes."""
        for split, labels in (("train", self.train_labels), ("test", self.test_labels)):
            if labels is None:
                raise ValueError(
                    f"the {split} data have no labels of all samples, which a classifier and a "
                    "class-conditional model need: supply integers from 0 on, in the way of the "
                    "data set's kind (docs/howto/own_data.md)"
                )
        if self.n_classes > n_classes:
            raise ValueError(
                f"the data have {self.n_classes} classes, but the model has only {n_classes}: set "
                f"config.data.num_classes={self.n_classes}"
            )

    def check_trained(self, n_classes: int, drawn: Collection[int] = ()) -> None:
        """Raises ValueError for a class without training data.

        Args:
            n_classes: of the model.
            drawn: the classes that will be drawn in turn; () for all n_classes.
        """
        assert self.train_labels is not None
        absent = list(missing(np.unique(self.train_labels).tolist(), drawn or range(n_classes)))
        if absent:
            names = ", ".join(map(self.class_name, absent[:5])) + " ..." * (len(absent) > 5)
            raise ValueError(
                f"config.data.num_classes is {n_classes}, but there are no training data of the "
                f"classes {names}: number the classes from 0 on without gaps, and set "
                "config.data.num_classes to how many there are; or add data of these; or draw only "
                "others, by config.sampling.labels"
            )

    def class_name(self, label: int) -> str:
        """The number of a class, and its name if it has one."""
        return f"{label} ({self.classes[label]})" if label < len(self.classes) else str(label)


def missing(labels: Collection[int], classes: Iterable[int]) -> Iterator[int]:
    """The classes that are not among the labels."""
    known = frozenset(labels)
    return (label for label in classes if label not in known)


def as_labels(what: str, values: Any) -> Int[np.ndarray, " n"]:
    """Labels as int32.

    Args:
        what: the labels' name in errors.
        values: an array, or a list of integers.

    Raises:
        ValueError: numbers that are not integers, or beyond int32.
    """
    labels = np.asarray(values)
    if labels.dtype.kind not in "iu" and not all(type(label) is int for label in labels.flat):
        raise ValueError(f"{what} are {labels.dtype}, they must be integers")
    largest = max(map(abs, (int(labels.max()), int(labels.min())))) if labels.size else 0
    if largest > np.iinfo(np.int32).max:
        raise ValueError(
            f"{what} go up to {largest}, beyond 32 bits: number the classes from 0 on without gaps"
        )
    return labels.astype(np.int32)


def numbered(values: Any) -> tuple[tuple[str, ...], Int[np.ndarray, " n"]]:
    """The names of classes, numbers by size and texts by alphabet, and labels from 0 on."""
    texts = [value.decode() if isinstance(value, bytes) else str(value) for value in values]
    numbers = all(text.lstrip("-").isdecimal() for text in texts)
    order = sorted(set(texts), key=lambda text: (int(text) if numbers else 0, text))
    number = {text: label for label, text in enumerate(order)}
    return tuple(order), np.array([number[text] for text in texts], np.int32)


def note_of(what: str, classes: tuple[str, ...]) -> str:
    """The note that records the labels which classes were given."""
    shown = ", ".join(f"{label} = {name}" for label, name in enumerate(classes[:20]))
    return f"classes of {what}: {shown}{', ...' if len(classes) > 20 else ''}"


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
            f"testing need at least one each; {split_advice(count)}"
        )
    order = np.random.RandomState(0).permutation(count)
    return np.sort(order[n_test:]), np.sort(order[:n_test])


def split_advice(count: int) -> str:
    """Advice for a training and a test set of two samples or more out of `count` samples."""
    if count < 4:
        return f"there are {count} samples, and two of each are needed: take more"
    return f"set config.data.test_fraction to at least {np.ceil(200 / count) / 100:g}"


def identity(values: np.ndarray | LazyImages | LazyArray) -> Any:
    """A summary that differs between data sets: the array itself, or names and some samples."""
    if isinstance(values, np.ndarray):
        return values
    if isinstance(values, LazyArray):
        return [str(values.shape), values.some(64)]
    some = values[np.linspace(0, len(values) - 1, 64).astype(int)]
    return [list(map(str, values.keys)), some]
