"""Grids of noise levels sigma / alpha, from the prior's down to the data's, in float64."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from sde_lib import EDM, SDE, VP, Table
from sde_lib.batch import as_float, as_number, numpy_of
from sde_lib.checks import check_known, check_name, known

Levels = Float[np.ndarray, " levels"]
Grid = str | tuple[float, ...]
"""A name in GRIDS, or the levels themselves."""

CHAIN_GRIDS = ("ddim", "leading", "trailing", "linspace")  # they visit levels of a Table
SLACK = 1e-4  # relative tolerance in comparisons of levels


def _karras(sde: SDE, high: float, low: float, n: int, rho: float | None) -> Levels:
    """Even steps in level^(1/rho), rho = 7 by default (Karras et al. 2022, Eq. 5)."""
    root = 1 / (7.0 if rho is None else rho)
    return numpy_of(high, low, rho).linspace(high**root, low**root, n) ** (1 / root)


def _exponential(sde: SDE, high: float, low: float, n: int, rho: float | None) -> Levels:
    """Even steps in the log-SNR."""
    xp = numpy_of(high, low)
    return xp.exp(xp.linspace(xp.log(high), xp.log(low), n))


def _polyexponential(sde: SDE, high: float, low: float, n: int, rho: float | None) -> Levels:
    """Steps in the log-SNR by a power rho, 1 by default; rho > 1 is denser at low noise."""
    xp, way = numpy_of(high, low, rho), np.linspace(1, 0, n)
    return low * xp.exp(way ** (1.0 if rho is None else rho) * xp.log(high / low))


def _uniform(sde: SDE, high: float, low: float, n: int, rho: float | None) -> Levels:
    """Even steps in t."""
    ends = time_of(sde, high), time_of(sde, low)
    return levels_at(sde, numpy_of(ends).linspace(*ends, n))


def _quadratic(sde: SDE, high: float, low: float, n: int, rho: float | None) -> Levels:
    """Even steps in sqrt(t) (DDIM, Song et al. 2021, App. D.2)."""
    ends = time_of(sde, high), time_of(sde, low)
    xp = numpy_of(ends)
    return levels_at(sde, xp.linspace(*map(xp.sqrt, ends), n) ** 2)


def _ddim(sde: SDE, high: float, low: float, n: int, rho: float | None) -> Levels:
    """Even strides in t, of which the n-th reaches x_0. Under a Table they visit its own levels.

    Under EDM, whose t is the noise level, the strides are those of VP. The published DDIM counts
    its strides from the lowest level, so it starts below the prior's (Lin et al. 2024, Section
    3.3).
    """
    if isinstance(sde, EDM):
        vp = VP()
        return levels_at(vp, np.arange(n, 0, -1) / n * time_of(vp, high))
    t = np.arange(n, 0, -1) / n * time_of(sde, high)
    if isinstance(sde, Table):
        last = len(sde.log_snrs) - 1
        chain = round(t[0] / sde.t_max * last) + 1
        t = (chain * np.arange(n, 0, -1) - 1) // n * (sde.t_max / last)  # ceil(chain k / n) - 1
    return levels_at(sde, t)


def _leading(sde: SDE, high: float, low: float, n: int, rho: float | None) -> Levels:
    """Every (N / n)-th level of a Table of N, rounded down, from `high` on; see `leading_time`."""
    last, scale = _chain(sde, "leading")
    first, stride = round(time_of(sde, high) / scale), (last + 1) // n
    if n > 1:
        stride = min(stride, first // (n - 1))
    return levels_at(sde, (first - stride * np.arange(n)) * scale)


def _trailing(sde: SDE, high: float, low: float, n: int, rho: float | None) -> Levels:
    """Levels N k / n - 1 of a Table of N, rounded, for k = n, ..., 1."""
    _, scale = _chain(sde, "trailing")
    chain = round(time_of(sde, high) / scale) + 1
    return levels_at(sde, (np.round(chain * np.arange(n, 0, -1) / n) - 1) * scale)


def _linspace(sde: SDE, high: float, low: float, n: int, rho: float | None) -> Levels:
    """Even steps in t, rounded to the levels of a Table."""
    _, scale = _chain(sde, "linspace")
    ends = time_of(sde, high) / scale, time_of(sde, low) / scale
    return levels_at(sde, np.round(np.linspace(*ends, n)) * scale)


def _chain(sde: SDE, grid: str) -> tuple[int, float]:
    """The last level of a Table, and the time between two levels."""
    if not isinstance(sde, Table):
        raise ValueError(f"the grid {grid!r} is of the levels of a chain: take 'ddim' for {sde}")
    last = len(sde.log_snrs) - 1
    return last, sde.t_max / last


def leading_time(sde: SDE, n_steps: int, denoise: bool) -> float:
    """The first time of the grid "leading": the prior's sample is taken for one at this time.

    Its levels are those of diffusers. With `denoise` they end at level 0. Without it they are one
    level later (steps_offset = 1 there), and level 0 comes after them.
    """
    last, scale = _chain(sde, "leading")
    return ((n_steps - 1) * ((last + 1) // n_steps) + (not denoise)) * scale


GRIDS: dict[str, Callable[[SDE, float, float, int, float | None], Levels]] = {
    "karras": _karras,
    "exponential": _exponential,
    "log_snr": _exponential,
    "polyexponential": _polyexponential,
    "uniform": _uniform,
    "quadratic": _quadratic,
    "ddim": _ddim,
    "leading": _leading,
    "trailing": _trailing,
    "linspace": _linspace,
}


def noise_levels(
    sde: SDE,
    grid: Grid,
    high: float,
    low: float,
    n: int,
    rho: float | None,
    denoise: bool,
) -> Levels:
    """Makes a grid of n decreasing noise levels.

    Args:
        sde: the forward SDE, for the times of the levels.
        grid: a name in GRIDS, or the levels themselves.
        high: the first level.
        low: the last level, except for the grid "ddim" with `denoise`.
        n: number of levels.
        rho: parameter of "karras" and "polyexponential"; None for the default of the grid.
        denoise: True if a step from the last level to x_0 follows. Without it "ddim" is "uniform".

    Raises:
        ValueError: the levels do not decrease or are not positive, or the first of the given
            levels is not `high`.
    """
    if not isinstance(grid, str):
        levels = np.asarray(grid, np.float64)
        if known(high) and abs(levels[0] / high - 1) > SLACK:
            raise ValueError(
                f"grid begins with {levels[0]:g}, `start` with a noise level of {high:g}: they "
                "must agree"
            )
    else:
        name = "uniform" if grid == "ddim" and not denoise else grid
        if isinstance(sde, Table) and name in CHAIN_GRIDS:
            ends = {"the first noise level": high, "the last noise level": low}
            check_known(f"the grid {name!r} takes levels of the chain", **ends)
        end = [low] if name == "leading" and not denoise else []
        levels = GRIDS[name](sde, high, low, n - len(end), rho)
        xp = numpy_of(levels, end)
        levels = xp.append(levels, xp.asarray(end, float))
    if known(levels) and not ((np.diff(levels) < 0).all() and levels[-1] > 0):
        raise ValueError(
            f"the grid {grid!r} of {n} noise levels from {high:g} to {low:g} must decrease to "
            f"a positive number, not be {np.array2string(levels, threshold=10)}: take fewer steps "
            "or another grid"
        )
    return levels


def check_grid(grid: Grid, rho: float | None) -> Grid:
    """Checks a grid and its rho, and returns the grid: its name, or its levels as a tuple.

    Raises:
        ValueError: an unknown name, levels that do not decrease, a rho out of range, or a rho for
            a grid without that parameter.
    """
    if rho is not None and known(rho) and not 0.1 <= rho <= 100:
        raise ValueError(f"rho is {rho}: it must be in [0.1, 100]")
    if rho is not None and grid not in ("karras", "polyexponential"):
        raise ValueError(f"rho is {rho}: only 'karras' and 'polyexponential' take it, not {grid!r}")
    if isinstance(grid, str):
        check_name("grid", grid, GRIDS)
        return grid
    check_known("given noise levels are checked on the host", grid=grid)
    levels = np.asarray(grid, np.float64)
    if levels.ndim != 1 or not (np.isfinite(levels) & (levels > 0)).all() or not levels.size:
        raise ValueError(f"grid is {grid}: it must be a name, or positive noise levels")
    if not (np.diff(levels) < 0).all():
        raise ValueError(f"grid is {grid}: noise levels must decrease")
    return tuple(levels.tolist())


def time_of(sde: SDE, level: float) -> float:
    """Time t at which the noise level sigma / alpha is `level`."""
    with jax.ensure_compile_time_eval():
        return as_number(sde.inverse_noise_level(as_float(level)))


def levels_at(sde: SDE, t: np.ndarray | list[float]) -> Levels:
    """Noise levels sigma / alpha at the times t, in float64; traced ones in JAX's precision."""
    with jax.ensure_compile_time_eval():
        levels = sde.noise_level(jnp.asarray(t, float))
        return np.asarray(levels, np.float64) if known(levels) else levels  # pyright: ignore
