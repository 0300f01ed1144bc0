"""Shared parts of studies: means with errors, a fit, distances of distributions, tables."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from experiments.evaluation.quality import Moments
from experiments.runs import files

N_DIRECTIONS = 64
SECOND = 1.005  # b of a fit's second run; the first is 1
N_RUNS = 12
CLOSE = 0.05  # the part of a fitted b's standard error by which b may be off


class Mean(NamedTuple):
    """A mean, or another estimate, with its standard error."""

    value: float
    error: float

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> "Mean":
        """The mean of independent values."""
        values = np.asarray(values)
        return cls(float(np.mean(values)), float(standard_error(values)))

    def __str__(self) -> str:
        digits = 1 - math.floor(math.log10(self.error or 1e-6))
        return f"{self.value:.{max(digits, 0)}f} +- {self.error:.{max(digits, 0)}f}"


def standard_error(values: np.ndarray) -> np.ndarray:
    """The standard error of the mean over the first axis."""
    return np.std(values, axis=0, ddof=1) / np.sqrt(len(values))


def rms(difference: np.ndarray) -> float:
    """The root mean square over samples and coordinates."""
    return float(np.sqrt(np.mean(difference**2)))


def fit(gap_at: Callable[[float], Mean]) -> Mean | None:
    """The b near 1 where the gap is 0, by the secant method; None if there is none."""
    b, last, then = 1.0, gap_at(1.0), SECOND
    for _ in range(N_RUNS):
        here = gap_at(then)
        slope = (here.value - last.value) / (then - b)
        b, last = then, here
        then = b - here.value / slope if slope else np.inf
        if not 0.5 < then < 2:
            return None
        if abs(then - b) < CLOSE * (error := here.error / abs(slope)):
            return Mean(then, error)
    return None


@dataclasses.dataclass(frozen=True)
class Truth:
    """A distribution, described by a multiple of n samples of it.

    Attributes:
        moments: of the samples.
        directions: [D, N_DIRECTIONS] unit vectors.
        quantiles: [n, N_DIRECTIONS] evenly spaced quantiles of the projections on them.
    """

    moments: Moments
    directions: Float[np.ndarray, "dims directions"]
    quantiles: Float[np.ndarray, "n directions"]

    @classmethod
    def of(cls, x: Float[np.ndarray, "multiple dims"], n: int) -> "Truth":
        """The description by samples x, for comparison with n samples."""
        directions = np.random.RandomState(0).randn(x.shape[1], N_DIRECTIONS)
        directions /= np.linalg.norm(directions, axis=0)
        every = len(x) // n
        return cls(Moments.of(x), directions, np.sort(x @ directions, axis=0)[every // 2 :: every])

    def errors(self, x: Float[np.ndarray, "n dims"]) -> tuple[float, float, float]:
        """The errors of n samples: of the mean, of the covariance, and sliced Wasserstein-1.

        That of the mean is in standard deviations, that of the covariance is relative. The last is
        the mean, over the directions, of the Wasserstein-1 distance between the projections of both
        (Bonneel et al. 2015).

        Raises:
            ValueError: samples that are not finite.
        """
        moments, theirs = Moments.of(x), self.moments
        mean = np.linalg.norm(moments.mean - theirs.mean) / np.sqrt(np.trace(theirs.covariance))
        covariance = np.linalg.norm(moments.covariance - theirs.covariance)
        distance = np.mean(np.abs(np.sort(x @ self.directions, axis=0) - self.quantiles))
        return float(mean), float(covariance / np.linalg.norm(theirs.covariance)), float(distance)


def save_results(path: Path, results: Sequence[Any], digits: str = ".3f") -> None:
    """Saves results, named tuples of one kind, as JSON lines; prints and saves their table."""
    files.write_lines(path, [result._asdict() for result in results])
    save_table(path, results, digits=digits)


def save_table(
    path: Path, results: Sequence[Any], missing: str = "not finite", digits: str = ".3f"
) -> None:
    """Prints the results as a markdown table, and saves it beside the JSON lines.

    Args:
        path: of the JSON lines.
        results: named tuples of one kind.
        missing: a cell's text in place of None.
        digits: the format of floats.
    """
    text = "\n".join(table(results, missing, digits))
    print(text)
    files.write_text(path.with_suffix(".md"), text + "\n")
    print(path)
    print(path.with_suffix(".md"))


def table(
    results: Sequence[Any], missing: str = "not finite", digits: str = ".3f"
) -> Iterator[str]:
    """A markdown table with a line for each result."""

    def cell(value: Any) -> str:
        if value is None:
            return missing
        return f"{value:{digits}}" if isinstance(value, float) else str(value)

    rows = [[name.replace("_", " ") for name in results[0]._fields]]
    rows += [[cell(value) for value in result] for result in results]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield f"| {' | '.join(cells)} |"
