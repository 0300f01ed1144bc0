"""The last part of a sampler's way: a share of its own steps, from noised data on.

Strength means the same under every SDE and with every sampler: the share of its steps that are
made. A sampler with steps of its own has two methods. own_levels(sde) gives the noise levels at
which they begin, and the level where the last one ends. from_levels(levels) gives a copy that makes
the steps between the last of these. One with adaptive steps goes the same share of the SDE's times.
"""

from typing import Any, NamedTuple

import numpy as np

from samplers.noise_levels import SLACK, Levels, levels_at, time_of
from sde_lib import SDE
from sde_lib.checks import check_in

WAY = 100  # intervals of the way of a sampler with adaptive steps


class Part(NamedTuple):
    """The last part of a sampler's way.

    Attributes:
        sampler: makes the steps; None if there are none.
        t: the time where they start; None for the prior.
    """

    sampler: Any
    t: float | None


def part(sampler: Any, sde: SDE, strength: float = 1.0, noise_level: float | None = None) -> Part:
    """The part of a sampler's way that is made of noised data.

    Between two levels of the sampler's grid, the first level is interpolated in its logarithm.

    Args:
        sampler: any sampler.
        sde: the forward SDE.
        strength: the share of the steps, in [0, 1]. 0 makes none; 1 makes all, from the prior.
        noise_level: sigma / alpha where the part starts, in place of a strength.

    Raises:
        ValueError: a strength outside [0, 1], or a noise level outside the range of the SDE.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength is {strength}: it must lie in [0, 1]")
    levels, floor = own_levels(sampler, sde), levels_at(sde, [sde.t_min])[0]
    if noise_level is not None:
        _check_level(sde, noise_level)
        level = noise_level
    elif strength == 1:
        return Part(sampler, None)
    else:
        level = _between(levels, (1 - strength) * (len(levels) - 1))
    if level <= floor * (1 + SLACK):
        return Part(None, None)
    if level <= levels[-1] * (1 + SLACK):
        raise ValueError(
            f"noise_level is {level:g}, and the sampler's last level is {levels[-1]:.4g}: give a "
            "higher one, or a lower sigma_min of the sampler"
        )
    rest = np.array([level, *levels[levels < level * (1 - SLACK)]])
    fixed = hasattr(sampler, "from_levels")
    return Part(sampler.from_levels(rest) if fixed else sampler, time_of(sde, level))


def own_levels(sampler: Any, sde: SDE) -> Levels:
    """The noise levels at which the sampler's steps begin, and the one where the last ends."""
    if hasattr(sampler, "own_levels"):
        return sampler.own_levels(sde)
    return levels_at(sde, sde.times(sde.t_max, sde.t_min, WAY))


def _between(levels: Levels, place: float) -> float:
    """The level at a place in the grid, which need not be a whole number."""
    nearest = round(place)
    if abs(place - nearest) < 1e-9 * len(levels):
        return float(levels[nearest])
    k = int(place)
    way, now, then = place - k, levels[k], levels[k + 1]
    return float(now ** (1 - way) * then**way if then > 0 else now + way * (then - now))


def _check_level(sde: SDE, level: float) -> None:
    check_in("(0, inf)", noise_level=level)
    low, high = levels_at(sde, [sde.t_min, sde.t_max])
    if not low < level <= high * (1 + SLACK):
        raise ValueError(
            f"noise_level is {level:g}: it must be above {low:.4g} and at most {high:.4g}, the "
            f"range of sigma / alpha of {type(sde).__name__}; or give a strength"
        )
