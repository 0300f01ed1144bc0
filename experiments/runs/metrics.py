"""Metrics of a run: every value goes to each sink of SINKS that is asked for."""

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from experiments.runs import files, hosts
from sde_lib.checks import check_name

LOG = logging.getLogger(__name__)
LINES = ("metrics.jsonl", "timing.jsonl", "kept.jsonl")
Values = Mapping[str, float]


class Sink(Protocol):
    """A place for metrics."""

    def write(self, step: int, values: Values, kind: str) -> None:
        """Adds values of a step; kind is "metrics", a function of config and seed, or "timing"."""
        ...

    def picture(self, step: int, path: Path) -> None:
        """Adds a picture that was saved at path."""
        ...

    def close(self) -> None:
        """Writes what waits."""
        ...


class Lines:
    """metrics.jsonl and timing.jsonl: a JSON object a line, each with `step`."""

    def __init__(self, folder: Path, step: int):
        for name in LINES:
            lines = [line for line in files.read_lines(folder / name) if line["step"] <= step]
            files.write_lines(folder / name, lines)
        self._files = {name: _Appended(folder / name) for name in LINES}

    def write(self, step: int, values: Values, kind: str) -> None:
        self.add(f"{kind}.jsonl", {"step": step, **values})

    def picture(self, step: int, path: Path) -> None:
        """A picture is a file already."""

    def close(self) -> None:
        for file in self._files.values():
            file.add()

    def add(self, name: str, line: dict[str, Any]) -> None:
        """Adds a line, and those for which there was no room before."""
        self._files[name].add(f"{json.dumps(line)}\n".encode())


class TensorBoard:
    """TensorBoard events; names are grouped as train/, held_out/, quality/ and timing/."""

    def __init__(self, folder: Path, step: int):
        with _without_torch():
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore

        # SummaryWriter's thread would die of a full disk, and the next events wait for it.
        self._events, self._event = EventsWriter(str(folder / "events")), Event
        start = SessionLog(status=SessionLog.START)  # hides the events after this step
        self._events.write_event(Event(step=step + 1, session_log=start))

    def write(self, step: int, values: Values, kind: str) -> None:
        from tensorboardX.summary import scalar

        with _warning(f"events of step {step}"):
            for name, value in values.items():
                self._add(step, scalar(_grouped(name, kind), value))
            self._events.flush()

    def picture(self, step: int, path: Path) -> None:
        from tensorboardX.summary import image

        with _warning(f"the picture of step {step}"), Image.open(path) as opened:
            pixels = np.asarray(opened.convert("RGB"))
            self._add(step, image(f"pictures/{path.stem.split('_')[0]}", pixels, dataformats="HWC"))
            self._events.flush()

    def close(self) -> None:
        with _warning("the last events"):
            self._events.close()

    def _add(self, step: int, summary: Any) -> None:
        self._events.write_event(self._event(wall_time=time.time(), step=step, summary=summary))


@contextmanager
def _without_torch() -> Iterator[None]:
    """Hides PyTorch from tensorboardX, which does not need it and imports it where it is installed.

    That would take seconds, and end the run where the installation is broken.
    """
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # pyright: ignore
    try:
        yield
    finally:
        if hidden:
            del sys.modules["torch"]


def _grouped(name: str, kind: str) -> str:
    """The name of a metric in TensorBoard, such as "held_out/loss" for "eval_loss"."""
    for prefix, group in (("eval_", "held_out"), ("quality_", "quality")):
        if name.startswith(prefix):
            return f"{group}/{name.removeprefix(prefix)}"
    return f"{'timing' if kind == 'timing' else 'train'}/{name}"


class Wandb:
    """Weights & Biases (pip install -e '.[wandb]'); the run is named after its folder."""

    def __init__(self, folder: Path, step: int):
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ModuleNotFoundError as error:
            raise ValueError(
                "config.training.sinks has 'wandb', which is not installed: pip install -e "
                "'.[wandb]', or leave it out"
            ) from error
        config = files.read_json(folder / "config.json")
        options = {"id": folder.name, "resume": "allow", "config": config}
        self._wandb, self._run = wandb, wandb.init(dir=folder, name=folder.name, **options)

    def write(self, step: int, values: Values, kind: str) -> None:
        self._run.log({f"{kind}/{name}": value for name, value in values.items()}, step=step)

    def picture(self, step: int, path: Path) -> None:
        self._run.log({path.stem.split("_")[0]: self._wandb.Image(str(path))}, step=step)

    def close(self) -> None:
        self._run.finish()


SINKS: dict[str, Callable[[Path, int], Sink]] = {
    "jsonl": Lines,
    "tensorboard": TensorBoard,
    "wandb": Wandb,
}


class Metrics:
    """The metrics of a run from a step on; later lines, of a run that was cut off, are dropped.

    metrics.jsonl, which is always written, is a function of config and seed. Times are kept apart.
    Lines for which there is no room on the disk wait for the next ones.

    Args:
        folder: the run's folder.
        step: the step that the run continues from.
        sinks: names in SINKS.

    Attributes:
        kept: the values that were last kept for `step`.
    """

    def __init__(self, folder: Path, step: int, sinks: Sequence[str] = ("jsonl", "tensorboard")):
        kept = [line for line in files.read_lines(folder / "kept.jsonl") if line["step"] == step]
        self.kept: dict[str, Any] = kept[-1] if kept else {}
        hosts.everyone(True)  # all have read it
        self._lines, self._sinks = None, []
        if hosts.is_first():
            self._lines = Lines(folder, step)
            others = [SINKS[name](folder, step) for name in sinks if name != "jsonl"]
            self._sinks: list[Sink] = [self._lines, *others]

    def write(self, step: int, values: Values, kind: str = "metrics") -> None:
        """Adds values of a step to every sink."""
        for sink in self._sinks if values else ():
            with _going_on(sink, f"values of step {step}"):
                sink.write(step, values, kind)

    def picture(self, step: int, path: Path) -> None:
        """Adds a saved picture to every sink that can show it."""
        for sink in self._sinks:
            with _going_on(sink, f"the picture of step {step}"):
                sink.picture(step, path)

    def keep(self, step: int, values: dict[str, Any]) -> None:
        """Keeps values for a run that continues from this step."""
        if self._lines is not None:
            self._lines.add("kept.jsonl", {"step": step, **values})

    def close(self) -> None:
        """Writes what waits, and closes the sinks."""
        for sink in self._sinks:
            with _going_on(sink, "the last values"):
                sink.close()


def check_sinks(sinks: Sequence[str]) -> None:
    """Raises ValueError for an unknown sink."""
    for name in sinks:
        check_name("config.training.sinks", name, SINKS)


@contextmanager
def _going_on(sink: Sink, what: str) -> Iterator[None]:
    """Turns the failure of a sink beside the run's own files, such as a server, into a warning."""
    try:
        yield
    except Exception as error:
        if isinstance(sink, Lines):
            raise
        LOG.warning("%s has not got %s: %s", type(sink).__name__, what, error)


@contextmanager
def _warning(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        LOG.warning("%s cannot be written yet: %s", what, error)


class _Appended:
    """A file that grows; what there is no room for waits for the next addition."""

    def __init__(self, path: Path):
        self._path, self._waiting = path, b""

    def add(self, data: bytes = b"") -> None:
        """Adds all that waits, or nothing."""
        self._waiting += data
        with _warning(f"the last lines of {self._path.name}"):
            self._path.touch()
            size = self._path.stat().st_size
            try:
                with self._path.open("ab") as file:
                    file.write(self._waiting)
            except OSError:
                os.truncate(self._path, size)
                raise
            self._waiting = b""
