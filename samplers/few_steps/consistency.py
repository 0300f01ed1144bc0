"""Multistep consistency sampling (Song et al. 2023, arXiv 2303.01469, Algorithm 1)."""

import dataclasses
from typing import ClassVar

from samplers.euler import FreshNoise
from samplers.noise_levels import Grid, Levels, noise_levels
from sde_lib import SDE


@dataclasses.dataclass(frozen=True)
class Consistency(FreshNoise):
    """One estimate of the data from the prior, then rounds of fresh noise and another estimate.

    It is FreshNoise at other levels: those of a grid of one step more, without the last one, where
    there is nothing left to estimate. One step is enough for a consistency model. More steps correct
    some of its errors.

    Fields: see NoiseLevelSolver; sigma_min is the level where the grid would end.
    """

    n_steps: int = 1
    grid: Grid = "karras"

    needs: ClassVar[str] = "consistency"

    def levels(self, sde: SDE, high: float, low: float) -> Levels:
        if not isinstance(self.grid, str) or not self.denoise:
            return super().levels(sde, high, low)
        about = self.n_levels + 1, self.rho, self.denoise
        return noise_levels(sde, self.grid, high, low, *about)[:-1]
