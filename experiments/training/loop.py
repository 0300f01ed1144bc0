"""The training loop: it runs any step program, logs, saves, and stops on a signal."""

import logging
import signal
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

from experiments.runs import hosts, progress
from experiments.runs.long import interrupt
from experiments.runs.metrics import Metrics
from experiments.training import watch
from experiments.training.checkpoints import Checkpoints
from experiments.training.options import Training
from experiments.training.state import is_sound

LOG = logging.getLogger(__name__)
IN_FLIGHT = 2  # programs that may run before their metrics are read
SIGNALS = {signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}  # of batch systems too
Periodic = tuple[int, Callable[[int, Any], dict[str, float] | list[Path]]]
"""A period in steps, and a function (step, state) -> metrics, or paths of pictures."""


class DivergedError(FloatingPointError):
    """Too many steps in a row without finite metrics, which all processes see alike."""


def fit(
    training: Training,
    program: Callable[..., tuple[Any, dict[str, jax.Array]]],
    state: Any,
    batches: Iterator[tuple],
    checkpoints: Checkpoints,
    folder: Path,
    periodic: Sequence[Periodic] = (),
    stop: Callable[[int], bool] = lambda n_programs: False,
) -> tuple[Any, bool]:
    """Repeats state, metrics = program(state, *batch) up to step training.n_iters.

    Args:
        training: how often to log and save, and when to give up.
        program: compiled; it makes as many steps as its metrics are long. A step with a metric
            that is not finite leaves the state as it is.
        state: has `step`, at which the loop starts.
        batches: tuples, the first for step state.step + 1.
        checkpoints: for saving the state.
        folder: the run's folder.
        periodic: evaluations and pictures, made at the ends of programs.
        stop: a function of the number of programs so far: True ends the loop. The evaluations of
            that step are made when the run continues.

    Returns:
        The last state, and whether `stop` ended the loop.

    Raises:
        DivergedError: training.max_skipped steps in a row had no finite metrics. This and any other
            error comes once the state is saved.
    """
    step, stopped, n_programs = int(state.step), False, 0
    begun = acted = step  # acted: the last step whose evaluations and pictures were made
    with (
        closing(Metrics(folder, step, training.sinks)) as metrics,
        _progress(step, training.n_iters, training.batch_size) as show,
        watch.stall_warnings(training.stall_seconds * training.steps_per_jit) as begin,
    ):
        journal = _Journal(training, metrics, watch.Clock(), show, begin)
        try:
            if metrics.kept.get("stopped"):
                journal.act(periodic, step, state)
                journal.keep(step, due=False)
            while step < training.n_iters:
                batch = journal.next(batches, step + 1)
                state, values = program(state, *batch)
                step, n_programs = step + journal.add(step + 1, values), n_programs + 1
                if stopped := stop(n_programs):
                    break
                journal.act(periodic, step, state)
                acted = step
                if step % training.snapshot_freq_for_preemption == 0:
                    journal.save(checkpoints, step, state)
            journal.settle()
            journal.keep(step, due=stopped)
        except Exception as error:
            if _is_left(state, begun, error):
                journal.save(checkpoints, int(state.step), state, due=int(state.step) != acted)
            raise
    return state, stopped


def _is_left(state: Any, begun: int, error: Exception) -> bool:
    """True if a training that an error ends can save its state, which is newer than step `begun`.

    Several processes save together, so they do it only after an error that all of them meet.
    """
    if jax.process_count() > 1:
        return isinstance(error, DivergedError)
    if not is_sound(state):
        LOG.warning("the failed step took the state along: only the last checkpoint is left")
        return False
    if newer := int(state.step) > begun:
        LOG.warning("saving step %d, where the next start goes on", int(state.step))
    return newer


class _Journal:
    """Collects the steps' metrics: a line every log_freq steps, an error if too many are bad.

    The metrics of the last programs are not read, so that the loop runs ahead of the device.
    """

    def __init__(self, training: Training, metrics: Metrics, clock: watch.Clock, show, begin):
        self._training, self._metrics = training, metrics
        self._clock, self._show, self._begin = clock, show, begin
        self._pending: deque[tuple[int, dict[str, jax.Array]]] = deque()  # programs in flight
        self._rows: list[dict[str, float]] = metrics.kept.get("rows", [])  # since the last line
        self._skipped: list[int] = []  # the last steps, as far as they were skipped
        self._failure = ""

    def next(self, batches: Iterator[tuple], step: int) -> tuple:
        """The batch for a program whose first step is `step`."""
        self._begin(f"step {step}: waiting for data")
        with self._clock.waiting():
            batch = next(batches)
        self._begin(f"step {step}: starting")
        return batch

    def act(self, periodic: Sequence[Periodic], step: int, state: Any) -> None:
        """Makes the evaluations and pictures that are due after a step."""
        for period, do in periodic:
            if step % period:
                continue
            self.settle()
            self._begin(f"step {step}: {do.__name__}")
            with watch.surviving(f"step {step}: no {do.__name__}"):
                result = do(step, state)
                if isinstance(result, dict):
                    self._metrics.write(step, result)
                else:
                    for path in result:
                        self._metrics.picture(step, path)
            self._clock.restart()

    def save(self, checkpoints: Checkpoints, step: int, state: Any, due: bool = False) -> None:
        """Starts to save the state after a step, with what `keep` keeps."""
        self.keep(step, due)
        self._begin(f"step {step}: saving")
        checkpoints.save(step, state)
        self._clock.restart()

    def add(self, first: int, values: dict[str, jax.Array]) -> int:
        """Adds the metrics of a program whose first step is `first`; returns its number of steps.

        They are copied to the host from now on, and read later.
        """
        jax.tree.map(lambda leaf: leaf.copy_to_host_async(), values)
        self._pending.append((first, values))
        self.settle(IN_FLIGHT)
        return next(iter(values.values())).size

    def settle(self, in_flight: int = 0) -> None:
        """Reads the metrics of all programs but the last `in_flight`.

        Raises:
            DivergedError: training.max_skipped steps in a row had no finite metrics.
        """
        self._drain(in_flight)
        if self._failure:
            raise DivergedError(self._failure)

    def keep(self, step: int, due: bool) -> None:
        """Keeps the rows, so that the next line of a run that continues is the same.

        With `due`, the evaluations of this step are to be made then.
        """
        self._drain()
        self._metrics.keep(step, {"rows": self._rows, "stopped": due})

    def _drain(self, in_flight: int = 0) -> None:
        while len(self._pending) > in_flight:
            first, values = self._pending.popleft()
            self._begin(f"step {first}: computing")
            self._read(first, jax.device_get(values))

    def _read(self, first: int, values: dict[str, np.ndarray]) -> None:
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
        self._show(step)
        if step % self._training.log_freq == 0 or step == self._training.n_iters:
            self._log(step)

    def _skip(self, step: int, row: dict[str, float]) -> None:
        self._skipped.append(step)
        if hosts.is_first():
            LOG.warning("step %d is skipped: its metrics are %s", step, row)
        if len(self._skipped) == self._training.max_skipped:
            self._failure = (
                f"no finite loss and gradient from step {self._skipped[0]} to {step}: stopped. "
                "These steps have left the weights as they were, and they are saved. Lower "
                "config.optim.lr, or clip more (config.optim.grad_clip), and run the same command "
                "with it to go on"
            )

    def _log(self, step: int) -> None:
        good = [row for row in self._rows if _is_finite(row)]
        names = self._rows[0] if good else ()
        means = {name: float(np.mean([row[name] for row in good])) for name in names}
        means["skipped"] = len(self._rows) - len(good)
        self._rows.clear()
        times = self._clock.read() | {"devices": jax.device_count()}
        self._metrics.write(step, means)
        times["learning_rate"] = float(self._training.optimizer.rate(step))
        self._metrics.write(step, times, "timing")
        self._show(step, means, times["seconds"])


def _is_finite(row: dict[str, float]) -> bool:
    return bool(np.isfinite(list(row.values())).all())


@contextmanager
def _progress(start: int, total: int, batch_size: int) -> Iterator[Callable[..., None]]:
    """Gives show(step), and show(step, means, seconds a step): a bar on a terminal, else lines."""
    watched = progress.on_terminal()
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
    """Gives stop(n): True to save and end after the n-th program, on all hosts after the same one.

    A single process stops upon SIGINT or one of SIGNALS; a second signal acts as it did before.
    Several processes stop when one of them has received one of SIGNALS: JAX tells the others.
    Afterwards SIGTERM ends a process. A SIGHUP that nohup ignores stays ignored.
    """
    alone = jax.process_count() == 1
    numbers = {*SIGNALS, signal.SIGINT} if alone else SIGNALS - {signal.SIGTERM}
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        numbers -= {signal.SIGHUP}
    previous = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    if not alone:
        for number in numbers:
            signal.signal(number, lambda *_: signal.raise_signal(signal.SIGTERM))
        yield multihost_utils.reached_preemption_sync_point
        restore()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # in place of JAX's handler
        return
    event = threading.Event()

    def ask(number: int, frame: Any) -> None:
        LOG.info("%s: saving", signal.Signals(number).name)
        event.set()
        restore()

    for number in previous:
        signal.signal(number, ask)

    def stop(n_programs: int) -> bool:
        interrupt.SAVING.set()  # there is something to save
        return event.is_set()

    try:
        yield stop
    finally:
        interrupt.SAVING.clear()
        restore()
