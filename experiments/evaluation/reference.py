"""Features of samples and of the data that they are compared with."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.data.dataset import Dataset, identity
from experiments.data.scaling import Scaling
from experiments.evaluation import features, quality
from experiments.evaluation.features import FeatureFunction
from experiments.evaluation.quality import Moments
from experiments.pipeline.draw import check_finite
from experiments.runs import devices, files, hosts, parts, progress
from experiments.runs.parts import Part
from models import weights

PAIRED = 10_000  # the most images of each set in the statistics that compare all pairs
KERNEL_SUBSET = 1000  # images of KID's subsets, as published
LEAST_DATA = 4  # images that a set is compared with: KID's subsets and nearest neighbours need them
COORDINATES = "coordinates"  # the name of features that are the numbers themselves
SAVE_EVERY = 50  # batches of data between two savings of their statistics


class Reference(NamedTuple):
    """The moments of all training data, and the features of at most PAIRED of them."""

    path: Path
    moments: Moments
    features: np.ndarray


class Distances(NamedTuple):
    """Distances between samples and data.

    kernel_error: standard error of the kernel distance; subset: images of its subsets.
    """

    frechet: float
    kernel: float
    kernel_error: float
    subset: int


def feature_function(
    shape: tuple[int, ...], weights: str = "", scaling: Scaling | None = None
) -> FeatureFunction:
    """The features of images by a file of weights, or random ones; other data are their own.

    Args:
        shape: of a sample.
        weights: the file, for images.
        scaling: of the data, by which the numbers of standardised data and of grey levels are
            brought to one scale.
    """
    if len(shape) == 3:
        return features.fitted(features.create(weights), shape)
    mean, std = np.zeros(1, np.float32), np.ones(1, np.float32)
    if scaling is not None and scaling.mean:
        repeats = math.prod(shape) // len(scaling.mean)
        both = (np.asarray(values, np.float32) for values in (scaling.mean, scaling.std))
        mean, std = (np.tile(values, repeats) for values in both)
    elif scaling is not None and scaling.levels:
        std = std * (scaling.levels - 1)
    version = "0" if (mean == 0).all() and (std == 1).all() else parts.digest([mean, std])
    return FeatureFunction(COORDINATES, version, _numbers, (mean, std))


def _numbers(moments: Any, x: jax.Array) -> tuple[jax.Array, None]:
    """The numbers of each sample, on one scale, as its features."""
    mean, std = moments
    return (x.reshape(len(x), -1) - mean) / std, None


def check_data(dataset: Dataset) -> None:
    """Raises ValueError for training data that are too few to compare samples with."""
    if len(dataset.train) < LEAST_DATA:
        raise ValueError(
            f"there are {len(dataset.train)} training samples, and sample quality compares with at "
            f"least {LEAST_DATA}, without missing values: leave out config.eval.enable_sampling, "
            "training.quality_freq and 'quality' in training.at_end, or give more data"
        )


def reference(
    name: str, dataset: Dataset, fn: FeatureFunction, folder: Path, mesh: Mesh, batch_size: int
) -> Reference:
    """The statistics of training data, made once for a data set and a feature function.

    Args:
        name: of the data set, for the name of the file.
        dataset: images, or points.
        fn: gives the features.
        folder: where the statistics are kept.
        mesh: the devices.
        batch_size: samples at a time.

    Raises:
        ValueError: too few training data.
    """
    check_data(dataset)
    values = dataset.train
    n, size = len(values), batch_size
    made_of = parts.digest([fn.name, fn.version, dataset.levels, identity(values)])
    path = folder / f"{name}-{fn.name}-{made_of}.npz"
    kept = np.linspace(0, n - 1, min(n, PAIRED)).astype(int)
    moments, rows = None, []
    if hosts.agree(path.exists()):
        with np.load(path) as saved:
            moments = Moments(int(saved["n"]), saved["mean"], saved["scatter"])
            rows = [saved["rows"]]
    firsts = range(moments.n if moments else 0, n, size)
    for k, first in enumerate(progress.track(firsts, "features of the data"), 1):
        indices = np.arange(first, min(first + size, n))
        new = _features(mesh, dataset.levels, fn, values, indices)["features"]
        moments = moments.merge(Moments.of(new)) if moments else Moments.of(new)
        rows.append(new[np.isin(indices, kept)])
        if k % SAVE_EVERY == 0 or k == len(firsts):
            rows = [np.concatenate(rows)]
            files.write_arrays(path, rows=rows[0], **dataclasses.asdict(moments))
    assert moments is not None
    return Reference(path, moments, rows[0])


def statistics(path: Path, fn: FeatureFunction) -> Moments:
    """Published statistics of the features of data, mu and sigma: an .npz file or EDM2's pickle.

    Raises:
        ValueError: the file holds no such statistics, or those of other features.
    """
    content = weights.read(path)
    found = content if isinstance(content, dict) else {}
    found = found.get("fid", found)  # EDM2's files have statistics of several networks
    mean, covariance = (np.asarray(found.get(name, ()), np.float64) for name in ("mu", "sigma"))
    if mean.ndim != 1 or not mean.size or covariance.shape != 2 * mean.shape:
        raise ValueError(
            f"config.eval.statistics, {path}, holds {weights.about(content)}: it must hold mu [D] "
            "and sigma [D, D], the mean and the covariance of features"
        )
    if fn.name != features.INCEPTION:
        raise ValueError(
            f"config.eval.statistics, {path}, are of Inception's features, but config.eval.features"
            " is empty: give the file of Inception's weights there"
        )
    return Moments(2, mean, covariance)  # of two images, the scatter is the covariance


def sampled_features(
    scaling: Scaling,
    fn: FeatureFunction,
    draw: Callable[[int], jax.Array | np.ndarray],
    size: int,
    n: int,
    mesh: Mesh,
    part: Part = parts.always,
    title: str = "samples",
) -> tuple[Moments, parts.Arrays]:
    """The moments of the features of n samples, and their features and logits, [n, ...].

    Args:
        scaling: of the samples to grey levels.
        fn: gives the features.
        draw: `size` samples in model space, from an index on.
        size: of a batch.
        n: the number of samples.
        mesh: the devices.
        part: keeps each batch's samples, and their features.
        title: shown with the progress; "" for none.

    Raises:
        FloatingPointError: a sample is not finite.
    """
    moments, rows = None, []

    def images(first: int) -> parts.Arrays:
        x = devices.fetch(draw(first))
        check_finite(x)
        return {"images": scaling.to_grey(x)}

    for first in progress.track(range(0, n, size), title):
        made = part(f"images_{first}_{size}", partial(images, first))["images"]
        measure = partial(_features, mesh, scaling.levels, fn, made, np.arange(len(made)))
        row = part(f"{fn.name}-{fn.version}_{first}_{size}", measure)
        row = {name: values[: n - first] for name, values in row.items()}
        new = Moments.of(row["features"])
        moments = moments.merge(new) if moments else new
        rows.append(row)
    assert moments is not None
    return moments, {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def distances(moments: Moments, rows: np.ndarray, truth: Reference, seed: int) -> Distances:
    """Fréchet and kernel distance of samples to the data.

    Args:
        moments: of all samples' features.
        rows: features of samples, of which PAIRED at most are used.
        truth: the data.
        seed: of the kernel distance's subsets.
    """
    paired = rows[:PAIRED], truth.features
    subset = min(KERNEL_SUBSET, min(map(len, paired)) // 2)
    kernel = quality.kernel_distance(*paired, subset_size=subset, seed=seed)
    return Distances(quality.frechet_distance(moments, truth.moments), *kernel, subset)


def features_of(
    values: Any, levels: int | None, fn: FeatureFunction, mesh: Mesh, batch_size: int = 256
) -> np.ndarray:
    """The features of grey levels or points, [n, D]."""
    firsts = range(0, len(values), batch_size)
    each = [np.arange(first, min(first + batch_size, len(values))) for first in firsts]
    return np.concatenate([_features(mesh, levels, fn, values, i)["features"] for i in each])


def _features(
    mesh: Mesh,
    levels: int | None,
    fn: FeatureFunction,
    values: Any,
    indices: np.ndarray,
) -> parts.Arrays:
    """Features, and logits if the function has some, of values[indices]: grey levels, or points."""
    padded = np.resize(indices, devices.round_up(mesh, len(indices)))
    batch: Any = devices.put(devices.batch_sharding(mesh), values, padded)
    if levels is not None and fn.name != COORDINATES:
        batch = jnp.round(batch * (255 / (levels - 1))).astype(jnp.uint8)
    rows, logits = fn(batch)
    result = devices.fetch({"features": rows, "logits": logits})
    return {name: leaf[: len(indices)] for name, leaf in result.items() if leaf is not None}
