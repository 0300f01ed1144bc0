"""Data sets: loading, and batches that can start anywhere."""

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import grain
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import models
from experiments import hosts, latent, sharding
from experiments.datasets import cifar10, digits, emoji, files, huggingface, npz, points
from experiments.datasets.dataset import Dataset as Dataset
from experiments.datasets.lazy_images import LazyImages
from experiments.model_space import data_range as data_range
from experiments.model_space import to_grey as to_grey
from experiments.model_space import to_model_space as to_model_space
from experiments.model_space import to_model_space_each as to_model_space_each
from experiments.model_space import to_uint8 as to_uint8
from models.config import Config
from sde_lib.checks import check_name

LOADERS = {
    "digits": digits.load,
    "swiss_roll": points.load,
    "moons": points.load,
    "checkerboard": points.load,
    "mixture": points.load,
    "cifar10": cifar10.load,
    "emoji": emoji.load,
    "folder": files.load,
    "npz": npz.load,
    "huggingface": huggingface.load,
}


def load(config: Config) -> Dataset:
    """The data that a model is of: `load_images`, or their latents by config.data.autoencoder."""
    dataset = load_images(config)
    return latent.load(config, dataset) if config.data.autoencoder else dataset


def load_images(config: Config) -> Dataset:
    """The data set, of images or points, that config.data.dataset names, checked by config.data.

    Raises:
        ValueError: an unknown name, data that is missing, of another shape, outside its declared
            grey levels or not finite, labels that do not fit, or fewer samples than a batch.
    """
    name = config.data.dataset
    check_name("config.data.dataset", name, LOADERS)
    if not hosts.is_first():
        hosts.everyone(True)  # waits for the first one, which may download
    dataset = LOADERS[name](config)
    if hosts.is_first():
        hosts.everyone(True)
    training = dataset.train, dataset.train_labels, dataset.train_confidence
    _check_part(f"train data of {name!r}", dataset.levels, *training)
    testing = dataset.test, dataset.test_labels, dataset.test_confidence
    _check_part(f"test data of {name!r}", dataset.levels, *testing)
    if (dataset.levels is None) != (models.encoder_name(config) == "mlp"):
        what = "points" if dataset.levels is None else "images"
        raise ValueError(
            f"config.model.name = {config.model.name!r} does not go with {name!r}, which are "
            f"{what}: 'mlp' is the network for points, and for them alone"
        )
    if dataset.levels is not None:
        expected = (config.data.image_size, config.data.image_size, config.data.num_channels)
        for shape in (dataset.train.shape[1:], dataset.test.shape[1:]):
            if len(shape) != 3:
                raise ValueError(
                    f"the arrays of {name!r} have {len(shape) + 1} axes, they must have four: "
                    "[images, height, width, channels], also for one channel"
                )
            if shape != expected:
                raise ValueError(
                    f"images of {name!r} have the shape {shape}, but config.data says {expected}: "
                    "set config.data.image_size and num_channels"
                )
    if len(dataset.train) < config.training.batch_size:
        raise ValueError(
            f"{name!r} has {len(dataset.train)} training samples: config.training.batch_size = "
            f"{config.training.batch_size} must not exceed that"
        )
    return dataset


def check_labels(dataset: Dataset, n_classes: int) -> None:
    """Raises ValueError unless both parts have labels, all below n_classes."""
    for part, labels in (("train", dataset.train_labels), ("test", dataset.test_labels)):
        if labels is None:
            raise ValueError(
                f"the {part} data have no labels of all samples, which a classifier and a class-"
                "conditional model need: supply integers from 0 on, in the way of the data set's "
                "kind (README.md, Data)"
            )
    if dataset.n_classes > n_classes:
        raise ValueError(
            f"the data have {dataset.n_classes} classes, but the model has only {n_classes}: set "
            f"config.data.num_classes={dataset.n_classes}"
        )


def batches(
    values: Any, seed: int, shape: tuple[int, ...], start: int, placement: NamedSharding
) -> Iterator[Any]:
    """Endless shuffled batches, from the start-th on: batch k depends on seed and k alone.

    They are global arrays; a host reads the rows of its own devices.

    Args:
        values: sequences of one length N that an array of indices can index; one of them, or a
            pytree, such as (images, labels, confidences): a batch then has the same structure.
        seed: of the order.
        shape: of the samples in a batch, such as (microbatches, samples in each).
        start: the batch to start at.
        placement: where a batch lives.
    """
    lengths = {len(leaf) for leaf in jax.tree.leaves(values)}
    if len(lengths) != 1:
        raise ValueError(f"batches of sequences need one length, these have {sorted(lengths)}")
    (n,), size = lengths, math.prod(shape)

    @lru_cache(4)  # grain's own shuffle takes 20 us for an index, a few percent of a small step
    def order(epoch: int) -> np.ndarray:
        return np.random.RandomState([seed % 2**32, epoch]).permutation(n)

    def place(k: int) -> Any:
        epochs, at = np.divmod(np.arange(k * size, (k + 1) * size), n)
        rows = [order(epoch)[at[epochs == epoch]] for epoch in np.unique(epochs)]
        indices = np.concatenate(rows).reshape(shape)
        return jax.tree.map(lambda leaf: sharding.put(placement, leaf, indices), values)

    batched = grain.MapDataset.range(2**62 // size).map(place)
    # A few batches ahead: grain's 500 would be gigabytes of large images.
    iterator = iter(
        batched.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8))
    )
    iterator.set_state({"next_index": start})
    return iterator


def resident(mesh: Mesh, values: Any, most: int) -> Any | None:
    """A pytree of arrays whole on every device; None for those of more than `most` bytes together.

    And for images that are decoded when a batch asks for them.
    """
    leaves = jax.tree.leaves(values)
    if not all(isinstance(leaf, np.ndarray) for leaf in leaves):
        return None
    if sum(leaf.nbytes for leaf in leaves) > most:
        return None
    everywhere = NamedSharding(mesh, P())
    return jax.tree.map(
        lambda leaf: jax.make_array_from_callback(leaf.shape, everywhere, leaf.__getitem__), values
    )


def fetch(values: Any | None, batch: Any) -> Any:
    """Inside jit: a batch of resident values, from their indices; without such, it is one."""
    return batch if values is None else jax.tree.map(lambda leaf: leaf[batch], values)


def _check_part(
    what: str,
    levels: int | None,
    values: np.ndarray | LazyImages,
    labels: np.ndarray | None,
    confidences: np.ndarray | None,
) -> None:
    if len(values) < 2:
        raise ValueError(f"{what}: there are {len(values)} samples, it takes 2 at least")
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
