"""Classifiers of noisy data, which guide score models (Song et al. 2021, Section 5, Appendix I).

By Bayes' rule, the gradient of log p(label | x, t) turns the score of p_t(x) into that of
p_t(x | label). A classifier is a run of its own, in its own folder.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

import sde_lib
from experiments.data.dataset import Dataset
from experiments.data.scaling import Scaling
from experiments.runs import devices, parts
from experiments.tasks.base import Description, Report, Values
from experiments.tasks.held_out import along_time, means, means_along_time
from experiments.training.optimizer import Adam
from experiments.training.state import TrainState
from models import NoiseModel
from sde_lib import SDE
from sde_lib.batch import Batch, PerSample
from sde_lib.noise_density import Quantile


def cross_entropy(
    key: jax.Array,
    sde: SDE,
    logits_fn: Callable[[Batch, PerSample], jax.Array],
    x0: Batch,
    labels: jax.Array,
    first_index: int | jax.Array = 0,
    noise_density: Quantile | None = None,
) -> tuple[PerSample, dict[str, PerSample]]:
    """The cross-entropy -log p(label | x_t, t) in nats at a random t; sample i has its own key.

    Returns:
        The losses [B], and metrics [B]: "t", and "correct", 1 where the likeliest class is the
        label.
    """
    x, t, *_ = sde_lib.perturb(key, sde, x0, noise_density, first_index=first_index)
    logits = logits_fn(x, t)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses, {"t": t, "correct": (jnp.argmax(logits, axis=1) == labels).astype(jnp.float32)}


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
    """The task of a classifier.

    Attributes:
        model: the network with its preconditioning and its SDE; its outputs are logits.
        shape: of one sample in model space.
        scaling: from the data to model space.
        n_classes: classes that the network tells apart.
        noise_density: of the noise levels in training; None: t is uniform.
        adam: the optimizer.
        mesh: the devices.
        seed: of the report.
        batch_size: of the report.
    """

    model: NoiseModel
    shape: tuple[int, ...]
    scaling: Scaling
    n_classes: int
    noise_density: Quantile | None
    adam: Adam
    mesh: Mesh
    seed: int
    batch_size: int

    @property
    def optimizer(self) -> optax.GradientTransformation:
        return self.adam.create()

    @property
    def reports(self) -> Mapping[str, Callable[[Any, int, Dataset, Path], Report]]:
        return {"accuracy": self.accuracy}

    def init(self, key: jax.Array) -> Any:
        return self.model.init(key, self.model.sde.state_shape((1, *self.shape)))

    @property
    def shared(self) -> dict[str, Any]:
        return {}

    @property
    def held_out_shared(self) -> dict[str, Any]:
        return {}

    def init_carry(self) -> None:
        return None

    def update_carry(self, carry: Any, aux: Any) -> Any:
        return carry

    def values(self, dataset: Dataset, split: Any) -> Values:
        return getattr(dataset, split), {"class_labels": getattr(dataset, f"{split}_labels")}

    def example_conditions(self) -> dict[str, Any]:
        return {"class_labels": np.zeros(1, np.int32)}

    def seen(self, conditions: dict[str, Any]) -> dict[str, Any]:
        """The network's own conditions, by its keywords: a classifier has none."""
        return {}

    def loss(self, params, keys, carry, first_index, x, conditions):
        rngs = {"dropout": keys["dropout"]}
        logits = self.model.outputs(params, train=True, rngs=rngs, **self.seen(conditions))
        return jnp.mean(self._losses(keys["loss"], logits, x, conditions, first_index)[0]), {}

    def with_scaling(self, scaling: Scaling) -> Self:
        return dataclasses.replace(self, scaling=scaling)

    def prepare(self, dataset: Dataset, folder: Path) -> None:
        dataset.check_labels(self.n_classes)
        dataset.check_trained(self.n_classes)

    def start(self, state: TrainState) -> TrainState:
        return state

    def metrics(self, params, key, batch, first_index):
        x, conditions = batch
        x = self.scaling.to_model_each(key, x, first_index)
        logits = self.model.outputs(devices.gather(self.mesh, params), **self.seen(conditions))
        losses, metrics = self._losses(key, logits, x, conditions, first_index)
        return {"loss": losses} | metrics

    def _losses(self, key, logits, x, conditions, first_index):
        labels, sde = conditions["class_labels"], self.model.sde
        return cross_entropy(key, sde, logits, x, labels, first_index, self.noise_density)

    def held_out(self, result: Mapping[str, Any]) -> dict[str, float]:
        along = means_along_time(self.model.sde, result["t"], "correct", result["correct"])
        return means(result, ("loss",)) | along

    def pictures(self, params: Any, step: int, dataset: Dataset, folder: Path) -> list[Path]:
        return []

    def accuracy(self, params: Any, step: int, dataset: Dataset, folder: Path) -> Report:
        """Accuracy and loss on the test set, with each sample at a random t; accuracy along t."""
        metrics = partial(jax.jit(self.metrics), params, jax.random.key(self.seed))
        test = self.values(dataset, "test")
        result = parts.over(self.mesh, test, self.batch_size, metrics, title="accuracy")
        along = along_time(self.model.sde, result["t"], result["correct"]).items()
        along_t = ", ".join(f"{mean:.2f} to t = {edge:g}" for edge, mean in along)
        accuracy, loss = result["correct"].mean(), result["loss"].mean()
        commonest = np.bincount(np.asarray(dataset.test_labels)).max() / len(result["correct"])
        line = (
            f"test accuracy {accuracy:.3f} (the commonest class: {commonest:.3f}), loss {loss:.4f};"
            f" accuracy {along_t}"
        )
        return Report([line], {"test set": line}, [])

    def describe(self) -> Description:
        return Description(
            "classifier of noisy data",
            "to guide a diffusion model of the same noise to a class",
            "--mode=sample --workdir=MODEL --config.guidance.classifier.run=RUN",
            ["It has an answer to any input, also to what is unlike its data."],
        )
