"""Metrics of a run: every value goes to each sink of SINKS that is asked for."""

import json
import logging
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

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
            files.write_text(folder / name, "".join(json.dumps(line) + "\n" for line in lines))
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
    """TensorBoard events; names are grouped as train/, held_out/, quality/ and timing/.

    The file is written here: the packages for it import PyTorch or TensorFlow wherever one is
    installed, which takes seconds, and ends the run if that installation is broken.
    """

    def __init__(self, folder: Path, step: int):
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
        self._file = _Appended(folder / name)
        self._add(0, _bytes(3, b"brain.Event:2"))
        self._add(step + 1, _bytes(7, _integer(1, 1)))  # a start, which hides later events

    def write(self, step: int, values: Values, kind: str) -> None:
        for name, value in values.items():
            self._add(step, _summary(_grouped(name, kind), _real(2, value, "f")))

    def picture(self, step: int, path: Path) -> None:
        with _warning(f"the picture of step {step}"), Image.open(path) as opened:
            width, height = opened.size
            numbers = height, width, len(opened.getbands())
            pixels = b"".join(_integer(field, n) for field, n in enumerate(numbers, 1))
            pixels += _bytes(4, path.read_bytes())
            self._add(step, _summary(f"pictures/{path.stem.split('_')[0]}", _bytes(4, pixels)))

    def close(self) -> None:
        self._file.add()

    def _add(self, step: int, what: bytes) -> None:
        """Adds an Event: a record of its length and its bytes, each with a checksum."""
        event = _real(1, time.time(), "d") + _integer(2, step) + what
        parts = struct.pack("<Q", len(event)), event
        self._file.add(b"".join(part + struct.pack("<I", _checksum(part)) for part in parts))


def _summary(name: str, value: bytes) -> bytes:
    """The field of an Event that holds one value of that name."""
    return _bytes(5, _bytes(1, _bytes(1, name.encode()) + value))


def _integer(field: int, value: int) -> bytes:
    """A field of a protocol buffer: an integer >= 0."""
    return bytes([field << 3]) + _varint(value)


def _real(field: int, value: float, kind: Literal["d", "f"]) -> bytes:
    """A field of a protocol buffer: a number of 64 (d) or 32 bits (f)."""
    wire = {"d": 1, "f": 5}[kind]
    return bytes([field << 3 | wire]) + np.asarray(value).astype(f"<{kind}").tobytes()


def _bytes(field: int, value: bytes) -> bytes:
    """A field of a protocol buffer: text, or a message in it."""
    return bytes([field << 3 | 2]) + _varint(len(value)) + value


def _varint(n: int) -> bytes:
    """An integer in groups of seven bits, the lowest first; all but the last have the top bit."""
    groups = [n >> shift & 127 for shift in range(0, max(n.bit_length(), 1), 7)]
    return bytes([*(group | 128 for group in groups[:-1]), groups[-1]])


def _checksum(data: bytes) -> int:
    """The masked CRC-32C of a record."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC_32C[(crc ^ byte) & 255] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _crc_of_byte(n: int) -> int:
    for _ in range(8):
        n = n >> 1 ^ (n & 1) * 0x82F63B78
    return n


CRC_32C = tuple(map(_crc_of_byte, range(256)))


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
