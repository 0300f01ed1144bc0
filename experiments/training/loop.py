"""The training loop: any step function, watched, stopped by signals, saved on the way."""

import logging
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from experiments.runs import hosts
from experiments.runs import workdir as workdirs
from experiments.training import watch
from experiments.training.checkpoint import Checkpoints
from models.config import Config

LOG = logging.getLogger(__name__)
IN_FLIGHT = 2  # programs that may run before their metrics are read
Periodic = tuple[int, Callable[[int, Any], dict[str, float] | None]]
"""A period, and what to do at the steps that it divides: (step, state) -> metrics, or None."""


def fit(
    training: Config,
    program: Callable[..., tuple[Any, dict[str, jax.Array]]],
    state: Any,
    batches: Iterator[tuple],
    checkpoints: Checkpoints,
    workdir: Path,
    periodic: Sequence[Periodic] = (),
    stop: Callable[[int], bool] = lambda n_programs: False,
) -> tuple[Any, bool]:
    """Repeats state, metrics = program(state, *batch) up to step training.n_iters.

    Args:
        training: config.training; says how often to log and save, and when to give up.
        program: compiled; one step, or as many as its metrics are long. A step leaves the state as
            it is where a metric is not finite.
        state: has `step`, at which the loop starts.
        batches: tuples, the first for step state.step + 1.
        checkpoints: where to save.
        workdir: where metrics.jsonl is.
        periodic: evaluations, say, and pictures. Their periods, and those of `training`, are due
            at the ends of programs alone.
        stop: of the number of programs so far, whether to end; what is due then is done when the
            run goes on.

    Returns:
        The last state, and whether `stop` ended the loop.

    Raises:
        FloatingPointError: training.max_skipped steps in a row had no finite metrics; names them.
    """
    start, stopped = int(state.step), False
    clock = watch.Clock()
    pending: deque[tuple[int, dict[str, jax.Array]]] = deque()

    with (
        closing(workdirs.Metrics(workdir, start)) as metrics,
        _progress(start, training.n_iters, training.batch_size) as progress,
        watch.stall_warnings(training.stall_seconds * training.steps_per_jit) as begin,
    ):
        journal = _Journal(training, metrics, clock, progress)

        def act(step: int) -> None:
            """What is due after a step."""
            for period, do in periodic:
                if step % period == 0:
                    settle(0)
                    begin(f"step {step}: {do.__name__}")
                    _survive(do, step, state, metrics)
                    clock.restart()

        def settle(in_flight: int) -> None:
            """Reads the metrics of all but the last programs: so the loop runs ahead of the device.

            They are on their way since these were started.
            """
            while len(pending) > in_flight:
                first, values = pending.popleft()
                begin(f"step {first}: computing")
                journal.add(first, jax.device_get(values))

        try:
            if metrics.kept.get("stopped"):
                act(start)
                journal.keep(start, stopped=False)  # that is done
            step, n_programs = start, 0
            while step < training.n_iters:
                begin(f"step {step + 1}: waiting for data")
                with clock.waiting():
                    batch = next(batches)
                begin(f"step {step + 1}: starting")
                state, values = program(state, *batch)
                jax.tree.map(lambda leaf: leaf.copy_to_host_async(), values)
                pending.append((step + 1, values))
                step, n_programs = step + next(iter(values.values())).size, n_programs + 1
                settle(IN_FLIGHT)
                stopped = stop(n_programs)
                if stopped:
                    settle(0)
                    journal.keep(step, stopped)
                    break
                act(step)
                if step % training.snapshot_freq_for_preemption == 0:
                    settle(0)
                    journal.keep(step, stopped)
                    begin(f"step {step}: saving")
                    checkpoints.save(step, state)
                    clock.restart()
            settle(0)
        except FloatingPointError:
            checkpoints.save(int(state.step), state)
            raise
    return state, stopped


def _survive(do: Callable, step: int, state: Any, metrics: workdirs.Metrics) -> None:
    """do(step, state), whose failure is no reason to end the training."""
    try:
        metrics.write(step, do(step, state) or {})
    except (OSError, FloatingPointError) as error:  # a full disk; samples of a bad model
        LOG.warning("step %d: no %s: %s", step, do.__name__, error)


class _Journal:
    """What the steps' metrics come to: lines every log_freq steps, and an end if all are bad."""

    def __init__(self, training: Config, metrics: workdirs.Metrics, clock: watch.Clock, progress):
        self._training, self._metrics = training, metrics
        self._clock, self._progress = clock, progress
        self._rows: list[dict[str, float]] = metrics.kept.get("rows", [])  # since the last line
        self._skipped: list[int] = []  # the last steps, as far as they were skipped

    def add(self, first: int, values: dict[str, np.ndarray]) -> None:
        """The metrics of a program's steps, from step `first` on."""
        table = np.stack(list(values.values()), axis=-1).reshape(-1, len(values))
        rows = [dict(zip(values, row, strict=True)) for row in table.tolist()]
        self._clock.step(len(rows))
        for step, row in enumerate(rows, first):
            self._rows.append(row)
            if _is_finite(row):
                self._skipped.clear()
            else:
                self._skip(step, row)
        step = first + len(rows) - 1
        self._progress(step)
        if step % self._training.log_freq == 0 or step == self._training.n_iters:
            self._log(step)

    def keep(self, step: int, stopped: bool) -> None:
        """For a run that goes on from the checkpoint of this step: its next line is the same."""
        self._metrics.keep(step, {"rows": self._rows, "stopped": stopped})

    def _skip(self, step: int, row: dict[str, float]) -> None:
        self._skipped.append(step)
        if hosts.is_first():
            LOG.warning("step %d is skipped: its metrics are %s", step, row)
        if len(self._skipped) == self._training.max_skipped:
            raise FloatingPointError(
                f"no finite loss and gradient from step {self._skipped[0]} to {step}: stopped. "
                "These steps have left the weights as they were, and they are saved. Lower "
                "config.optim.lr, or clip more (config.optim.grad_clip)"
            )

    def _log(self, step: int) -> None:
        good = [row for row in self._rows if _is_finite(row)]
        names = self._rows[0] if good else ()
        means = {name: float(np.mean([row[name] for row in good])) for name in names}
        means["skipped"] = len(self._rows) - len(good)
        self._rows.clear()
        times = self._clock.read() | {"devices": jax.device_count()}
        self._metrics.write(step, means)
        self._metrics.write(step, times, "timing.jsonl")
        self._progress(step, means, times["seconds"])


def _is_finite(row: dict[str, float]) -> bool:
    return bool(np.isfinite(list(row.values())).all())


@contextmanager
def _progress(start: int, total: int, batch_size: int) -> Iterator[Callable[..., None]]:
    """show(step) each step, show(step, means, seconds a step) with the metrics.

    A bar for a person, lines else.
    """
    watched = sys.stderr.isatty() and hosts.is_first()
    with tqdm(initial=start, total=total, unit="step", disable=not watched) as bar:

        def show(step: int, means: dict[str, float] | None = None, seconds: float = 0.0) -> None:
            bar.update(step - bar.n)
            if means is None:
                return
            loss = means.get("loss", float("nan"))
            shown = f"loss {loss:.4g}, {batch_size / seconds:.0f} images/s"
            bar.set_postfix_str(shown)
            if not watched:
                left = time.strftime("%H:%M:%S", time.gmtime(seconds * (total - step)))
                LOG.info("step %d of %d: %s, time left %s", step, total, shown, left)

        yield show


@contextmanager
def stop_signals() -> Iterator[Callable[[int], bool]]:
    """stop(n): whether to save and end after the n-th program, on all hosts after the same.

    A process alone does so upon SIGINT or SIGTERM; a second signal acts as it did before. Several
    do so when one of them has had SIGTERM: JAX tells the others. Afterwards it ends a process.
    """
    if jax.process_count() > 1:
        yield multihost_utils.reached_preemption_sync_point
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # in place of JAX's handler
        return
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
        yield lambda n_programs: event.is_set()
    finally:
        restore()
