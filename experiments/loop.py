"""The training loop: any step function, watched, stopped by signals, saved on the way."""

import logging
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from experiments import workdir as workdirs
from experiments.checkpoint import Checkpoints
from models.config import Config

LOG = logging.getLogger(__name__)
IN_FLIGHT = 2  # steps that may run before their metrics are read


def fit(
    training: Config,
    train_step: Callable[..., tuple[Any, dict[str, jax.Array]]],
    state: Any,
    batches: Iterator[tuple],
    checkpoints: Checkpoints,
    workdir: Path,
    snapshot: Callable[[int, Any], None],
) -> tuple[Any, bool]:
    """Repeats state, metrics = train_step(state, *batch) up to step training.n_iters.

    Args:
        training: config.training; says how often to log, save and call `snapshot(step, state)`.
        train_step: compiled.
        state: has `step`, at which the loop starts.
        batches: tuples, the first for step state.step + 1.
        checkpoints: where to save.
        workdir: where metrics.jsonl is.
        snapshot: pictures, say; not called after the last step.

    Returns:
        The last state, and whether a signal stopped the loop.

    Raises:
        FloatingPointError: a metric is not finite; names the step.
    """
    start = int(state.step)
    pending: deque[tuple[int, dict[str, jax.Array]]] = deque()
    rows: list[dict[str, float]] = []  # of the steps since the last log

    with (
        closing(workdirs.Metrics(workdir, start)) as metrics,
        _progress(start, training.n_iters, training.batch_size) as progress,
        _stop_signals() as stop,
    ):

        def settle(in_flight: int) -> None:
            """Reads the metrics of all but the last steps: so the loop runs ahead of the device."""
            while len(pending) > in_flight:
                step, values = pending.popleft()
                rows.append(_finite(step, values))
                progress(step)
                if step % training.log_freq == 0 or step == training.n_iters:
                    means = {name: float(np.mean([row[name] for row in rows])) for name in values}
                    rows.clear()
                    metrics.write(step, **means)
                    progress(step, means)

        for step in range(start + 1, training.n_iters + 1):
            state, values = train_step(state, *next(batches))
            pending.append((step, values))
            settle(IN_FLIGHT)
            if stop.is_set():
                break
            if step % training.snapshot_freq_for_preemption == 0:
                settle(0)  # so that no checkpoint holds a state that went wrong
                checkpoints.save(step, state)
            if step % training.snapshot_freq == 0 and step < training.n_iters:
                settle(0)
                snapshot(step, state)
        settle(0)
    return state, stop.is_set()


def _finite(step: int, metrics: dict[str, jax.Array]) -> dict[str, float]:
    values = {name: float(value) for name, value in metrics.items()}
    bad = [f"{name} is {value}" for name, value in values.items() if not np.isfinite(value)]
    if bad:
        raise FloatingPointError(
            f"{', '.join(bad)} at step {step}: stopped; the last checkpoint is good. Lower "
            "config.optim.lr, or clip more (config.optim.grad_clip)"
        )
    return values


@contextmanager
def _progress(start: int, total: int, batch_size: int) -> Iterator[Callable[..., None]]:
    """show(step) each step, show(step, means) with the metrics: a bar for a person, lines else."""
    watched = sys.stderr.isatty()
    last_step, last_time = start, time.perf_counter()
    with tqdm(initial=start, total=total, unit="step", disable=not watched) as bar:

        def show(step: int, means: dict[str, float] | None = None) -> None:
            nonlocal last_step, last_time
            bar.update(step - bar.n)
            if means is None:
                return
            now = time.perf_counter()
            seconds = (now - last_time) / (step - last_step)
            last_step, last_time = step, now
            shown = f"loss {means['loss']:.4g}, {batch_size / seconds:.0f} images/s"
            bar.set_postfix_str(shown)
            if not watched:
                left = time.strftime("%H:%M:%S", time.gmtime(seconds * (total - step)))
                LOG.info("step %d of %d: %s, time left %s", step, total, shown, left)

        yield show


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that SIGINT or SIGTERM sets; a second signal acts as it did before."""
    event = threading.Event()
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def ask(number: int, frame: Any) -> None:
        LOG.info("%s: saving", signal.Signals(number).name)
        event.set()
        restore()

    for number in previous:
        signal.signal(number, ask)
    try:
        yield event
    finally:
        restore()
