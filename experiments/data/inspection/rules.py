"""Rules that turn measures of the training data into numbers of the noise, each with its reason."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from experiments.data.inspection.measure import Measures

EDM_STD, EDM_SIDE = 0.5, 64  # data to which EDM's density of noise levels was fitted
EDM_MEAN, EDM_SPREAD = -1.2, 1.2  # of log sigma (Karras et al. 2022, Table 1)
EDM_RATIO = 250  # standard deviation of the data over the least noise, 0.5 / 0.002
COARSEST = 4  # grid points a side at the bottom of a network, at least


class Advice(NamedTuple):
    """A recommended value, and a sentence that says why."""

    value: float | int | str
    reason: str


def sigma_data(measures: Measures) -> Advice:
    """The standard deviation of the data."""
    reason = "EDM's scaling of inputs and outputs has unit variance at the data's std"
    return Advice(rounded(measures.std), reason)


def sigma_max(measures: Measures) -> Advice:
    """The largest distance between training samples (Song & Ermon 2020, Technique 1)."""
    reason = "as large as the largest distance between samples (Song and Ermon 2020, Technique 1)"
    return Advice(rounded(measures.largest), reason + _from_some(measures))


def sigma_min(measures: Measures, gap: float | None) -> Advice:
    """The noise that hides no detail of the data.

    A sample's noise, of length sigma sqrt(d), must end halfway to the nearest other sample. It is
    also at most the std of the rounding to grey levels, gap / sqrt(12), or for floats EDM's share
    of the data's std.

    Args:
        measures: of the data.
        gap: between two grey levels in model space; None for floats.
    """
    half_way = measures.nearest / (2 * math.sqrt(math.prod(measures.shape)))
    finest = measures.std / EDM_RATIO if gap is None else gap / math.sqrt(12)
    if half_way < finest:
        reason = "noise of this std ends halfway to the nearest other sample"
        return Advice(rounded(half_way), reason + _from_some(measures))
    if gap is None:
        return Advice(rounded(finest), f"the std of the data / {EDM_RATIO}, as EDM has it")
    return Advice(rounded(finest), "the std of the rounding to grey levels, gap / sqrt(12)")


def noise_mean(measures: Measures) -> Advice:
    """The mean of log sigma in EDM's density, shifted by the data's std and by their resolution."""
    shift = resolution_shift(measures.shape)
    value = EDM_MEAN + math.log(measures.std / EDM_STD) + shift
    reason = f"EDM's {EDM_MEAN} + log(std / {EDM_STD})"
    if shift:
        reason += (
            f" + {shift:.2g}, log of the resolution over {EDM_SIDE} x {EDM_SIDE} points (Hoogeboom "
            "et al. 2023)"
        )
    return Advice(round(value, 2), reason)


def noise_std(measures: Measures) -> Advice:
    """The standard deviation of log sigma in EDM's density, wider for fine grids."""
    shift = resolution_shift(measures.shape)
    reason = f"EDM's {EDM_SPREAD}"
    if shift:
        reason += f" + {shift / 2:.2g}, half the mean's shift, so that low noise stays in place"
    return Advice(round(EDM_SPREAD + shift / 2, 2), reason)


def resolution_shift(shape: tuple[int, ...]) -> float:
    """The shift of log sigma that keeps the noise of a picture seen at 64 x 64 grid points.

    The mean of k values has 1 / sqrt(k) of their noise: half the log of the number of grid points
    over 64^2. In two dimensions that is log(side / 64) (Hoogeboom et al. 2023, arXiv 2301.11093).
    Coarser grids have no shift: EDM used the same density at 32 and at 64 pixels.
    """
    return max(0.0, 0.5 * math.log(math.prod(shape[:-1]) / EDM_SIDE**2))


def sde(measures: Measures, name: str, reaches: Mapping[str, float]) -> Advice:
    """The config's SDE if its noise goes as far as the data do, otherwise one whose noise does.

    Args:
        measures: of the data.
        name: of the config's SDE.
        reaches: the largest noise level sigma / alpha of SDEs by name, the preferred ones first.
    """
    far = f"the largest distance between samples, {measures.largest:.3g}"
    if name == "vesde":
        return Advice(name, f"its sigma_max can be {far}")
    for each in (name, *reaches):
        if (reach := reaches.get(each, 0.0)) >= measures.largest:
            return Advice(each, f"its largest noise level, {reach:.3g}, reaches {far}")
    return Advice("vesde", f"only its sigma_max can be {far}")


def halvings(shape: tuple[int, ...]) -> Advice:
    """The number of times that a network halves the grid, down to 4 to 7 points on the least side.

    Only sides that are divided evenly are halved.
    """
    grid = [side for side in shape[:-1] if side > 1]
    if not grid:
        return Advice(0, "vectors have no grid to halve")
    wanted = max(0, int(math.log2(min(grid) / COARSEST))) if min(grid) >= COARSEST else 0
    even = min((side & -side).bit_length() - 1 for side in grid)
    sides = " x ".join(str(side >> min(wanted, even)) for side in grid)
    reason = f"down to {sides} points, where a layer sees the whole sample"
    if even < wanted:
        unit = 2**wanted
        nearest = " x ".join(str(max(unit, round(side / unit) * unit)) for side in grid)
        reason = f"{reason}; {nearest} points could be halved {wanted} times"
    return Advice(min(wanted, even), reason)


def rounded(value: float) -> float:
    """The value to three digits."""
    return float(f"{value:.3g}")


def _from_some(measures: Measures) -> str:
    if measures.n == measures.total:
        return ""
    return f"; from {measures.n:,} of {measures.total:,} samples"
