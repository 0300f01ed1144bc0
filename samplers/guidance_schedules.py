"""Guidance schedules: guidance scales that change during sampling (Wang et al. 2024, 2404.13040).

A schedule is a function (weight, sde, **options) -> w(t), [B] -> [B]. It depends on the progress
p = 1 - t / t_max, which is 0 at the noise, where sampling starts, and 1 at the data. So "linear"
guides most near the data. Under EDM, whose t is the noise level, p is that of VP at the same noise
level.

w follows the convention s + w (s_c - s) of samplers/guidance/: w = 1 is the conditional score.
As in the paper, `weight` is the mean of w over p, or the maximum of w for "power_cosine".

Three changes go with any schedule, in this order: a clamp to [least, most], an offset, and an
interval of noise levels (low, high] outside of which w is `outside`, or inside of which it is if
the interval is removed. "interval" is "constant" with an interval, "clamp_linear" is "linear" with
the clamp `least`. offset = 1 makes w of a weight in the convention of Ho & Salimans 2022.

"v" falls to 0 at p = 1/2 and "lambda" rises to its maximum there. A tent min(p, 1 - p), of mean
1/4, which some texts call "V", is "lambda" of weight 1/4; its inverse max(p, 1 - p) is "v" of
weight 1/4 with offset 1/2.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from samplers.noise_levels import time_of
from sde_lib import EDM, SDE, VP
from sde_lib.batch import PerSample
from sde_lib.checks import check_in, check_name, check_positive

WeightOfTime = Callable[[PerSample], PerSample]
"""w(t), [B] -> [B]"""


def progress(sde: SDE, t: PerSample) -> PerSample:
    """Progress p of sampling at the times t, [B]: from 0 at t_max to 1 at t = 0."""
    if isinstance(sde, EDM):
        share = VP().inverse_noise_level(t) / time_of(VP(), sde.t_max)
    else:
        share = t / sde.t_max
    return jnp.clip(1 - share, 0, 1)


def clamp(w: WeightOfTime, least: float = 0.0, most: float = math.inf) -> WeightOfTime:
    """The schedule, clamped to [least, most]. (Wang et al. 2024 clamp to at least c.)"""
    check_positive(or_zero=True, least=least)
    if not least <= most:
        raise ValueError(f"least is {least} and most {most}: least must not be above most")
    return lambda t: jnp.clip(w(t), least, most)


def offset(w: WeightOfTime, by: float) -> WeightOfTime:
    """The schedule w(t) + by."""
    check_in("(-inf, inf)", offset=by)
    return lambda t: w(t) + by


def interval(
    w: WeightOfTime,
    sde: SDE,
    low: float = 0.0,
    high: float = math.inf,
    outside: float = 1.0,
    removed: bool = False,
) -> WeightOfTime:
    """The schedule at noise levels sigma / alpha in (low, high], and `outside` at all others.

    Kynkaanniemi et al. 2024 (arXiv 2404.07724). For classifier-free guidance outside = 1 is the
    conditional score; for classifier guidance outside = 0 is no gradient. With `removed` the
    schedule holds at all other levels, and `outside` in the interval.
    """
    check_positive(or_zero=True, outside=outside)
    if not 0 <= low < high:
        raise ValueError(f"low is {low} and high {high}: noise levels must be 0 <= low < high")

    def within(t: PerSample) -> PerSample:
        level = sde.noise_level(t)
        inside = (low < level) & (level <= high)
        return jnp.where(inside != removed, w(t), outside)

    return within


SHAPES: dict[str, Callable[..., PerSample]] = {
    "constant": jnp.ones_like,
    "linear": lambda p: 2 * p,
    "inverse_linear": lambda p: 2 * (1 - p),
    "cosine": lambda p: 1 - jnp.cos(math.pi * p),  # increasing
    "sine": lambda p: 1 + jnp.cos(math.pi * p),  # decreasing
    "v": lambda p: 2 * jnp.abs(2 * p - 1),
    "lambda": lambda p: 2 - 2 * jnp.abs(2 * p - 1),
    "power_cosine": lambda p, power: (1 - jnp.cos(math.pi * p**power)) / 2,  # more: guides later
}
"""w / weight as a function of the progress p."""
SAME_SHAPE = {"clamp_linear": "linear", "interval": "constant"}
REQUIRED = {"power_cosine": ("power",), "clamp_linear": ("least",), "interval": ("low", "high")}
CHANGES = ("least", "most", "offset", "low", "high", "removed")
"""Options of all schedules."""


def create(
    name: str,
    weight: float | Float[Array, ""],
    sde: SDE,
    outside: float = 1.0,
    **options: Any,
) -> WeightOfTime:
    """Makes a schedule by its name in SCHEDULES. Options that are None are ignored.

    Args:
        name: the shape of w.
        weight: its mean.
        sde: gives t its progress and its noise level.
        outside: the weight outside the interval of noise levels.
        options: those in CHANGES, and the power of "power_cosine".

    Raises:
        ValueError: an unknown name, an unknown or a missing option, or a number out of range.
    """
    check_name("guidance schedule", name, SCHEDULES)
    check_positive(or_zero=True, weight=weight)
    given = {key: value for key, value in options.items() if value is not None}
    required = REQUIRED.get(name, ())
    takes = dict.fromkeys((*required, *CHANGES))
    for option in [*(given.keys() - takes.keys()), *(set(required) - given.keys())]:
        wrong = f"has no option {option!r}" if option in given else f"needs the option {option!r}"
        raise ValueError(f"guidance schedule {name!r} {wrong}; it takes {', '.join(takes)}")
    own = {key: given[key] for key in given if key not in CHANGES}
    check_positive(**own)
    shape = partial(SHAPES[SAME_SHAPE.get(name, name)], **own)

    def shaped(t: PerSample) -> PerSample:
        return weight * shape(progress(sde, t))

    w: WeightOfTime = shaped
    if "least" in given or "most" in given:
        w = clamp(w, **{key: given[key] for key in ("least", "most") if key in given})
    if "offset" in given:
        w = offset(w, given["offset"])
    if given.get("removed") and not {"low", "high"} & given.keys():
        raise ValueError("removed is True, but there is no interval: give low, high or both")
    bounds = {key: given[key] for key in ("low", "high", "removed") if key in given}
    return interval(w, sde, outside=outside, **bounds) if bounds else w


SCHEDULES = {name: partial(create, name) for name in (*SHAPES, *SAME_SHAPE)}
"""Schedules by name: functions (weight, sde, **options) -> w(t)."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A guidance schedule and its options.

    Attributes:
        name: in SCHEDULES.
        options: of the schedule, such as (("low", 0.2), ("high", 5.0)).
    """

    name: str = "constant"
    options: tuple[tuple[str, float], ...] = ()

    @property
    def varies(self) -> bool:
        """False for a constant weight without any change."""
        return bool(self.options) or self.name != "constant"

    @property
    def keeps_one(self) -> bool:
        """The weight 1 stays 1 at all times: a constant one, with or without an interval."""
        shape = SAME_SHAPE.get(self.name, self.name)
        return shape == "constant" and dict(self.options).keys() <= {"low", "high", "removed"}

    def weight(self, weight: Any, sde: SDE, outside: float = 1.0) -> Any:
        """The weight as it is if constant, else as a function of t.

        Args:
            weight: a number, or a scalar array.
            sde: gives t its noise level.
            outside: the weight outside the interval of noise levels: 1 is the conditional score
                alone in classifier-free guidance, 0 drops a gradient.
        """
        made = create(self.name, weight, sde, outside, **dict(self.options))
        return made if self.varies else weight
