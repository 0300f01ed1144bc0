"""DPM-Solver, singlestep, with noise prediction (Lu et al. 2022, arXiv 2206.00927)."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from samplers.lms import LMS, check_order
from samplers.noise_levels import Grid, Levels
from samplers.solver import NoiseLevelSolver, Plan
from sde_lib import SDE

STAGES = {1: (0.0,), 2: (0.0, 1 / 2), 3: (0.0, 1 / 3, 2 / 3)}  # places in the step: 0 and the r_i


def stage_weights(
    level: Any, h: Any, order: int, expm1: Callable[[Any], Any] = np.expm1
) -> list[list[Any]]:
    """Weights of the predicted noises in one step: the exponential Runge-Kutta tableau.

    Row i holds the weights of noises 0, ..., i in the sum that is added to y to reach stage i + 1;
    the last row reaches the end of the step (Eq. 3.7, Algorithms 1 and 2).

    Args:
        level: noise level at which the step starts.
        h: size of the step in half the log-SNR.
        order: 1, 2 or 3.
        expm1: np.expm1 or jnp.expm1.
    """

    def constant(r):
        """Weight of a constant noise, up to the place r of the step."""
        return level * expm1(-r * h)

    def change(r, r_before):
        """Weight, up to the place r, of the noise at r_before minus the noise at 0."""
        return level * (1 + expm1(-r * h) + expm1(-r * h) / (r * h)) * r / r_before

    if order == 1:
        return [[constant(1)]]
    if order == 2:
        return [[constant(1 / 2)], [0.0, constant(1)]]
    b, c = change(2 / 3, 1 / 3), change(1, 2 / 3)
    return [[constant(1 / 3)], [constant(2 / 3) - b, b], [constant(1) - c, 0.0, c]]


@dataclasses.dataclass(frozen=True)
class _Singlestep(NoiseLevelSolver):
    """Base class of singlestep solvers, whose steps have one to three stages.

    Every stage is one iteration of the loop, and adds a weighted sum of the noises so far, as in
    LMS. A frame may show a stage.
    """

    grid: Grid = "log_snr"

    n_past: ClassVar[int] = 2
    takes_tuple: ClassVar[bool] = False  # an iteration does not know its stage

    @property
    @abc.abstractmethod
    def orders(self) -> list[int]:
        """Order of each step, without the final step to x_0."""

    @property
    def n_levels(self) -> int:
        return len(self.orders) + 1

    @property
    def n_moves(self) -> int:
        return sum(self.orders)

    def levels(self, sde: SDE, high: float, low: float) -> Levels:
        grid = super().levels(sde, high, low)
        steps = zip(self.orders, grid[:-1], grid[1:], strict=True)
        stages = [now * (then / now) ** r for order, now, then in steps for r in STAGES[order]]
        return np.array([*stages, grid[-1]])

    def plan(self, now: Levels, then: Levels) -> Plan:
        weights, k = np.zeros((len(now), self.n_past + 1)), 0
        for order in self.orders:
            h = np.log(now[k] / then[k + order - 1])
            before = np.zeros(order)
            for i, row in enumerate(stage_weights(now[k], h, order)):
                total = np.append(row, np.zeros(order - 1 - i))
                weights[k + i, : i + 1] = (total - before)[i::-1]
                before = total
            k += order
        return Plan(now[:, None], weights)

    step = LMS.step


@dataclasses.dataclass(frozen=True)
class DPMSolver(_Singlestep):
    """DPM-Solver-1, -2 or -3: steps of `order` evaluations each, and one for the step to x_0.

    Attributes:
        order: order of convergence, 1 (DDIM), 2 or 3.

    Raises:
        ValueError: any other order.
    """

    order: int = 3

    def __post_init__(self):
        check_order(self.order, (1, 2, 3))
        super().__post_init__()

    @property
    def orders(self) -> list[int]:
        return [self.order] * (self.n_steps - self.denoise)


@dataclasses.dataclass(frozen=True)
class DPMFast(_Singlestep):
    """DPM-Solver-fast (Section 3.4): n_steps is the number of evaluations, with that for x_0.

    It makes steps of order 3, then one of order 1 or 2, or one of order 2 and one of order 1. By
    default it does not denoise: an evaluation is worth more in the steps than at sigma_min.
    """

    denoise: bool = False

    def _steps_of(self, n_levels: int) -> int:
        return sum(self.orders[len(self.orders) - (n_levels - 1) :]) + self.denoise

    @property
    def orders(self) -> list[int]:
        n = self.n_steps - self.denoise
        last = [[2, 1], [1], [2]][n % 3] if n else []
        return [3] * ((n - sum(last)) // 3) + last
