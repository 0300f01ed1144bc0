"""The scaling between data and model space, the values that networks see.

Grey levels fill an interval. Floats are standardised: each channel, or each column of vectors, has
mean 0 and standard deviation 1 over the training set. These moments are recorded in the run's
folder, because samples and likelihoods need them too: densities are of the data's own units.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from experiments.data.lazy_arrays import check_finite, column_name
from experiments.runs import files, progress
from experiments.runs import folder as folders
from sde_lib.batch import fold_in, sample_keys

DEQUANTIZE = 1 << 20  # folded into a sample's key: no draw of a loss has this number
RECORD = "standardization.json"
SHOWN = 3.0  # pictures show floats in [-3, 3], standard deviations if they are standardised
COARSE = 0.01  # standard deviations: floats of 32 bits must be closer than that
CHUNK = 1 << 24  # bytes of samples that are read at a time for their moments


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Grey levels 0, ..., levels - 1 and an interval of model space, or floats and their moments.

    Attributes:
        levels: grey levels of the data; None for floats.
        centered: model space is [-1, 1]; otherwise [0, 1].
        dequantize: training adds uniform noise to the grey levels.
        standardized: floats are standardised; points and latents stay as they are.
        mean: of each channel of the training data, once it is known.
        std: likewise, the standard deviation.
        missing: NaN is a missing value of the data; otherwise it is an error.
    """

    levels: int | None
    centered: bool = True
    dequantize: bool = True
    standardized: bool = False
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    missing: bool = False

    @property
    def dtype(self) -> np.dtype:
        """The type of the data's values."""
        if self.levels is None:
            return np.dtype(np.float32)
        return np.dtype(np.uint8 if self.levels <= 256 else np.uint16)

    def with_moments(self, moments: dict[str, Any]) -> Self:
        """The scaling of standardised data, by the content of RECORD."""
        return dataclasses.replace(self, mean=tuple(moments["mean"]), std=tuple(moments["std"]))

    def log_volume(self, shape: Sequence[int], mask: Array | None = None) -> float | Array:
        """The logarithm of the volume that a unit of model space has in the data's units.

        A log density of samples of this shape in model space is larger by it. With a mask [B, ...]
        it is [B], of the observed values of each sample.
        """
        logs = list(map(math.log, self._moments()[1]))
        if mask is None:
            return math.prod(shape[:-1]) * math.fsum(logs)
        return jnp.sum(mask * jnp.asarray(logs), axis=tuple(range(1, mask.ndim)))

    def _moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The mean and std of each channel; (0,) and (1,) for data that are not standardised."""
        if not self.standardized:
            return (0.0,), (1.0,)
        if not self.mean:
            raise ValueError(
                f"the moments of the training data are not known: they are in a run's {RECORD}"
            )
        return self.mean, self.std

    @property
    def range(self) -> tuple[float, float]:
        """The interval of model space that images fill; of standardised data, pictures show it."""
        if self.standardized:
            return -SHOWN, SHOWN
        return (-1.0, 1.0) if self.centered else (0.0, 1.0)

    @property
    def shown(self) -> tuple[float, float]:
        """The interval of model space from black to white in pictures."""
        return self.range if self.levels else (-SHOWN, SHOWN)

    def to_model(
        self, key: PRNGKeyArray, batch: Array, dequantize: bool | None = None
    ) -> Float[Array, "batch *shape"]:
        """Grey levels or floats [B, ...] in model space.

        Args:
            key: randomness of the dequantisation.
            batch: grey levels, or floats.
            dequantize: add a uniform draw to each grey level first, so that the density of the
                result gives the probability of the grey levels (sde_lib.bits_per_dim with `range`).
                None: as in training.
        """
        if self.levels is None:
            mean, std = (jnp.asarray(values, jnp.float32) for values in self._moments())
            return (batch - mean) / std if self.standardized else batch
        grey = batch.astype(jnp.float32)
        if self.dequantize if dequantize is None else dequantize:
            unit = (grey + jax.random.uniform(key, batch.shape)) / self.levels
        else:
            unit = grey / (self.levels - 1)
        low, high = self.range
        return low + (high - low) * unit

    def to_model_each(
        self,
        key: PRNGKeyArray,
        batch: Array,
        first_index: int | Array,
        dequantize: bool | None = None,
    ) -> Float[Array, "batch *shape"]:
        """The same as to_model with a key for each sample: independent of the batch."""
        keys = fold_in(sample_keys(key, batch.shape[0], first_index), DEQUANTIZE)
        return jax.vmap(lambda key, x: self.to_model(key, x, dequantize))(keys, batch)

    def centres(self, grey: Any) -> Any:
        """Grey levels in model space without noise: the middle of each one's interval."""
        low, high = self.range
        levels = self.levels or 1
        unit = (grey + 0.5) / levels if self.dequantize else grey / (levels - 1)
        return low + (high - low) * unit

    def without_noise(self, x: Array) -> Array:
        """Inside jit: values in model space without the noise of dequantisation."""
        if self.levels is None:
            return x
        unit = self._unit(x)
        grey = jnp.floor(unit * self.levels) if self.dequantize else unit * (self.levels - 1)
        return self.centres(jnp.clip(grey, 0, self.levels - 1))

    def to_grey(self, x: np.ndarray) -> np.ndarray:
        """The nearest grey levels, or floats in the data's units: the inverse of to_model."""
        if self.levels is None:
            mean, std = map(np.asarray, self._moments())
            return (x * std + mean).astype(np.float32) if self.standardized else x
        unit = self._unit(x)
        grey = np.floor(unit * self.levels)
        if not self.dequantize:
            grey = np.round(unit * (self.levels - 1))
        return np.clip(grey, 0, self.levels - 1).astype(self.dtype)

    def to_uint8(self, x: np.ndarray) -> UInt8[np.ndarray, "..."]:
        """Images in model space as 0, ..., 255, rounded. Missing values are grey."""
        unit = np.nan_to_num(np.clip(self._unit(x), 0, 1), nan=0.5)
        return np.round(unit * 255).astype(np.uint8)

    def from_uint8(self, images: Any) -> Float[np.ndarray, "..."]:
        """Images 0, ..., 255 in model space: the inverse of to_uint8."""
        low, high = self.shown
        return (low + (high - low) * np.asarray(images, np.float32) / 255).astype(np.float32)

    def _unit(self, x: Any) -> Any:
        low, high = self.shown
        return (x - low) / (high - low)


def claim(scaling: Scaling, train: Any, test: Any, names: Sequence[str], run: Path) -> Scaling:
    """The scaling with the moments of the training data, if it needs some.

    They are measured once, in 64 bits and a chunk at a time, and recorded in the run's folder. They
    are those of the observed values.

    Args:
        scaling: of the data.
        train: the training data.
        test: the test data, which are only checked.
        names: of the columns, for errors; () for numbers.
        run: the run's folder.

    Raises:
        ValueError: a value that is not finite, or a column that is constant, too far from 0 for its
            spread, or not observed at all.
    """
    if not scaling.standardized:
        return scaling
    path = run / RECORD
    if not (path.exists() and folders.has_run(run)):  # otherwise the network knows these moments
        _moments(test, "test", names, scaling.missing)
        files.write_json(path, measured(train, "training", names, scaling.missing))
    return of_run(scaling, run)


def measured(
    values: Any, what: str, names: Sequence[str] = (), missing: bool = False
) -> dict[str, Any]:
    """The content of RECORD for samples [N, ...], which are read a chunk at a time.

    Raises:
        ValueError: a value that is not finite, or a column that is constant or too far from 0 for
            its spread.
    """
    found = _moments(values, what, names, missing)
    _check_spread(found, names)
    return {"mean": found.mean.tolist(), "std": found.std.tolist(), "samples": len(values)}


def of_run(scaling: Scaling, run: Path) -> Scaling:
    """The scaling with the moments that a run has recorded, if it needs some."""
    if not scaling.standardized:
        return scaling
    return scaling.with_moments(folders.read_record(run / RECORD))


class _Moments(NamedTuple):
    """The number, mean, standard deviation, least and largest of the values of each channel."""

    n: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    low: np.ndarray
    high: np.ndarray


def _moments(values: Any, what: str, names: Sequence[str], missing: bool) -> _Moments:
    """The moments of the observed values of samples [N, ...], which are read a chunk at a time."""
    shape = values.shape[1:]
    rows = max(1, CHUNK // (8 * math.prod(shape)))
    count, mean, squares = np.zeros((3, shape[-1]))
    low, high = np.full(shape[-1], np.inf), np.full(shape[-1], -np.inf)
    for first in progress.track(range(0, len(values), rows), f"moments of the {what} data"):
        chunk = np.asarray(values[first : first + rows])
        name_of = getattr(values, "name_of", lambda row: f"sample {row}")
        about = f"the {what} data", lambda row: name_of(first + row), names, missing  # noqa: B023
        check_finite(chunk, *about)
        flat = chunk.reshape(-1, shape[-1]).astype(np.float64)
        observed = ~np.isnan(flat)
        new = observed.sum(0)
        total = np.maximum(count + new, 1)
        ours = np.where(observed, flat, 0).sum(0) / np.maximum(new, 1)
        squares += (np.where(observed, flat - ours, 0) ** 2).sum(0)
        distance = ours - mean
        squares += distance**2 * (count * new / total)
        mean, count = mean + distance * (new / total), count + new
        low, high = np.fmin(low, np.fmin.reduce(flat)), np.fmax(high, np.fmax.reduce(flat))
    return _Moments(count, mean, np.sqrt(squares / np.maximum(count, 1)), low, high)


def _check_spread(moments: _Moments, names: Sequence[str]) -> None:
    count, _, std, low, high = moments
    unit, largest = "column" if names else "channel", np.maximum(abs(low), abs(high))
    unseen = [column_name(k, names) for k in np.flatnonzero(count == 0)]
    if unseen:
        raise ValueError(
            f"the training data have no observed value in {unit} {', '.join(unseen)}: leave it out"
        )
    constant = [column_name(k, names) for k in np.flatnonzero(low == high)]
    if constant:
        raise ValueError(
            f"the training data are constant in {unit} {', '.join(constant)}: leave it out, as it "
            "has no density"
        )
    coarse = np.flatnonzero(np.spacing(largest.astype(np.float32)) > COARSE * std)
    if len(coarse):
        k = coarse[0]
        raise ValueError(
            f"{unit} {column_name(k, names)} of the training data has values of up to "
            f"{largest[k]:g} with a standard deviation of {std[k]:g}, too little for floats of 32 "
            "bits: subtract an offset from it first"
        )
