"""A run's folder: whose it is, and its metrics."""

import json
from pathlib import Path
from typing import Any

import tensorboardX

from models.config import Config

FREE = (  # what a run may change when it goes on, or when its model is used
    "sampling",
    "eval",
    "edit",
    "data.cache",
    "training.n_iters",
    "training.log_freq",
    "training.snapshot_freq",
    "training.snapshot_freq_for_preemption",
)


def check_owner(config: Config, workdir: Path) -> None:
    """Raises ValueError, saying which fields differ, if the folder belongs to another config."""
    path = workdir / "config.json"
    if not path.exists():
        return
    theirs = _flatten(json.loads(path.read_text()))
    ours = _flatten(json.loads(_to_json(config)))
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


def claim(config: Config, workdir: Path) -> None:
    """Makes the folder, and writes config.json."""
    workdir.mkdir(parents=True, exist_ok=True)
    write_text(workdir / "config.json", _to_json(config))


def _to_json(config: Config) -> str:
    return json.dumps(config.to_dict(), indent=2) + "\n"


def write_text(path: Path, text: str) -> None:
    """Replaces a file in one step: a reader, or a crash, never sees half of it."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text)
    temporary.replace(path)


class Metrics:
    """metrics.jsonl and TensorBoard events, from `step` on: later lines of a run cut off go."""

    def __init__(self, workdir: Path, step: int):
        self._path = workdir / "metrics.jsonl"
        lines = [line for line in read_metrics(workdir) if line["step"] <= step]
        write_text(self._path, "".join(json.dumps(line) + "\n" for line in lines))
        self._events = tensorboardX.SummaryWriter(str(workdir), purge_step=step + 1)

    def write(self, step: int, **values: float) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        self._events.close()


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a last line that a crash cut short is left out."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
