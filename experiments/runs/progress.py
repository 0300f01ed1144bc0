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
_SHOWN: list["_Counter"] = []  # what works now; the last one is the innermost


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
    counted = _Counter(bar, total)
    done = threading.Event()
    show = _refresh if on_terminal() else _lines
    about = counted, title, unit, every or LINE_EVERY, done
    thread = threading.Thread(target=show, args=about, daemon=True)
    thread.start()
    _SHOWN.append(counted)
    try:
        yield counted
    finally:
        _SHOWN.remove(counted)
        done.set()
        thread.join()
        bar.close()


def show_share(share: float) -> None:
    """Shows that this share of the item in work is done, of what was last said to work."""
    if _SHOWN:
        _SHOWN[-1].show_share(share)


class _Counter:
    """Counts the items that are done, with or without a visible bar.

    Attributes:
        n: number of items that are done.
        shown: the same with the share of the item in work. It never falls: an item may take
            several computations, and the next one may start before this one is counted.
        total: number of items, if known.
    """

    def __init__(self, bar: tqdm, total: int | None):
        self.n, self.shown, self.total, self.bar = 0, 0.0, total, bar

    def update(self, n: int = 1) -> None:
        """Counts n more items."""
        self.n += n
        self._show(self.n)

    def show_share(self, share: float) -> None:
        """Shows the share of the item in work that is done."""
        self.total = self.bar.total = self.total or 1
        self._show(self.n + share)

    def _show(self, n: float) -> None:
        if n > self.shown:
            self.shown = self.bar.n = round(n, 2)
            self.bar.update(0)


def _refresh(counted: _Counter, *about: Any) -> None:
    done = about[-1]
    if not done.wait(QUIET_FOR):
        while not done.wait(0.5):
            counted.bar.refresh()


def _lines(counted: _Counter, title: str, unit: str, every: float, done: threading.Event) -> None:
    if not hosts.is_first():
        return
    start, pause = time.monotonic(), LINES_AFTER
    while not done.wait(pause):
        seconds, pause = time.monotonic() - start, every
        about, n, total = f"{seconds:.0f} s", counted.shown, counted.total
        if total and n:
            left = time.gmtime(seconds / n * max(total - n, 0))
            about += f", time left {time.strftime('%H:%M:%S', left)}"
        if total and total > 1:
            about = f"{unit} {n:g} of {total}, {about}"
        elif total and n:
            about = f"{n:.0%}, {about}"
        LOG.info("%s: %s", title, about)
