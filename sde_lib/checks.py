"""Argument checks whose errors state the name, the value given and the values allowed."""

import dataclasses
import math
import numbers
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

MOST = 2**31 - 1
"""The largest count: counters on devices are int32."""
TYPES = {bool: "True or False", int: "an integer", float: "a number", str: "a string"}
WORDS = {
    "(0, inf)": "positive, and finite",
    "[0, inf)": "at least 0, and finite",
    "(-inf, inf)": "a finite number",
}


def known(*values: Any) -> bool:
    """True if no value, or element of a tuple, is traced: what is traced cannot be checked."""
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(values))


def precision() -> Any:
    """The limits of JAX's default precision: of float64 under jax_enable_x64, else of float32."""
    return jnp.finfo(jnp.result_type(float))


def check_known(why: str, **values: Any) -> None:
    """Raises ValueError for a keyword argument that is traced; `why` says what needs the number."""
    for name, value in values.items():
        if not known(value):
            raise ValueError(f"{name} is traced, but {why}: give a number that is not traced")


def check_name(kind: str, name: str, known: Iterable[str]) -> None:
    """Raises ValueError unless `name` is one of `known`; the error suggests the nearest one."""
    known = sorted(known)
    if name in known:
        return
    choose = f"choose one of {', '.join(known)}"
    if not isinstance(name, str) or not name:
        raise ValueError(f"{kind} is {name!r}: {choose}")
    near = get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"{kind} {name!r} is unknown: {hint}{choose}")


def create_by_name(
    kind: str, classes: Mapping[str, Any], name: str, options: Mapping[str, Any]
) -> Any:
    """Makes the dataclass `name` of `classes`. The options are its fields.

    Raises:
        ValueError: an unknown name or option, or what the dataclass raises.
    """
    check_name(kind, name, classes)
    fields = [field.name for field in dataclasses.fields(classes[name])]
    for option in options:
        if not fields:
            raise ValueError(f"{name} has no options: leave {option} out")
        check_name(f"option of {name}", option, fields)
    return classes[name](**options)


def check_at_least(least: int, most: int = MOST, /, **counts: Any) -> None:
    """Raises ValueError for a keyword argument that is not an integer from `least` to `most`."""
    for name, count in counts.items():
        check_known("it must be the same in every run of the program", **{name: count})
        if not has_type(count, int):
            raise ValueError(f"{name} is {count!r}: it must be an integer")
        if count < least:
            raise ValueError(f"{name} is {count}: it must be at least {least}")
        if count > most:
            raise ValueError(f"{name} is {count}: it must be at most {most}")


def check_in(interval: str, optional: bool = False, /, **values: Any) -> None:
    """Raises ValueError for a keyword argument that is no number in an interval, also as an array.

    Arrays, which may be traced, and functions are not checked.

    Args:
        interval: such as "[0, 1)" or "(0, inf)".
        optional: allows None.
        values: the numbers by their names.
    """
    low, high = map(float, interval[1:-1].split(","))
    for name, value in values.items():
        if _is_array(value) or callable(value) or (optional and value is None):
            continue
        both = (value, _rounded(value)) if has_type(value, float) else (math.nan,)
        above = low < min(both) or (interval[0] == "[" and low == min(both))
        below = max(both) < high or (interval[-1] == "]" and max(both) == high)
        if not (above and below):
            expected = WORDS.get(interval, f"in {interval}")
            raise ValueError(f"{name} is {value!r}: it must be {expected}")


def check_tolerance(**values: Any) -> None:
    """Raises ValueError for a solver's tolerance that is not positive, or below rounding errors."""
    limits = precision()
    for name, value in values.items():
        check_in("(0, inf)", **{name: value})
        if known(value) and value < limits.eps:
            raise ValueError(
                f"{name} is {value!r}, which {limits.dtype} cannot reach: it must be at least "
                f"{limits.eps:.1g}, better 1e-5"
            )


def check_positive(or_zero: Any = False, **values: Any) -> None:
    """Raises ValueError for a keyword argument that is not positive and finite, or None.

    `or_zero` allows 0. Arrays, which may be traced, and functions are not checked.
    """
    check_in("[0, inf)" if or_zero else "(0, inf)", True, **values)


def check_types(owner: Any, prefix: str = "") -> None:
    """Raises ValueError for a dataclass's field whose value is not of the type of its annotation.

    Fields of bool, int, float and str are checked, also those that may be None. NaN is left to the
    checks of ranges. `prefix` stands before the field's name in the error.
    """
    for field in dataclasses.fields(owner):
        union = isinstance(field.type, UnionType)
        kinds: tuple[Any, ...] = get_args(field.type) if union else (field.type,)
        value = getattr(owner, field.name)
        known = all(kind in (*TYPES, NoneType) for kind in kinds)
        if not known or not field.init or _is_array(value):
            continue
        if value == value and not any(has_type(value, kind) for kind in kinds):
            expected = " or ".join(TYPES.get(kind, "None") for kind in kinds)
            raise ValueError(f"{prefix}{field.name} is {value!r}: it must be {expected}")


def has_type(value: Any, kind: type) -> bool:
    """True if a value can stand for this type: an integer is a float, but True and NaN are not."""
    if kind in (int, float):
        wider: type = numbers.Integral if kind is int else numbers.Real
        return isinstance(value, wider) and not isinstance(value, bool) and value == value
    return isinstance(value, (bool, np.bool_) if kind is bool else kind)


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype") and not isinstance(value, numbers.Real | np.bool_)


def _rounded(value: Any) -> float:
    """The nearest number in JAX's default precision."""
    limits = precision()
    if abs(value) > float(limits.max):
        return math.inf if value > 0 else -math.inf
    return float(limits.dtype.type(value))
