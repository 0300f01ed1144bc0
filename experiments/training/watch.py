"""Observation of a loop: times of its steps, warnings if it hangs, failures that it survives."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from textwrap import shorten

import numpy as np

from experiments.runs import hosts

LOG = logging.getLogger(__name__)


class Clock:
    """Measures the time of each step of a loop, and the part of it spent waiting for data."""

    def __init__(self):
        self._last = time.perf_counter()
        self._steps: list[float] = []
        self._waiting = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time inside as waiting for data."""
        begun = time.perf_counter()
        yield
        self._waiting += time.perf_counter() - begun

    def restart(self) -> None:
        """Excludes the time since the last step, such as that of an evaluation."""
        self._last = time.perf_counter()

    def step(self, n: int = 1) -> None:
        """Ends a step, or n steps of equal length."""
        now = time.perf_counter()
        self._steps += n * [(now - self._last) / n]
        self._last = now

    def read(self) -> dict[str, float]:
        """Seconds per step since the last reading: mean, percentiles, maximum, wait for data."""
        steps, self._steps = self._steps, []
        waiting, self._waiting = self._waiting, 0.0
        names = ("seconds_p50", "seconds_p95", "seconds_max")
        return {
            "seconds": float(np.mean(steps)),
            **dict(zip(names, np.percentile(steps, (50, 95, 100)).tolist(), strict=True)),
            "seconds_data": waiting / len(steps),
        }


@contextmanager
def stall_warnings(seconds: float) -> Iterator[Callable[[str], None]]:
    """Warns of stages of a loop that take too long.

    Gives a function begin(stage), which names the stage that starts. If no other stage begins
    within `seconds`, a warning names it, and again after the same time.
    """
    begun: queue.Queue[str | None] = queue.Queue()

    def watch() -> None:
        stage, since = begun.get(), time.monotonic()
        while stage is not None:
            try:
                stage, since = begun.get(timeout=seconds), time.monotonic()
            except queue.Empty:
                LOG.warning("%s: not finished after %.0f s", stage, time.monotonic() - since)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield begun.put
    finally:
        begun.put(None)
        thread.join()


@contextmanager
def surviving(what: str, failures: list[Exception] | None = None) -> Iterator[None]:
    """Turns a failure into a warning: pictures and evaluations are no reason to end a training.

    Several processes compute together. If one has left the others in the middle of that, the
    failure is raised, because they would wait for each other forever.

    Args:
        what: names the failure in the warning.
        failures: gets the failure too.
    """
    try:
        yield
    except Exception as error:
        if not hosts.meet():
            raise
        reason = shorten(str(error) or type(error).__name__, 300)
        LOG.warning("%s: %s", what, reason)  # a full disk; samples of a bad model; no memory
        LOG.debug("%s", what, exc_info=True)
        if failures is not None:
            failures.append(error)
    else:
        hosts.meet()
