"""Files that are replaced in one step: a reader, or a crash, never sees half of one."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.runs import hosts


def write_text(path: Path, text: str) -> None:
    """Replaces a text file; only the first process writes."""
    if not hosts.is_first():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text)
    temporary.replace(path)


def write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    """Replaces a file of comma-separated values."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_text(path, text.getvalue())
    return path


def write_arrays(path: Path, **arrays: np.ndarray | int) -> None:
    """Replaces an .npz file; only the first process writes."""
    if not hosts.is_first():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    with temporary.open("wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """The contents of a JSON file.

    Raises:
        ValueError: the file is cut short or is no JSON.
    """
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file; [] without one. A line that a crash cut short is dropped."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]
