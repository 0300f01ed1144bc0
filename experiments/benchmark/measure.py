"""Seconds of runs that take turns in one process, and their ratios."""

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.runs import progress

PATIENCE = 5.0  # seconds between lines of progress
Run = Callable[[], Any]


class Figure(NamedTuple):
    """A row of the table.

    Attributes:
        kind: such as "train" or "sample".
        subject: the model that is measured.
        name: the part of it that is measured, such as a sampler.
        ratio: to the parts or to the machine's peak, by the kind.
        seconds: medians of the runs that took turns.
        repeats: rounds.
        details: further numbers, such as the network evaluations.
    """

    kind: str
    subject: str
    name: str
    ratio: float
    seconds: dict[str, float]
    repeats: int
    details: dict[str, Any]


Times = dict[str, list[float]]
"""Seconds of each run by its name; the k-th ones belong to the same round."""


def working(title: str, n_runs: int | None = None) -> AbstractContextManager[Any]:
    """Shows what is measured, and the run of how many; no silence is longer than PATIENCE."""
    return progress.working(title, n_runs, "run", every=PATIENCE)


def in_turns(
    title: str,
    runs: Mapping[str, Run],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Times:
    """Runs everything once in each of `repeats` rounds; XLA must have compiled it before."""
    times: Times = {name: [] for name in runs}
    with working(f"{title}: timing", repeats * len(runs)) as shown:
        for name, run in list(runs.items()) * repeats:
            begun = clock()
            jax.block_until_ready(run())
            times[name].append(clock() - begun)
            shown.update()
    return times


def compiled(title: str, *runs: Run) -> None:
    """Runs everything once, so that it is compiled when it is timed."""
    with working(f"{title}: compiling", len(runs)) as shown:
        for run in runs:
            jax.block_until_ready(run())
            shown.update()


def chained(call: Callable[[Any], Any], x: Any, n: int) -> Run:
    """A run of n calls, each of the result of the last: none is waited for, none overlap."""

    def all_calls() -> Any:
        last = x
        for _ in range(n):
            last = call(last)
        return last

    return all_calls


def ratio(times: Times, whole: str, parts: Iterable[str]) -> float:
    """The median over the rounds of the seconds of `whole` divided by the sum over `parts`."""
    return float(np.median(np.divide(times[whole], np.sum([times[part] for part in parts], 0))))


def medians(times: Times) -> dict[str, float]:
    """The median seconds of each run."""
    return {name: float(np.median(seconds)) for name, seconds in times.items()}


def over_parts(
    kind: str,
    subject: str,
    name: str,
    whole: Run,
    parts: dict[str, tuple[Run, int]],
    repeats: int,
) -> Figure:
    """The figure of a run against its parts: by name, a run and the number of calls in it."""
    runs = {"whole": whole, **{part: run for part, (run, _) in parts.items()}}
    title = f"{kind} {subject} {name}"
    compiled(title, *runs.values())
    times = in_turns(title, runs, repeats)
    numbers: dict[str, Any] = {f"calls of {part}": n for part, (_, n) in parts.items()}
    whole_to_parts = ratio(times, "whole", parts)
    return Figure(kind, subject, name, whole_to_parts, medians(times), repeats, numbers)
