"""Discriminators between the samples of a model and the data, at every noise level.

Kim et al. 2023 (arXiv 2211.17091) weight the cross-entropy by g^2 / sigma^2 and draw t with that
density. As g^2 / sigma^2 = d log(sigma^2 / alpha^2) / dt for every SDE here, that is a uniform
log-SNR: noise_density.name = "log_uniform", and nothing else. Training is that of a classifier of
two classes: 0 are samples, 1 data.
"""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optax
from flax import traverse_util

from experiments.data.dataset import Dataset
from experiments.runs import folder as folders
from experiments.tasks.base import Description, Report, Values
from experiments.tasks.classifier import Classifier
from experiments.training.state import TrainState, with_weights

RECORD = "generated.json"
CLASS = "class"
"""Kind of the condition of a class-conditional discriminator: the class of data and samples."""
ALL_TRAINED = "no samples are held back: those of the test set were trained on"


@dataclasses.dataclass(frozen=True)
class Joined:
    """The concatenation of two sequences of samples, which an index array can index."""

    first: Any
    second: Any

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of both together."""
        return (len(self), *self.first.shape[1:])

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        in_second = indices >= len(self.first)
        rows = np.empty((len(indices), *self.shape[1:]), self.first.dtype)
        rows[~in_second] = self.first[indices[~in_second]]
        rows[in_second] = self.second[indices[in_second] - len(self.first)]
        return rows


def with_samples(
    real: Dataset,
    samples: np.ndarray,
    source: Path,
    test_fraction: float | None = None,
    classes: np.ndarray | None = None,
) -> Dataset:
    """A data set with the data as class 1 and a model's samples as class 0.

    The last samples are the test set.

    Args:
        real: the data.
        samples: of the model.
        source: their file.
        test_fraction: the share of the samples in the test set; None: that of the test set of the
            data. 0: all samples are trained on, and as many as for None are in the test set too.
        classes: of the samples, beside those of the data; None for a discriminator of none.

    Raises:
        ValueError: too few samples for a test set.
    """
    share = test_fraction or len(real.test) / (len(real.train) + len(real.test))
    n_test = round(len(samples) * share)
    if not 0 < n_test < len(samples):
        raise ValueError(
            f"the {len(samples)} samples in {source} are too few for a test set of their own: set "
            "config.sampling.n_samples to about the size of the data for --mode=generate"
        )

    def labels(real: Any, fake: np.ndarray) -> np.ndarray:
        return np.repeat(np.array([1, 0], np.int32), [len(real), len(fake)])

    n_train = len(samples) if test_fraction == 0 else len(samples) - n_test
    train, test = (real.train, samples[:n_train]), (real.test, samples[-n_test:])
    images: dict[str, Any] = {"train": Joined(*train), "test": Joined(*test)}
    sides: dict[str, Any] = {"train_labels": labels(*train), "test_labels": labels(*test)}
    if classes is not None:
        for split, own in (("train", classes[:n_train]), ("test", classes[-n_test:])):
            both = np.concatenate([getattr(real, f"{split}_labels"), own])
            sides[f"{split}_conditions"] = {CLASS: both}
    notes = (ALL_TRAINED,) if test_fraction == 0 else ()
    return Dataset(**images, **sides, levels=real.levels, real=real, notes=notes)


@dataclasses.dataclass(frozen=True, eq=False)
class Discriminator(Classifier):
    """The task of a discriminator: a classifier of two classes.

    Attributes:
        samples: reads the provenance of the samples, which generated.npz has.
        source: the file of the samples.
        encoder: loads the frozen weights of the encoder from another run; None: the encoder is
            trained too.
        n_conditions: classes of the data with which it is conditioned; 0 for none.
    """

    samples: Callable[[], dict[str, Any]] = dict
    source: Path = Path()
    encoder: Callable[[], Any] | None = None
    n_conditions: int = 0

    def values(self, dataset: Dataset, split: Any) -> Values:
        x, conditions = super().values(dataset, split)
        if self.n_conditions:
            conditions |= {CLASS: dataset.conditions(split)[CLASS]}
        return x, conditions

    def example_conditions(self) -> dict[str, Any]:
        classes = {CLASS: np.zeros(1, np.int32)} if self.n_conditions else {}
        return super().example_conditions() | classes

    def seen(self, conditions: dict[str, Any]) -> dict[str, Any]:
        return {"class_labels": conditions[CLASS]} if self.n_conditions else {}

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """Adam for the head; a frozen encoder has no moments and no weight decay."""
        adam = self.adam.create()
        if self.encoder is None:
            return adam
        parts: Any = {"encoder": optax.set_to_zero(), "head": adam}
        return optax.partition(parts, {part: part for part in parts})

    def prepare(self, dataset: Dataset, folder: Path) -> None:
        """Writes generated.json: the provenance of the samples, and the log odds of training."""
        n_samples, n_data = np.bincount(np.asarray(dataset.train_labels))
        folders.record(
            folder / RECORD,
            self.samples() | {"log_odds": math.log(n_data / n_samples)},
            f"the discriminator in {folder} was trained on other samples than those that are now "
            f"in {self.source}: choose another --workdir",
        )

    def start(self, state: TrainState) -> TrainState:
        if self.encoder is None:
            return state
        weights = traverse_util.flatten_dict(self.encoder())
        names = traverse_util.flatten_dict(state.params["encoder"])
        encoder = traverse_util.unflatten_dict({name: weights[name] for name in names})
        return with_weights(state, {"encoder": encoder})

    def accuracy(self, params: Any, step: int, dataset: Dataset, folder: Path) -> Report:
        """The classifier's report, which says so if the samples were trained on."""
        report = super().accuracy(params, step, dataset, folder)
        if ALL_TRAINED not in dataset.notes:
            return report
        lines = [f"{line}; {ALL_TRAINED}" for line in report.lines]
        return Report(lines, {"test set": lines[0]}, report.pictures)

    def describe(self) -> Description:
        return Description(
            "discriminator",
            "to guide the model whose samples it knows, towards the data",
            "--mode=evaluate --workdir=MODEL --config.guidance.discriminator.run=RUN",
            ["It knows the samples of one model: it does not detect those of others."],
        )
