"""Sampling with a free diffusion coefficient w(t) (Ma et al. 2024, SiT, arXiv 2401.08740, Eq. 4).

The SDE dx = (v - w s / 2) dt + sqrt(w) dw, in reverse time with the velocity v of the probability
flow and the score s, has the marginals of the flow for every w(t) >= 0, which need not be that of
training. In units of the SDE's own noise w = eta g^2: the solvers with a field `eta` have w = eta
g^2 with a constant, and here eta depends on the noise level l = sigma / alpha.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from samplers.dpmpp_multistep_sde import DPMpp2MSDE
from samplers.noise_levels import Levels
from sde_lib.checks import check_name

DIFFUSIONS: dict[str, Callable[[Levels], Levels]] = {
    "constant": lambda level: 0.5 / level,
    "sigma": lambda level: 0.5 / (1 + level),
    "sine": lambda level: np.sin(np.pi * level / (1 + level)) ** 2 / (2 * level),
    "bump": lambda level: 0.5 / (1 + level) ** 2,
}
"""eta as functions of the noise level, by the name of w(t) in the linear flow: 1, t, sin^2(pi t),
and t (1 - t), where g^2 = 2 t / (1 - t) and t = l / (1 + l)."""
POINTS = 32  # of the integral over a step


@dataclasses.dataclass(frozen=True)
class FreeDiffusion(DPMpp2MSDE):
    """SDE-DPM-Solver++(2M) whose noise changes along the way; one evaluation a step.

    The mean of eta over each step, in log level, is the eta of that step, which is exact for a
    constant estimate of the data.

    Attributes:
        diffusion: a name in DIFFUSIONS, or a function from noise levels to eta.
        eta: factor of it; 0 is the probability flow.

    Raises:
        ValueError: an unknown diffusion; when called, one that is negative or not finite.
    """

    diffusion: str | Callable[[Levels], Levels] = "sigma"

    def __post_init__(self):
        super().__post_init__()
        if not callable(self.diffusion):
            check_name("diffusion", self.diffusion, DIFFUSIONS)

    @property
    def noise_share(self) -> float | None:
        return None if self.eta else 0.0

    def exact(self, now: Levels, then: Levels) -> tuple[Levels, Levels]:
        given: Any = self.diffusion
        of_level = given if callable(given) else DIFFUSIONS[given]
        points, weights = np.polynomial.legendre.leggauss(POINTS)
        log_ratio = np.log(then / now)
        levels = now[:, None] * np.exp(log_ratio[:, None] * (1 + points) / 2)
        eta = self.eta * np.asarray(of_level(levels), np.float64)
        if not ((eta >= 0).all() and np.isfinite(eta).all()):
            raise ValueError(
                f"diffusion gives eta from {eta.min():g} to {eta.max():g}: it must be from 0 on, "
                f"and finite, at all noise levels from {now.max():g} to {then.min():g}"
            )
        total = log_ratio * (eta @ weights / 2)
        std = self.s_noise * then * np.sqrt(-np.expm1(2 * total))
        return np.exp(log_ratio + total), std
