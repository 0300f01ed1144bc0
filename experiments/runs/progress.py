"""Progress of long computations: a bar on a terminal, lines elsewhere, silence for short ones."""

import logging
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, TypeVar

from tqdm import tqdm

from experiments.runs import hosts

LOG = logging.getLogger(__name__)
QUIET_FOR = 2.0  # seconds before anything is shown
LINES_AFTER = 5.0  # seconds before the first line where there is no terminal
LINE_EVERY = 30.0  # seconds between lines
T = TypeVar("T")


def on_terminal() -> bool:
    """True if a person watches this process on a terminal."""
    return sys.stderr.isatty() and hosts.is_first()


def track(
    items: Iterable[T], title: str, unit: str = "batch", total: int | None = None
) -> Iterator[T]:
    """Yields the items; shows how many are done, of how many, and the time left.

    An empty title shows nothing. `total` is the number of items that have no length.
    """
    if not title:
        yield from items
        return
    total = len(items) if isinstance(items, Sized) else total
    with working(title, total, unit) as bar:
        for item in items:
            yield item
            bar.update()


@contextmanager
def working(
    title: str, total: int | None = None, unit: str = "it", every: float | None = None
) -> Iterator[Any]:
    """Shows that something works, also while Python waits for a compiler; update() counts on.

    The display is refreshed by a thread: the first item may take minutes, as XLA compiles. `every`
    is the number of seconds between lines; None: LINE_EVERY.
    """
    bar = tqdm(
        total=total, desc=title, unit=unit, leave=False, disable=not on_terminal(), delay=QUIET_FOR
    )
    counted = _Counter(bar)
    done = threading.Event()
    show = _refresh if on_terminal() else _lines
    about = counted, title, total, unit, every or LINE_EVERY, done
    thread = threading.Thread(target=show, args=about, daemon=True)
    thread.start()
    try:
        yield counted
    finally:
        done.set()
        thread.join()
        bar.close()


class _Counter:
    """Counts the items that are done, with or without a visible bar."""

    def __init__(self, bar: tqdm):
        self.n, self.bar = 0, bar

    def update(self, n: int = 1) -> None:
        """Counts n more items."""
        self.n += n
        self.bar.update(n)


def _refresh(counted: _Counter, *about: Any) -> None:
    done = about[-1]
    if not done.wait(QUIET_FOR):
        while not done.wait(0.5):
            counted.bar.refresh()


def _lines(
    counted: _Counter, title: str, total: int | None, unit: str, every: float, done: threading.Event
) -> None:
    if not hosts.is_first():
        return
    start, pause = time.monotonic(), LINES_AFTER
    while not done.wait(pause):
        seconds, pause = time.monotonic() - start, every
        about = f"{seconds:.0f} s"
        if total and counted.n:
            left = time.gmtime(seconds / counted.n * (total - counted.n))
            about += f", time left {time.strftime('%H:%M:%S', left)}"
        how_far = f"{unit} {counted.n} of {total}, " if total and total > 1 else ""
        LOG.info("%s: %s%s", title, how_far, about)
