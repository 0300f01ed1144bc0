"""DPM-Solver++: deterministic steps with data prediction (Lu et al. 2022b, arXiv 2211.01095)."""

import dataclasses
from typing import Any, ClassVar

from jaxtyping import Array

from samplers.lms import combine
from samplers.noise_levels import Levels
from samplers.solver import Model, NoiseLevelSolver, Plan
from sde_lib.batch import Batch, numpy_of


@dataclasses.dataclass(frozen=True)
class DPMpp2S(NoiseLevelSolver):
    """DPM-Solver++(2S), Algorithm 1 with r_1 = 1/2: the step uses D at its midpoint in log-SNR."""

    evaluations: ClassVar[int] = 2

    def plan(self, now: Levels, then: Levels) -> Plan:
        xp = numpy_of(now, then)
        middle = xp.sqrt(now * then)
        return Plan(xp.column_stack([now, middle]), (middle / now, then / now))

    def step(self, model: Model, y: Batch, c: Any, past: Array, z: Array) -> tuple[Batch, Array]:
        half, whole = c
        middle = half * y + (1 - half) * model.denoised(y)
        return whole * y + (1 - whole) * model.denoised(middle, 1), past


@dataclasses.dataclass(frozen=True)
class DPMpp2M(NoiseLevelSolver):
    """DPM-Solver++(2M), Algorithm 2: D is extrapolated in log-SNR from its last two evaluations.

    The first step has one evaluation only, and is of order 1.
    """

    n_past: ClassVar[int] = 1
    least_steps: ClassVar[int] = 2

    def plan(self, now: Levels, then: Levels) -> Plan:
        xp = numpy_of(now, then)
        h = xp.log(now / then)
        extrapolated = xp.append(xp.zeros(1), h[1:] / (2 * h[:-1]))  # 1 / (2 r_i)
        ratio = then / now
        last = (ratio - 1) * extrapolated
        return Plan(now[:, None], xp.column_stack([ratio, 1 - ratio - last, last]))

    def step(self, model: Model, y: Batch, c: Any, past: Array, z: Array) -> tuple[Batch, Array]:
        denoised = model.denoised(y)
        return combine(c, [y, denoised, past[0]]), denoised[None]
