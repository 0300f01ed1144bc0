"""Churn: noise added at the start of a step (Karras et al. 2022, Algorithm 2)."""

import dataclasses
import math
from typing import Self

from samplers.noise_levels import Levels
from samplers.solver import NoiseLevelSolver
from sde_lib.batch import numpy_of
from sde_lib.checks import known


@dataclasses.dataclass(frozen=True)
class Churn(NoiseLevelSolver):
    """Base class of deterministic solvers whose steps may first add noise.

    Attributes:
        s_churn: amount of noise. It raises the noise level l at the start of a step to
            l (1 + min(s_churn / n_steps, sqrt(2) - 1)); 0 adds none.
        s_tmin: lowest noise level at which noise is added.
        s_tmax: highest noise level at which noise is added.
        s_noise: standard deviation of the noise, relative to the one that the raised level needs.

    Raises:
        ValueError: a number that is negative, s_churn or s_noise infinite, s_tmin > s_tmax, or one
            of the others without s_churn.
    """

    s_churn: float = 0.0
    s_tmin: float = 0.0
    s_tmax: float = math.inf
    s_noise: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if not known(self.s_churn, self.s_tmin, self.s_tmax, self.s_noise):
            return
        finite = math.isfinite(self.s_churn) and math.isfinite(self.s_noise)
        positive = self.s_churn >= 0 and self.s_noise >= 0 and 0 <= self.s_tmin <= self.s_tmax
        if not (finite and positive):
            raise ValueError(
                f"s_churn = {self.s_churn}, s_tmin = {self.s_tmin}, s_tmax = {self.s_tmax}, s_noise"
                f" = {self.s_noise}: none may be negative, and s_tmin not above s_tmax"
            )
        plain = (self.s_tmin, self.s_tmax, self.s_noise) == (0.0, math.inf, 1.0)
        if self.s_churn == 0 and not plain:
            raise ValueError(
                f"s_churn is 0, so s_tmin = {self.s_tmin}, s_tmax = {self.s_tmax} and s_noise = "
                f"{self.s_noise} change nothing: leave these out, or give s_churn too"
            )

    @property
    def noise_share(self) -> float | None:
        return None if self.s_churn else 0.0

    def from_levels(self, levels: Levels) -> Self:
        made = super().from_levels(levels)
        return dataclasses.replace(made, s_churn=self.s_churn * made.n_steps / self.n_steps)

    def inflated(self, levels: Levels) -> tuple[Levels, Levels]:
        xp = numpy_of(levels, self.s_churn, self.s_tmin, self.s_tmax, self.s_noise)
        gamma = xp.minimum(self.s_churn / self.n_steps, math.sqrt(2) - 1)
        gamma = xp.where((levels >= self.s_tmin) & (levels <= self.s_tmax), gamma, 0.0)
        # The root has no derivative at 0, where no noise is added.
        added = xp.sqrt(xp.where(gamma > 0, gamma * (2 + gamma), 1.0)) * (gamma > 0)
        return levels * (1 + gamma), self.s_noise * levels * added
