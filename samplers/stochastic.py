"""Base classes of the stochastic solvers: the reverse SDE and ancestral sampling."""

import dataclasses
from typing import ClassVar

import numpy as np

from samplers.noise_levels import Levels
from samplers.solver import NoiseLevelSolver
from sde_lib.batch import numpy_of
from sde_lib.checks import known

MOST_ETA = 10.0  # beyond it the noise's levels are too many orders apart for float32


@dataclasses.dataclass(frozen=True)
class Stochastic(NoiseLevelSolver):
    """Base class of solvers of the reverse SDE dy = (1 + eta) eps dl + sqrt(2 eta l) dw.

    Attributes:
        eta: amount of noise: 0 is the probability flow, 1 the reverse SDE of Song et al. 2021,
            Eq. 6.
        s_noise: standard deviation of the noise, relative to that of the equation.

    Raises:
        ValueError: eta or s_noise out of range.
    """

    eta: float = 1.0
    s_noise: float = 1.0

    most_eta: ClassVar[float] = MOST_ETA

    def __post_init__(self):
        super().__post_init__()
        check_range(self.most_eta, eta=self.eta)
        check_range(np.inf, s_noise=self.s_noise)

    @property
    def noise_share(self) -> float | None:
        return self.eta

    def exact(self, now: Levels, then: Levels) -> tuple[Levels, Levels]:
        """(decay, std): y' = D + decay (y - D) + std z solves the SDE exactly for a constant D.

        Lu et al. 2022 (arXiv 2211.01095), Section 5.
        """
        log_ratio = np.log(then / now)
        std = self.s_noise * then * np.sqrt(-np.expm1(2 * self.eta * log_ratio))
        return np.exp((1 + self.eta) * log_ratio), std


@dataclasses.dataclass(frozen=True)
class Ancestral(Stochastic):
    """Base class of ancestral solvers: a deterministic step below the next level, then noise.

    Attributes:
        eta: eta of DDIM: 0 is the probability flow, 1 has the variance of q(x_s | x_t, x_0).
    """

    most_eta: ClassVar[float] = 1.0

    def split(self, now: Levels, then: Levels) -> tuple[Levels, Levels]:
        """(down, up): a step to the level `down` and noise of standard deviation `up` reach `then`.

        DDIM's sigma_t(eta) (Song et al. 2021, arXiv 2010.02502, Eq. 16) in noise levels.
        """
        xp = numpy_of(now, then, self.eta)
        up = self.eta * then * xp.sqrt((now - then) * (now + then)) / now
        return xp.sqrt((then - up) * (then + up)), self.s_noise * up


def check_range(most: float, **values: float) -> None:
    """Raises ValueError for a value that is outside [0, most] or not finite."""
    for name, value in values.items():
        if known(value) and not (0 <= value <= most and value < np.inf):
            expected = "a number from 0 on" if most == np.inf else f"in [0, {most:g}]"
            raise ValueError(f"{name} is {value}: it must be {expected}; 0 makes no noise")
