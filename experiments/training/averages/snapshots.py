"""Snapshots of the averages during training, and an average of another length made of them.

A snapshot is a file of safetensors in the run's folder, averages/STEP.safetensors. Its arrays are
named INDEX/LOCATION/OF/PARAMETER, by the index of the average. They are float16, as in Karras et
al. 2024; a parameter that float16 cannot hold is kept as it is.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import Bool, Float

from experiments.runs import devices, files, hosts
from experiments.training.averages.power_function import LONGEST, Fit, Profiles, fit, gamma_of
from models import weights
from models.weights import safetensors_files

FOLDER = "averages"
TOLERANCE = 0.15
"""The largest error of a profile (power_function.Fit) that is taken for the one that was asked for.

In tests/golden/edm2_phema.npz, 0.11 is 1.4% of the weights, where averages of the lengths 0.05 and
0.1 differ by 7%.
"""
ROUNDING = 0.03
"""The most rounding to float16 in a sum of snapshots: 2^-11 |c| with their shares c.

The weights then have a relative error of about 0.4 times that in RMS.
"""
GRID = np.geomspace(1e-4, LONGEST, 300)  # lengths that are tried, to say which ones there are
Arrays = Mapping[str, np.ndarray]
"""Parameters by name, which joins the location by "/"."""


class Source(NamedTuple):
    """Averages of a step, which are read when they are needed.

    step: that they end at. lengths: of their profiles. read: gives the parameters of each.
    """

    step: int
    lengths: tuple[float, ...]
    read: Callable[[], Sequence[Arrays]]


def write(folder: Path, step: int, lengths: Sequence[float], averages: Sequence[Any]) -> None:
    """Writes the snapshot of a step; all processes call it, and the first one writes.

    Args:
        folder: the run's.
        step: that the averages end at.
        lengths: of their profiles.
        averages: trees of parameters, one for each length.
    """
    arrays = {
        f"{index}/{name}": _small(array)
        for index, average in enumerate(averages)
        for name, array in named(average).items()
    }
    if hosts.is_first():
        shapes = {name: (array.shape, array.dtype) for name, array in arrays.items()}
        about = {"step": str(step), "lengths": json.dumps(list(lengths))}
        with files.replacing(folder / FOLDER / f"{step:09}.safetensors") as file:
            safetensors_files.write(file, shapes, arrays.values(), about)


def named(tree: Any) -> dict[str, np.ndarray]:
    """A tree of parameters as arrays on this host, by name."""
    leaves: Any = flatten_dict(tree, sep="/")
    return {name: devices.fetch(leaf) for name, leaf in leaves.items()}


def stored(folder: Path) -> list[Source]:
    """The snapshots of a run, in the order of their steps."""
    return [_source(path) for path in sorted((folder / FOLDER).glob("*.safetensors"))]


def remove_after(folder: Path, step: int) -> None:
    """Removes snapshots of later steps: a training that goes on from `step` makes them anew."""
    if hosts.is_first():
        for path in (folder / FOLDER).glob("*.safetensors"):
            if _step(path) > step:
                path.unlink()


def shares(sources: Sequence[Source], length: float) -> Float[np.ndarray, " n"]:
    """The shares of all averages of the sources in that of another length at the last step.

    Args:
        sources: in the order of their steps.
        length: sigma_rel of the average, a share of the training up to the last step.

    Raises:
        ValueError: a length that these sources cannot give.
    """
    given = Profiles(
        np.array([gamma_of(each) for source in sources for each in source.lengths]),
        np.array([source.step for source in sources for _ in source.lengths]),
    )
    end = np.array([sources[-1].step])
    found = fit(given, Profiles(np.array([gamma_of(length, "config.eval.ema_length")]), end))
    if not _accurate(found)[0]:
        raise ValueError(
            f"config.eval.ema_length is {length}, which {len(sources)} snapshots up to step "
            f"{sources[-1].step} cannot give: give a length {_ranges(given, end)}, or train with "
            "one near it in config.model.ema_lengths, or with more snapshots (a smaller "
            "config.training.ema_freq)"
        )
    return found.coefficients[:, 0]


def average(sources: Sequence[Source], length: float) -> dict[str, np.ndarray]:
    """The average of a length at the last step of the sources, float32 by name; see `shares`.

    Raises:
        ValueError: as `shares`, or a damaged file.
    """
    remaining, total = iter(shares(sources, length)), {}
    for source in sources:
        for arrays in source.read():
            share = next(remaining)
            for name, array in arrays.items():
                total[name] = total.get(name, 0) + share * array.astype(np.float64)
                weights.release(array)
    return {name: np.asarray(array, np.float32) for name, array in total.items()}


def _accurate(found: Fit) -> Bool[np.ndarray, " m"]:
    """True for each sum whose error and rounding are within TOLERANCE and ROUNDING."""
    rounding = 2**-11 * np.linalg.norm(found.coefficients, axis=0)
    return (found.error <= TOLERANCE) & (rounding <= ROUNDING)


def _ranges(given: Profiles, end: np.ndarray) -> str:
    """The lengths that averages with the given profiles can give, as part of an error."""
    gammas = np.array([gamma_of(length) for length in GRID])
    good = _accurate(fit(given, Profiles(gammas, np.repeat(end, len(GRID)))))
    changes = np.flatnonzero(np.diff(good, prepend=False, append=False)).reshape(-1, 2)
    ends = ((np.ceil(1e4 * GRID[i]), np.floor(1e4 * GRID[j - 1])) for i, j in changes)
    return " or ".join(f"from {least / 1e4:g} to {most / 1e4:g}" for least, most in ends)


def _source(path: Path) -> Source:
    about = safetensors_files.metadata(path)
    lengths = tuple(json.loads(about["lengths"]))

    def read() -> list[Arrays]:
        arrays = weights.read(path)
        parts = [f"{index}/" for index in range(len(lengths))]
        return [
            {name.removeprefix(part): a for name, a in arrays.items() if name.startswith(part)}
            for part in parts
        ]

    return Source(int(about["step"]), lengths, read)


def _step(path: Path) -> int:
    return int(path.stem)


def _small(array: np.ndarray) -> np.ndarray:
    """An array as float16, if all its numbers are in the range of that."""
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    return half if np.isfinite(half).all() else array
