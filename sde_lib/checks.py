"""Argument checks whose errors state the name, the value given and the values allowed."""

import math
import numbers
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


def check_name(kind: str, name: str, known: Iterable[str]) -> None:
    """Raises ValueError unless `name` is one of `known`; the error suggests the nearest one."""
    known = sorted(known)
    if not isinstance(name, str):
        raise ValueError(f"{kind} is {name!r}: choose one of {', '.join(known)}")
    if name not in known:
        near = get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"{kind} {name!r} is unknown: {hint}choose one of {', '.join(known)}")


def check_at_least(least: int, **counts: int) -> None:
    """Raises ValueError for a keyword argument that is not an integer, or is below `least`."""
    for name, count in counts.items():
        if not isinstance(count, numbers.Integral) or isinstance(count, bool):
            raise ValueError(f"{name} is {count!r}: it must be an integer")
        if count < least:
            raise ValueError(f"{name} is {count}: it must be at least {least}")


def check_positive(or_zero: bool = False, **values: Any) -> None:
    """Raises ValueError for a keyword argument that is not positive and finite.

    `or_zero` allows 0. Arrays are not checked, because they may be traced.
    """
    for name, value in values.items():
        if not isinstance(value, numbers.Real):
            continue
        if not (0 < float(value) < math.inf or (or_zero and value == 0)):
            least = "at least 0" if or_zero else "positive"
            raise ValueError(f"{name} is {value}: it must be {least}, and finite")
