"""A run's folder: whose it is, and its metrics."""

import csv
import io
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore
from tensorboardX.summary import scalar

from configs import default
from experiments.runs import hosts
from models.config import Config

LOG = logging.getLogger(__name__)
FREE = (  # what a run may change when it goes on, or when its model is used
    "sampling",
    "eval",
    "edit",
    "detect",
    "exposure_bias",
    "ablate",
    "mesh",
    "data.cache",
    "data.resident_bytes",
    "model.dtype",
    "model.remat",
    "training.n_iters",
    "training.n_microbatches",
    "training.steps_per_jit",
    "training.log_freq",
    "training.snapshot_freq",
    "training.snapshot_freq_for_preemption",
    "training.eval_freq",
    "training.max_skipped",
    "training.stall_seconds",
)


def check_owner(config: Config, workdir: Path) -> None:
    """Raises ValueError, saying which fields differ, if the folder belongs to another config."""
    if not (workdir / "config.json").exists():
        return
    theirs, ours = fields(load_config(workdir)), fields(config)
    differing = [
        f"  {name}: there {theirs.get(name)!r}, here {ours.get(name)!r}\n"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name) and not name.startswith(FREE)
    ]
    if differing:
        raise ValueError(
            f"{workdir} belongs to another config:\n{''.join(differing)}"
            "choose another --workdir, or give the config that the folder was made with"
        )


def load_config(workdir: Path) -> Config:
    """The config that a run's folder belongs to; fields younger than the run have their defaults.

    Raises:
        ValueError: the folder holds no run.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise ValueError(f"{workdir} holds no config.json: give the folder of a trained model")
    config = default.get_config()
    with config.ignore_type():
        config.update(json.loads(path.read_text()))
    return config


def fields(config: Config) -> dict[str, Any]:
    """Every field by its full name, as JSON gives it back."""
    return flatten(json.loads(_to_json(config)))


def claim(config: Config, workdir: Path) -> None:
    """Makes the folder, and writes config.json."""
    workdir.mkdir(parents=True, exist_ok=True)
    write_text(workdir / "config.json", _to_json(config))


def record(path: Path, about: dict[str, Any], changed: str) -> None:
    """Writes what a run depends on beside its config, or sees that it is still the same.

    Raises:
        ValueError: `changed`, if it is not.
    """
    if path.exists() and json.loads(path.read_text()) != about:
        raise ValueError(changed)
    write_text(path, json.dumps(about, indent=2) + "\n")


def read_record(path: Path) -> dict[str, Any]:
    """What `record` wrote.

    Raises:
        ValueError: there is none.
    """
    if not path.exists():
        raise ValueError(f"{path} is missing, which training writes: train first")
    return json.loads(path.read_text())


def _to_json(config: Config) -> str:
    return json.dumps(config.to_dict(), indent=2) + "\n"


def write_text(path: Path, text: str) -> None:
    """Replaces a file in one step: a reader, or a crash, never sees half of it."""
    if not hosts.is_first():
        return
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text)
    temporary.replace(path)


def write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    """Comma-separated values."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text.getvalue())
    return path


class Metrics:
    """metrics.jsonl, timing.jsonl and TensorBoard events, from `step` on.

    Later lines, of a run that was cut off, go. metrics.jsonl is a function of the config; times
    are kept apart. Lines for which there is no room wait for the next ones.

    Attributes:
        kept: what was last kept for `step`.
    """

    def __init__(self, workdir: Path, step: int):
        self._workdir, self._events = workdir, None
        self._waiting: dict[str, str] = {}
        kept = [line for line in read_metrics(workdir, "kept.jsonl") if line["step"] == step]
        self.kept = kept[-1] if kept else {}
        hosts.everyone(True)  # has read it
        if hosts.is_first():
            for name in ("metrics.jsonl", "timing.jsonl", "kept.jsonl"):
                lines = [line for line in read_metrics(workdir, name) if line["step"] <= step]
                write_text(workdir / name, "".join(json.dumps(line) + "\n" for line in lines))
            # SummaryWriter's thread would die of a full disk, and the next events wait for it.
            self._events = EventsWriter(str(workdir / "events"))
            start = SessionLog(status=SessionLog.START)  # hides what is later
            self._events.write_event(Event(step=step + 1, session_log=start))

    def write(self, step: int, values: dict[str, float], name: str = "metrics.jsonl") -> None:
        if self._events is None or not values:
            return
        self._add(name, {"step": step, **values})
        with _warning(f"events of step {step}"):
            for tag, value in values.items():
                summary = scalar(tag, value)
                self._events.write_event(Event(wall_time=time.time(), step=step, summary=summary))
            self._events.flush()

    def keep(self, step: int, values: dict[str, Any]) -> None:
        """Keeps values for a run that goes on from this step."""
        if hosts.is_first():
            self._add("kept.jsonl", {"step": step, **values})

    def close(self) -> None:
        for name in list(self._waiting):
            self._add(name)
        if self._events is not None:
            with _warning("the last events"):
                self._events.close()

    def _add(self, name: str, line: dict[str, Any] | None = None) -> None:
        """Adds the lines that wait, and this one."""
        lines = self._waiting.pop(name, "") + (json.dumps(line) + "\n" if line else "")
        with _warning(f"the last lines of {name}"):
            self._waiting[name] = lines
            _append(self._workdir / name, lines)
            del self._waiting[name]


@contextmanager
def _warning(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        LOG.warning("%s cannot be written yet: %s", what, error)


def _append(path: Path, text: str) -> None:
    """Adds to a file the whole of text, or nothing."""
    size = path.stat().st_size
    try:
        with path.open("a") as file:
            file.write(text)
    except OSError:
        os.truncate(path, size)
        raise


def read_metrics(workdir: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """The lines of such a file; a last line that a crash cut short is left out."""
    path = workdir / name
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} to {"a.b": 1}."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
