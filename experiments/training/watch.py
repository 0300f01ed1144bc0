"""Watching over a loop: how long its steps take, and whether it stands still."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

LOG = logging.getLogger(__name__)


class Clock:
    """Times of a loop's steps, and how much of each went by in waiting for data."""

    def __init__(self):
        self._last = time.perf_counter()
        self._steps: list[float] = []
        self._waiting = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what waits for data."""
        begun = time.perf_counter()
        yield
        self._waiting += time.perf_counter() - begun

    def restart(self) -> None:
        """What has happened since the last step is not part of the next one."""
        self._last = time.perf_counter()

    def step(self, n: int = 1) -> None:
        """A step is done, or n at once."""
        now = time.perf_counter()
        self._steps += n * [(now - self._last) / n]
        self._last = now

    def read(self) -> dict[str, float]:
        """Seconds a step since the last reading: mean, percentiles, longest, and wait for data."""
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
    """begin(what): warns, again and again, of anything begun that takes longer than `seconds`."""
    begun: queue.Queue[str | None] = queue.Queue()

    def watch() -> None:
        what, since = begun.get(), time.monotonic()
        while what is not None:
            try:
                what, since = begun.get(timeout=seconds), time.monotonic()
            except queue.Empty:
                LOG.warning("%s: %.0f s and no end", what, time.monotonic() - since)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield begun.put
    finally:
        begun.put(None)
        thread.join()
