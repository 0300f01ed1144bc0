"""A run's folder: its config, the records of what it depends on, and its lock.

| name                 | holds                                                         |
| -------------------- | ------------------------------------------------------------- |
| config.json          | the config that the run was made with                         |
| changes.jsonl        | the optimizer's numbers that changed on the way, by step      |
| metrics.jsonl        | losses and held-out figures, a JSON object a line             |
| timing.jsonl         | seconds a step                                                |
| events.out.*         | TensorBoard events                                            |
| checkpoints/         | a folder for each saved step, with its model card             |
| samples/             | pictures and arrays of samples, each with a .json beside it   |
| data.json            | the digest of the data                                        |
| standardization.json | the mean and standard deviation of float data                 |
| conditions.json      | facts of the data's conditions, such as means of vectors      |
| latents.json ...     | records of other runs and files that this run depends on      |
| init_from.json       | the origin of the first weights, of a run that was fine-tuned |
| published.json       | the origin of the weights, of a run that was imported         |
"""

import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments.runs import files, hosts

LOG = logging.getLogger(__name__)
RUNS = Path("runs")  # holds runs without --workdir, and those that configs name
CONFIG = "config.json"
CHANGES = "changes.jsonl"
ORIGIN, PUBLISHED = "init_from.json", "published.json"
LOCK = ".lock"  # holds the process that trains, and its host


def has_run(folder: Path) -> bool:
    """True if the folder holds the config of a run."""
    return (folder / CONFIG).exists()


def read_config(folder: Path) -> dict[str, Any]:
    """The config of a run as its folder holds it, of any version.

    Raises:
        ValueError: the folder holds no run, or a damaged config.
    """
    if not folder.exists():
        raise ValueError(f"there is no folder {folder}: give the --workdir of a trained model")
    if not has_run(folder):
        raise ValueError(f"{folder} holds no {CONFIG}: give the folder of a trained model")
    values = files.read_json(folder / CONFIG)
    if not isinstance(values, dict) or "model" not in values:
        raise ValueError(f"{folder / CONFIG} is not the config of a run: give another --workdir")
    return values


def write_config(folder: Path, values: dict[str, Any]) -> None:
    """Makes the folder if need be, and writes the config of its run."""
    files.write_json(folder / CONFIG, values)


def record(path: Path, values: dict[str, Any], changed: str) -> None:
    """Writes what a run depends on beside its config, or checks that it is still the same.

    Raises:
        ValueError: `changed`, if it is not.
    """
    if path.exists() and files.read_json(path) != values:
        raise ValueError(changed)
    files.write_json(path, values)


def record_changes(folder: Path, step: int, changes: dict[str, tuple[Any, Any]]) -> None:
    """Adds fields of the config, (before, after) by name, that changed when the run went on.

    Args:
        folder: the run's.
        step: the step that it goes on from. Later changes, of steps that were lost, begin there.
        changes: the fields.
    """
    path = folder / CHANGES
    lines = [line | {"step": min(line["step"], step)} for line in files.read_lines(path)]
    for name, (before, after) in changes.items():
        LOG.info("config.%s is %s from step %d on; it was %s", name, after, step, before)
        lines.append({"step": step, "field": name, "before": before, "after": after})
    if lines:
        files.write_lines(path, lines)


def origin(folder: Path) -> dict[str, Any]:
    """The source and license of the weights that a run began with; {} if they were random."""
    for name in (ORIGIN, PUBLISHED):
        if (folder / name).exists():
            return files.read_json(folder / name)
    return {}


def read_record(path: Path) -> dict[str, Any]:
    """Reads a record that training wrote.

    Raises:
        ValueError: there is none.
    """
    if not path.exists():
        raise ValueError(f"{path} is missing, which training writes: train first")
    return files.read_json(path)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the folder's lock, so that one command at a time trains there.

    Raises:
        ValueError: another process holds it; says which, and on which host.
    """
    if not hosts.is_first():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("ab+", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().decode() or "a process that starts"
            raise ValueError(
                f"another command is training in {folder}: wait for it, or choose another "
                f"--workdir; it is {holder}"
            ) from error
        except OSError as error:  # a file system without locks, a full disk
            LOG.warning("the lock of %s cannot be used: %s; train there once", folder, error)
        yield


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of nested dicts by dotted names: {"a": {"b": 1}} gives {"a.b": 1}."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
