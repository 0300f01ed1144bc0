"""Measures of training data in model space: spread, distances between samples, and spectrum.

They are of a random subset of the samples, whose size is a part of the result.
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.runs import progress

MOST = 4096  # samples of the subset
VALUES = 1 << 27  # numbers in the subset, half a GiB
LEAST = 16  # samples of the subset, however large they are
CHUNK = 1 << 23  # numbers that are read, or compared, at a time
HASHED = 1 << 30  # bytes: all samples of arrays up to this size are compared by a hash
SPECTRA = 512  # samples of the spectrum


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """The mean power of the samples by spatial frequency; white noise has its variance everywhere.

    Attributes:
        frequency: cycles per grid step, in rising order, up to 0.5.
        power: the mean over samples, channels and directions.
        slope: of log power against log frequency; photographs have about -2, white noise 0.
    """

    frequency: tuple[float, ...]
    power: tuple[float, ...]
    slope: float


@dataclasses.dataclass(frozen=True)
class Measures:
    """Measures of training data in model space.

    Attributes:
        shape: of a sample.
        total: samples in the training data.
        n: samples in the subset.
        std: standard deviation of all values.
        channel_stds: the same of each channel.
        largest: the largest distance between two samples of the subset.
        nearest: the median distance to the nearest other sample of the subset that is no copy.
        smallest: the least distance between two samples of the subset that are no copies.
        copies: samples that repeat another one, among the first or `compared` samples.
        compared: samples that were compared for copies: all of them, or the subset.
        spectrum: None for vectors, for fewer than 4 grid points on every axis, and without a
            complete sample.
    """

    shape: tuple[int, ...]
    total: int
    n: int
    std: float
    channel_stds: tuple[float, ...]
    largest: float
    nearest: float
    smallest: float
    copies: int
    compared: int
    spectrum: Spectrum | None


def measure(
    values: Any,
    to_model: Callable[[np.ndarray], np.ndarray],
    most: int = MOST,
    missing: bool = False,
) -> Measures:
    """Measures a random subset of samples.

    Standard deviations are those of observed values. Distances are those of the network's inputs,
    with the mean in place of missing values. The spectrum is that of complete samples.

    Args:
        values: training data [N, ...], an array or a sequence that an index array reads.
        to_model: a function from such samples to model space.
        most: samples of the subset.
        missing: NaN is a missing value; otherwise it is an error.

    Raises:
        ValueError: values that are not finite.
    """
    x = subset(values, to_model, most)
    gone = np.isnan(x)
    if not np.isfinite(x[~gone] if missing else x).all():
        raise ValueError("the training data have values that are not finite in model space")
    total, n, axes = len(values), len(x), tuple(range(x.ndim - 1))
    share = np.maximum(1 - gone.mean(axis=axes), 1 / x.size)  # of the values that are observed
    intact = ~gone.reshape(n, -1).any(axis=1)
    x[gone] = 0
    mean = x.mean(axis=axes, dtype=np.float64) / share
    x -= mean.astype(np.float32)
    x[gone] = 0
    variances = _mean_squares(x) / share
    largest, nearest = distances(x.reshape(n, -1))
    apart = nearest[nearest > 0]
    whole = isinstance(values, np.ndarray) and values.nbytes <= HASHED
    return Measures(
        x.shape[1:],
        total,
        n,
        math.sqrt(variances.mean() + mean.var()),
        tuple(np.sqrt(variances).tolist()),
        largest,
        float(np.median(apart)) if len(apart) else largest,
        float(apart.min()) if len(apart) else largest,
        copies(values if whole else x),
        total if whole else n,
        spectrum(x[intact][:SPECTRA]) if intact.any() else None,
    )


def subset(
    values: Any, to_model: Callable[[np.ndarray], np.ndarray], most: int
) -> Float[np.ndarray, "n *shape"]:
    """Random samples in model space, the same at each call. They are read a chunk at a time."""
    shape = values.shape[1:]
    size = math.prod(shape)
    n = min(len(values), most, max(LEAST, VALUES // size))
    rows = np.sort(np.random.RandomState(0).choice(len(values), n, replace=False))
    step = max(1, CHUNK // size)
    parts = [
        np.asarray(to_model(values[rows[first : first + step]]), np.float32)
        for first in progress.track(range(0, n, step), "reading some of the data", "part")
    ]
    return np.concatenate(parts)


def distances(x: Float[np.ndarray, "n d"]) -> tuple[float, Float[np.ndarray, " n"]]:
    """The largest distance between two rows, and that of each row to the nearest other one.

    Pairs are found in 32 bits, for centred rows; the distances are computed from their difference.
    """
    n, step = len(x), max(1, CHUNK // len(x))
    squares = np.einsum("nd,nd->n", x, x)
    near, far = np.zeros(n, int), np.zeros(n, int)
    for first in progress.track(range(0, n, step), "comparing samples", "part"):
        own = np.arange(first, min(first + step, n))
        found = squares[own, None] + squares - 2 * x[own] @ x.T
        far[own] = found.argmax(axis=1)
        found[own - first, own] = np.inf
        near[own] = found.argmin(axis=1)
    return float(_lengths(x, far).max()), _lengths(x, near)


def copies(values: np.ndarray) -> int:
    """The number of samples that repeat another one before them."""
    return len(values) - len(set(digests(values)))


def digests(values: np.ndarray) -> Iterator[bytes]:
    """A digest of each sample's bytes."""
    for row in values:
        yield hashlib.blake2b(np.ascontiguousarray(row).data, digest_size=16).digest()


def spectrum(x: Float[np.ndarray, "n *shape"]) -> Spectrum | None:
    """The power of centred samples [n, *grid, channels] by the length of the frequency."""
    grid = x.shape[1:-1]
    longest = max(grid, default=0)
    if longest < 4:
        return None
    axes = tuple(range(1, x.ndim - 1))
    power, step = np.zeros(grid), max(1, CHUNK // math.prod(x.shape[1:]))
    for first in range(0, len(x), step):
        waves = np.fft.fftn(x[first : first + step], axes=axes)
        power += (np.abs(waves) ** 2).mean(axis=-1).sum(axis=0)
    power /= len(x) * math.prod(grid)
    each = np.meshgrid(*map(np.fft.fftfreq, grid), indexing="ij")
    frequency = np.sqrt(sum(f**2 for f in each))
    width = 1 / min(side for side in grid if side >= 4)
    shell = np.rint(frequency / width).astype(int)
    inside = (shell > 0) & (frequency <= 0.5)
    counts = np.bincount(shell[inside])
    used = np.flatnonzero(counts)
    at, level = (
        np.bincount(shell[inside], each[inside])[used] / counts[used] for each in (frequency, power)
    )
    return Spectrum(tuple(at.tolist()), tuple(level.tolist()), _slope(at, level, counts[used]))


def _slope(frequency: np.ndarray, power: np.ndarray, counts: np.ndarray) -> float:
    positive = power > 0
    if positive.sum() < 2:
        return math.nan
    logs = np.log(frequency[positive]), np.log(power[positive])
    return float(np.polyfit(*logs, 1, w=np.sqrt(counts[positive]))[0])


def _mean_squares(x: np.ndarray) -> Float[np.ndarray, " channels"]:
    """The mean square of each channel."""
    sums = [
        (part.astype(np.float64) ** 2).sum(axis=tuple(range(part.ndim - 1))) for part in _chunks(x)
    ]
    return np.sum(sums, axis=0) / math.prod(x.shape[:-1])


def _lengths(x: Float[np.ndarray, "n d"], others: np.ndarray) -> Float[np.ndarray, " n"]:
    """The distance of each row to another one."""
    step = max(1, CHUNK // x.shape[1])
    parts = [
        np.linalg.norm((x[k : k + step] - x[others[k : k + step]]).astype(np.float64), axis=1)
        for k in range(0, len(x), step)
    ]
    return np.concatenate(parts)


def _chunks(x: np.ndarray) -> list[np.ndarray]:
    step = max(1, CHUNK // math.prod(x.shape[1:]))
    return [x[k : k + step] for k in range(0, len(x), step)]
