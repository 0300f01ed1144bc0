"""Times of what is run in turns, and what they come to."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

Run = Callable[[], Any]


class Figure(NamedTuple):
    """A line of the table.

    Attributes:
        kind: "train", "sample" and so on.
        subject: what is measured.
        name: of what it does.
        ratio: over its parts or the machine's peak, as the kind says.
        seconds: medians of what was run in turns.
        repeats: how often.
        details: what else is known, such as the network evaluations.
    """

    kind: str
    subject: str
    name: str
    ratio: float
    seconds: dict[str, float]
    repeats: int
    details: dict[str, Any]


Times = dict[str, list[float]]
"""Seconds of each run of everything by its name: the k-th ones were run in one round."""


def in_turns(
    runs: Mapping[str, Run], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> Times:
    """Runs everything once in each of `repeats` rounds, after what XLA compiles."""
    times: Times = {name: [] for name in runs}
    for name, run in list(runs.items()) * repeats:
        begun = clock()
        jax.block_until_ready(run())
        times[name].append(clock() - begun)
    return times


def compiled(*runs: Run) -> None:
    """Runs each once: what is then timed is compiled."""
    for run in runs:
        jax.block_until_ready(run())


def chained(call: Callable[[Any], Any], x: Any, n: int) -> Run:
    """n calls, each of what the last one gave: launched without waiting, and one at a time."""

    def all_calls() -> Any:
        last = x
        for _ in range(n):
            last = call(last)
        return last

    return all_calls


def ratio(times: Times, whole: str, parts: Iterable[str]) -> float:
    """The median over the rounds of the time of the whole over that of its parts."""
    return float(np.median(np.divide(times[whole], np.sum([times[part] for part in parts], 0))))


def medians(times: Times) -> dict[str, float]:
    return {name: float(np.median(seconds)) for name, seconds in times.items()}
