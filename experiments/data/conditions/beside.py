"""Conditions in a file of their own, beside the data of any source: config.data.conditions."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.dataset import SPLITS, Dataset, split
from experiments.runs.files import open_arrays, reading

FIELD = "config.data.conditions"
KINDS = ("vector", "attributes", "image", "source", "embeddings", "text", "confidence")
EXPECTED = (
    f"an .npz file of arrays named {', '.join(KINDS)}, with a row for each sample, or the same "
    "with train_ and test_ before their names; or a .txt or .jsonl file of captions, a line each, "
    'in .jsonl also {"text": ..., "confidence": ...}'
)


def with_file(dataset: Dataset, path: str) -> Dataset:
    """The data set with the conditions of a file.

    Rows without a split are in the order of the data: that of their file, or the training data and
    then the test data where these are apart or the source split them in its own way.

    Raises:
        ValueError: no such file, arrays of other names, or of another number than the samples.
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"{FIELD} is {path!r}, which does not exist: give {EXPECTED}")
    arrays, n = _arrays(file), {name: len(getattr(dataset, name)) for name in SPLITS}
    total = sum(n.values())
    rows: dict[str, np.ndarray] = {
        "train": np.arange(n["train"]),
        "test": np.arange(n["train"], total),
    }
    if dataset.test_share is not None and not dataset.own_split:
        rows |= zip(SPLITS, split(total, dataset.test_share), strict=True)
    found: dict[str, dict[str, Any]] = {name: dict(dataset.conditions(name)) for name in SPLITS}
    for name, values in arrays.items():
        part, kind = name.split("_", 1) if name.startswith(("train_", "test_")) else ("", name)
        if kind not in KINDS:
            raise ValueError(f"{FIELD}, {path}, has an array {name!r}: give {EXPECTED}")
        expected = n[part] if part else total
        if len(values) != expected:
            raise ValueError(
                f"{FIELD}, {path}, has {len(values)} {name} for {expected} samples: give one for "
                "each"
            )
        for each in (part,) if part else SPLITS:
            found[each][kind] = values if part else values[rows[each]]
    changes: dict[str, Any] = {f"{name}_conditions": found[name] for name in SPLITS}
    if all("text" in found[name] for name in SPLITS):
        changes |= {f"{name}_captions": found[name].pop("text") for name in SPLITS}
    if all("confidence" in found[name] for name in SPLITS):
        for name in SPLITS:
            changes[f"{name}_confidence"] = np.asarray(found[name].pop("confidence"), np.float32)
    return dataclasses.replace(dataset, **changes)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    suffix = path.suffix.lower()
    if suffix in (".txt", ".jsonl"):
        with reading(path, EXPECTED):
            lines = path.read_text(encoding="utf-8-sig").splitlines()
            values = lines if suffix == ".txt" else [json.loads(line) for line in lines]
        return _captions(values)
    if suffix != ".npz":
        raise ValueError(f"{FIELD} is {str(path)!r}: give {EXPECTED}")
    with open_arrays(path, EXPECTED) as file:
        arrays = dict(file)
    return {
        name: values.astype(np.float32) if values.dtype.kind == "f" and values.ndim > 2 else values
        for name, values in arrays.items()
    }


def _captions(lines: Sequence[Any]) -> dict[str, np.ndarray]:
    """The captions of .jsonl lines, and their confidences if lines are objects.

    Raises:
        ValueError: captions with and without a confidence, or a confidence that is no number.
    """
    rated = [isinstance(line, dict) for line in lines]
    if not any(rated):
        return {"text": np.array([str(line or "") for line in lines], dtype=object)}
    bare = [k for k, line in enumerate(lines) if not _is_rated(line)]
    if bare:
        raise ValueError(
            f"{FIELD}: line {bare[0] + 1} is {lines[bare[0]]!r}; where one line has a confidence, "
            'each must be {"text": ..., "confidence": a number in [0, 1]}'
        )
    texts = np.array([str(line["text"] or "") for line in lines], dtype=object)
    return {"text": texts, "confidence": np.array([float(line["confidence"]) for line in lines])}


def _is_rated(line: Any) -> bool:
    """True for {"text": ..., "confidence": a number}."""
    known = isinstance(line, dict) and line.keys() == {"text", "confidence"}
    return known and isinstance(line["confidence"], int | float)
