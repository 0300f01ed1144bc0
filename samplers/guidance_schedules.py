"""Guidance schedules: guidance scales that change during sampling (Wang et al. 2024, 2404.13040).

A schedule is a function (weight, sde, **options) -> w(t), [B] -> [B]. It depends on the progress
p = 1 - t / t_max, which is 0 at the noise, where sampling starts, and 1 at the data. So "linear"
guides most near the data. Under EDM, whose t is the noise level, p is that of VP at the same noise
level.

w follows the convention s + w (s_c - s) of samplers/guidance.py: w = 1 is the conditional score.
As in the paper, `weight` is the mean of w over p ("clamp_linear": before the clamp). Exceptions:
for "power_cosine" it is the maximum of w, for "interval" the value of w inside the interval.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from samplers.noise_levels import time_of
from sde_lib import EDM, SDE, VP
from sde_lib.batch import PerSample
from sde_lib.checks import check_name, check_positive

WeightOfTime = Callable[[PerSample], PerSample]
"""w(t), [B] -> [B]"""


def progress(sde: SDE, t: PerSample) -> PerSample:
    """Progress p of sampling at the times t, [B]: from 0 at t_max to 1 at t = 0."""
    if isinstance(sde, EDM):
        share = VP().inverse_noise_level(t) / time_of(VP(), sde.t_max)
    else:
        share = t / sde.t_max
    return jnp.clip(1 - share, 0, 1)


def _follow(
    shape: Callable[[PerSample], PerSample], weight: float | Float[Array, ""], sde: SDE
) -> WeightOfTime:
    """The schedule weight * shape(p)."""
    check_positive(or_zero=True, weight=weight)
    return lambda t: weight * shape(progress(sde, t))


def _clamp_linear(weight: float | Float[Array, ""], sde: SDE, least: float) -> WeightOfTime:
    """The linear schedule, clamped to at least `least` (c in the paper)."""
    check_positive(or_zero=True, least=least)
    rising = _follow(lambda p: 2 * p, weight, sde)
    return lambda t: jnp.maximum(least, rising(t))


def _power_cosine(weight: float | Float[Array, ""], sde: SDE, power: float) -> WeightOfTime:
    """The schedule weight (1 - cos(pi p^power)) / 2: a larger power guides later."""
    check_positive(power=power)
    return _follow(lambda p: (1 - jnp.cos(math.pi * p**power)) / 2, weight, sde)


def _interval(
    weight: float | Float[Array, ""], sde: SDE, low: float, high: float, outside: float = 1.0
) -> WeightOfTime:
    """`weight` at noise levels sigma / alpha in (low, high], `outside` at all others.

    Kynkaanniemi et al. 2024 (arXiv 2404.07724). For classifier-free guidance outside = 1 is the
    conditional score; for classifier guidance outside = 0 is no gradient.
    """
    check_positive(or_zero=True, weight=weight, outside=outside)
    if not 0 <= low < high:
        raise ValueError(f"low is {low} and high {high}: noise levels must be 0 <= low < high")

    def interval(t: PerSample) -> PerSample:
        level = sde.noise_level(t)
        return jnp.where((low < level) & (level <= high), weight, outside)

    return interval


SCHEDULES: dict[str, Callable[..., WeightOfTime]] = {
    "constant": partial(_follow, jnp.ones_like),
    "linear": partial(_follow, lambda p: 2 * p),
    "inverse_linear": partial(_follow, lambda p: 2 * (1 - p)),
    "cosine": partial(_follow, lambda p: 1 - jnp.cos(math.pi * p)),  # increasing
    "sine": partial(_follow, lambda p: 1 + jnp.cos(math.pi * p)),  # decreasing
    "v": partial(_follow, lambda p: 2 * jnp.abs(2 * p - 1)),
    "lambda": partial(_follow, lambda p: 2 - 2 * jnp.abs(2 * p - 1)),
    "clamp_linear": _clamp_linear,
    "power_cosine": _power_cosine,
    "interval": _interval,
}


def create(
    name: str, weight: float | Float[Array, ""], sde: SDE, **options: float | None
) -> WeightOfTime:
    """Makes a schedule by its name in SCHEDULES. Options that are None are ignored.

    Raises:
        ValueError: an unknown name, an unknown or a missing option, or a number out of range.
    """
    check_name("guidance schedule", name, SCHEDULES)
    given = {key: value for key, value in options.items() if value is not None}
    signature = inspect.signature(SCHEDULES[name])
    try:
        signature.bind(weight, sde, **given)
    except TypeError as error:
        takes = ", ".join(list(signature.parameters)[2:]) or "no options"
        raise ValueError(f"guidance schedule {name!r}: {error}; it takes {takes}") from None
    return SCHEDULES[name](weight, sde, **given)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A guidance schedule and its options.

    Attributes:
        name: in SCHEDULES.
        options: of the schedule, such as (("low", 0.2), ("high", 5.0)).
    """

    name: str = "constant"
    options: tuple[tuple[str, float], ...] = ()

    def weight(self, weight: Any, sde: SDE, outside: float = 1.0) -> Any:
        """The weight as it is if constant, else as a function of t.

        Args:
            weight: a number, or a scalar array.
            sde: gives t its noise level.
            outside: the weight outside the noise levels of "interval": 1 is the conditional score
                alone in classifier-free guidance, 0 drops a gradient.
        """
        options = dict(self.options) | ({"outside": outside} if self.name == "interval" else {})
        made = create(self.name, weight, sde, **options)
        return weight if self.name == "constant" else made
