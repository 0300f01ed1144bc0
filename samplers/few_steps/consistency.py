"""Multistep consistency sampling (Song et al. 2023, arXiv 2303.01469, Algorithm 1)."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar, Self

from samplers.euler import FreshNoise
from samplers.noise_levels import Grid, Levels
from sde_lib import SDE


@dataclasses.dataclass(frozen=True)
class Consistency(FreshNoise):
    """One estimate of the data from the prior, then rounds of fresh noise and another estimate.

    It is FreshNoise at other levels: those of a grid of one step more, without the last one, where
    there is nothing left to estimate. One step is enough; more correct some of the model's errors.

    Fields: see NoiseLevelSolver; sigma_min is the level where the grid would end.
    """

    n_steps: int = 1
    grid: Grid = "karras"

    needs: ClassVar[str] = "consistency"

    def levels(self, sde: SDE, high: float, low: float) -> Levels:
        return self._open(lambda sampler: FreshNoise.levels(sampler, sde, high, low))

    def own_levels(self, sde: SDE) -> Levels:
        return self._open(lambda sampler: FreshNoise.own_levels(sampler, sde))

    def _open(self, levels_of: Callable[[Self], Levels]) -> Levels:
        """The levels of a grid by name of one step more, without the last one."""
        if not (isinstance(self.grid, str) and self.denoise):
            return levels_of(self)
        return levels_of(dataclasses.replace(self, n_steps=self.n_steps + 1))[:-1]
