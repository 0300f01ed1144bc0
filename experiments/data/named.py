"""The data set that a config names, checked."""

import numpy as np

import models
from experiments.data.dataset import Dataset
from experiments.data.sources import cifar10, digits, emoji, files, huggingface, npz, points
from experiments.data.sources.lazy_images import LazyImages
from experiments.runs import hosts
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
