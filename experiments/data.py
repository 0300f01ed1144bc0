"""Data sets: loading, batches that can start anywhere, and the way to and from model space."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt8
from sklearn import datasets as sklearn_datasets

from models.config import Config
from sde_lib.checks import check_name

N_POINTS = 20_000
N_TEST_POINTS = 2_000
MIXTURE_CENTRES = 2 * np.stack(
    [np.cos(np.arange(8) * np.pi / 4), np.sin(np.arange(8) * np.pi / 4)], axis=1
)
MIXTURE_STD = 0.2


@dataclasses.dataclass(frozen=True)
class Dataset:
    """train and test: uint8 images [N, H, W, C] of grey levels 0 to levels - 1, or float points.

    levels is None for points.
    """

    train: np.ndarray
    test: np.ndarray
    levels: int | None


def load(config: Config) -> Dataset:
    """The data set that config.data.dataset names, checked against config.data.

    Raises:
        ValueError: an unknown name, data that is missing, of another shape, outside its declared
            grey levels or not finite, or fewer samples than a batch.
    """
    name = config.data.dataset
    check_name("config.data.dataset", name, LOADERS)
    dataset = LOADERS[name](config)
    for part, values in (("train", dataset.train), ("test", dataset.test)):
        _check_values(f"{part} data of {name!r}", values, dataset.levels)
    if dataset.levels is not None:
        expected = (config.data.image_size, config.data.image_size, config.data.num_channels)
        if dataset.train.shape[1:] != expected:
            raise ValueError(
                f"images of {name!r} have the shape {dataset.train.shape[1:]}, but config.data says"
                f" {expected}: set config.data.image_size and num_channels"
            )
    if len(dataset.train) < config.training.batch_size:
        raise ValueError(
            f"{name!r} has {len(dataset.train)} training samples: config.training.batch_size = "
            f"{config.training.batch_size} must not exceed that"
        )
    return dataset


def batches(values: np.ndarray, seed: int, batch_size: int, start: int) -> Iterator[np.ndarray]:
    """Endless shuffled batches, from the start-th on: batch k depends on seed and k alone."""
    batched = (
        grain.MapDataset.range(len(values))
        .seed(seed)
        .shuffle()
        .repeat()
        .batch(batch_size)
        .map(lambda indices: values[indices])
    )
    iterator = iter(batched.to_iter_dataset(grain.ReadOptions(num_threads=2)))
    iterator.set_state({"next_index": start})
    return iterator


def to_model_space(
    config: Config,
    levels: int | None,
    key: PRNGKeyArray,
    batch: Array,
    dequantize: bool,
) -> Float[Array, "batch *shape"]:
    """Grey levels to [0, 1], or to [-1, 1] if config.data.centered; points stay as they are.

    `dequantize` adds a uniform draw to each grey level first, so that the density of the result
    gives the probability of the grey levels (sde_lib.bits_per_dim with data_range(config)).
    """
    if levels is None:
        return batch
    grey = batch.astype(jnp.float32)
    if dequantize:
        unit = (grey + jax.random.uniform(key, batch.shape)) / levels
    else:
        unit = grey / (levels - 1)
    low, high = data_range(config)
    return low + (high - low) * unit


def data_range(config: Config) -> tuple[float, float]:
    """The interval that images fill in model space."""
    return (-1.0, 1.0) if config.data.centered else (0.0, 1.0)


def to_uint8(config: Config, x: np.ndarray) -> UInt8[np.ndarray, "..."]:
    """Images in model space to 0, ..., 255, rounded."""
    low, high = data_range(config)
    return np.round(np.clip((x - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def mixture_log_prob(x: Float[Array, "batch 2"]) -> Float[Array, " batch"]:
    """Log density of the data set "mixture", in nats."""
    centres = jnp.asarray(MIXTURE_CENTRES, jnp.float32)
    squares = jnp.sum((x[:, None] - centres) ** 2, axis=-1)
    log_norm = np.log(2 * np.pi * MIXTURE_STD**2) + np.log(len(MIXTURE_CENTRES))
    return jax.nn.logsumexp(-0.5 * squares / MIXTURE_STD**2, axis=1) - log_norm


def _check_values(what: str, values: np.ndarray, levels: int | None) -> None:
    if levels is None and not np.isfinite(values).all():
        raise ValueError(f"{what}: {np.sum(~np.isfinite(values))} numbers are not finite")
    if levels is not None and values.dtype != np.uint8:
        raise ValueError(f"{what}: the images are {values.dtype}, they must be uint8")
    if levels is not None and values.max() >= levels:
        raise ValueError(f"{what}: grey level {values.max()} is outside 0 ... {levels - 1}")


def _digits(config: Config) -> Dataset:
    pixels, _ = sklearn_datasets.load_digits(return_X_y=True)
    images = pixels.astype(np.uint8).reshape(-1, 8, 8, 1)
    order = np.random.RandomState(0).permutation(len(images))
    return Dataset(images[order[297:]], images[order[:297]], levels=17)


def _cifar10(config: Config) -> Dataset:
    path = Path(config.data.path)
    if not path.is_file():
        raise ValueError(
            f"config.data.path = {config.data.path!r} is no file: CIFAR-10 must be supplied as an "
            ".npz file with uint8 arrays 'train' [50000, 32, 32, 3] and 'test' [10000, 32, 32, 3]; "
            "make it with numpy.savez and pass --config.data.path=cifar10.npz"
        )
    with np.load(path) as arrays:
        missing = {"train", "test"} - set(arrays.files)
        if missing:
            raise ValueError(f"{path} lacks {sorted(missing)}: it holds {sorted(arrays.files)}")
        return Dataset(arrays["train"], arrays["test"], levels=256)


def _points(draw) -> Dataset:
    """Points scaled to about unit size from draw(n, random_state)."""
    total = N_POINTS + N_TEST_POINTS
    points = draw(total, np.random.RandomState(0)).astype(np.float32)
    points = points[np.random.RandomState(1).permutation(total)]
    return Dataset(points[N_TEST_POINTS:], points[:N_TEST_POINTS], levels=None)


def _swiss_roll(n, random):
    points, _ = sklearn_datasets.make_swiss_roll(n, noise=0.5, random_state=random)
    return points[:, [0, 2]] / 7


def _moons(n, random):
    points, _ = sklearn_datasets.make_moons(n, noise=0.07, random_state=random)
    return (points - np.array([0.5, 0.25])) * 1.5


def _checkerboard(n, random):
    column = random.randint(4, size=n)
    row = 2 * random.randint(2, size=n) + column % 2
    return np.stack([column, row], axis=1) + random.uniform(size=(n, 2)) - 2


def _mixture(n, random):
    return MIXTURE_CENTRES[random.randint(8, size=n)] + MIXTURE_STD * random.randn(n, 2)


LOADERS = {
    "digits": _digits,
    "cifar10": _cifar10,
    "swiss_roll": lambda config: _points(_swiss_roll),
    "moons": lambda config: _points(_moons),
    "checkerboard": lambda config: _points(_checkerboard),
    "mixture": lambda config: _points(_mixture),
}
