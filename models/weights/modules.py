"""The arrays of a network by name, from what a file holds of it."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from models.weights.pickles import Record

MODULE = ("_parameters", "_buffers", "_modules")


def is_module(value: Any) -> bool:
    """True for the Record of a network of PyTorch, or of a part of one."""
    state = value.state if isinstance(value, Record) else None
    return isinstance(state, dict) and all(isinstance(state.get(name), dict) for name in MODULE)


def state_dict(tree: Any) -> dict[str, np.ndarray]:
    """The arrays of a network by name: from dicts of arrays, or from a whole network.

    Names of dicts and networks inside are put before, with a dot, as in PyTorch.

    Raises:
        ValueError: something else stands where an array is expected, or the dicts have no end.
    """
    if not isinstance(tree, dict) and not is_module(tree):
        raise ValueError(f"holds {about(tree)}, no arrays by name")
    try:
        return dict(_named(tree, ""))
    except RecursionError as error:
        raise ValueError("holds dicts inside of themselves, no arrays by name") from error


def _named(tree: Any, prefix: str) -> Iterator[tuple[str, np.ndarray]]:
    for name, value in (_entries(tree) if isinstance(tree, Record) else tree).items():
        if isinstance(value, np.ndarray | np.generic):
            yield f"{prefix}{name}", np.asarray(value)
        elif isinstance(value, dict) or is_module(value):
            yield from _named(value, f"{prefix}{name}.")
        else:
            raise ValueError(f"holds {about(value)} for {prefix}{name}, no array")


def _entries(module: Record) -> dict[str, Any]:
    """The parameters, saved buffers and modules of a module, in PyTorch's order."""
    buffers = module.state["_buffers"]
    unsaved = module.state.get("_non_persistent_buffers_set", ())
    saved = {name: buffer for name, buffer in buffers.items() if name not in unsaved}
    parts = module.state["_parameters"] | saved | module.state["_modules"]
    return {name: part for name, part in parts.items() if part is not None}


def about(value: Any) -> str:
    """A value in a message: the names in a dict, the name of a Record, or the type."""
    if isinstance(value, Record):
        return f"{value.name} (code, which is not run)"
    if not isinstance(value, dict):
        name = type(value).__name__
        return f"a{'n' * name.startswith(('i', 'o'))} {name}"
    names = sorted(map(str, value))
    return f"{names[:8]}{' and more' * (len(names) > 8)}"
