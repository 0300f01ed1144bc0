import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib.checks import check_at_least, check_in, check_tolerance, check_types


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("(0, inf)", [1e-30, 1, np.float32(2)], [0.0, -1.0, math.inf, math.nan, 1e39, 1e-60]),
        ("[0, inf)", [0, 0.0, 5], [-1e-30, math.inf, 10**400]),
        ("[0, 1)", [0, 0.999], [1, 1.0 - 1e-12, -0.1]),  # 1 - 1e-12 is 1 in float32
        ("(-inf, inf)", [-1e30, 0], [-math.inf, math.nan]),
        ("(0, 1]", [1], ["1", None, True, 1j, (1,)]),
    ],
)
def test_numbers_lie_in_their_interval_also_in_float32(interval, inside, outside):
    for value in inside:
        check_in(interval, x=value)
    for value in outside:
        with pytest.raises(ValueError, match=r"^x is .*: it must be "):
            check_in(interval, x=value)


def test_arrays_functions_and_optional_numbers_are_left_alone():
    check_in("(0, 1)", x=jnp.array([5.0]), y=lambda t: t)
    check_in("(0, 1)", True, x=None)


@pytest.mark.parametrize("count", [0, True, 1.0, "1", None, 2**31, math.nan])
def test_counts_are_integers_that_fit_on_a_device(count):
    check_at_least(1, n=np.int64(1))
    with pytest.raises(ValueError, match=r"^n is "):
        check_at_least(1, n=count)


@pytest.mark.parametrize("tolerance", [0.0, -1e-3, 1e-8, math.nan, math.inf])
def test_tolerances_are_in_the_reach_of_float32(tolerance):
    check_tolerance(rtol=1e-6)
    with pytest.raises(ValueError, match=r"^rtol is "):
        check_tolerance(rtol=tolerance)


@dataclasses.dataclass(frozen=True)
class Options:
    count: int = 1
    size: float = 1.0
    most: float | None = None
    name: str = ""
    on: bool = False
    grid: str | tuple[float, ...] = ""


@pytest.mark.parametrize(
    "changes",
    [
        *({"count": value} for value in (1.5, True, "1", None)),
        *({"size": value} for value in ("1", None, True)),
        *({"most": value} for value in ("1", False)),
        *({"name": value} for value in (1, None)),
        *({"on": value} for value in (1, "True", None)),
    ],
    ids=str,
)
def test_fields_have_the_types_of_their_annotations(changes):
    check_types(Options(size=1, most=math.inf, on=True, grid=(1.0,)), "o.")  # pyright: ignore
    with pytest.raises(ValueError, match=r"^o\.\w+ is .*: it must be "):
        check_types(Options(**changes), "o.")
