"""DPM-Solver, singlestep, by the noise (Lu et al. 2022, arXiv 2206.00927)."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from samplers.lms import LMS, check_order
from samplers.noise_levels import Grid, Levels
from samplers.solver import NoiseLevelSolver, Plan
from sde_lib import SDE

STAGES = {1: (0.0,), 2: (0.0, 1 / 2), 3: (0.0, 1 / 3, 2 / 3)}  # parts of the step: 0 and the r_i


def stage_weights(
    level: Any, h: Any, order: int, expm1: Callable[[Any], Any] = np.expm1
) -> list[list[Any]]:
    """Row i: the noises' weights in what is added to y to reach stage i + 1, or at last the end.

    The exponential Runge-Kutta methods of Eq. 3.7 and Algorithms 1 and 2.

    Args:
        level: where the step starts.
        h: its length in half the log-SNR.
        order: 1, 2 or 3.
        expm1: numpy's or JAX's.
    """

    def constant(r):
        """The weight of a noise that does not change."""
        return level * expm1(-r * h)

    def change(r, r_before):
        """The weight of the noise at the stage r_before less the first."""
        return level * (1 + expm1(-r * h) + expm1(-r * h) / (r * h)) * r / r_before

    if order == 1:
        return [[constant(1)]]
    if order == 2:
        return [[constant(1 / 2)], [0.0, constant(1)]]
    b, c = change(2 / 3, 1 / 3), change(1, 2 / 3)
    return [[constant(1 / 3)], [constant(2 / 3) - b, b], [constant(1) - c, 0.0, c]]


@dataclasses.dataclass(frozen=True)
class _Singlestep(NoiseLevelSolver):
    """Steps of one to three stages.

    Every stage is a step of the loop, by a sum of the noises so far as in LMS: so a program holds
    the network once, whatever the orders, and once more for the step to x_0. Frames may show a
    stage.
    """

    grid: Grid = "log_snr"

    n_past: ClassVar[int] = 2
    takes_tuple: ClassVar[bool] = False  # a step of the loop knows not which stage it is

    @property
    @abc.abstractmethod
    def orders(self) -> list[int]:
        """Of the steps before that to x_0."""

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
    """DPM-Solver-1, -2 or -3: n_steps steps of `order` evaluations; that to x_0 is of one.

    Attributes:
        order: from 1, DDIM, to 3.

    Raises:
        ValueError: another order.
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
    """DPM-Solver-fast (Section 3.4): n_steps is the number of evaluations, that for x_0 included.

    They are spent on steps of order 3, then one of order 1 or 2, or one of 2 and one of 1. By
    default it ends at sigma_min: an evaluation less for the steps is worse than the noise there.
    """

    denoise: bool = False

    @property
    def orders(self) -> list[int]:
        n = self.n_steps - self.denoise
        last = [[2, 1], [1], [2]][n % 3] if n else []
        return [3] * ((n - sum(last)) // 3) + last
