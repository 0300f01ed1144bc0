"""UniPC: predictor and corrector that share an evaluation (Zhao et al. 2023, arXiv 2302.04867)."""

import dataclasses
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from samplers.lms import basis_integrals, check_order, combine
from samplers.noise_levels import Levels
from samplers.solver import Model, NoiseLevelSolver, Plan
from sde_lib.batch import Batch
from sde_lib.checks import check_name


@dataclasses.dataclass(frozen=True)
class UniPC(NoiseLevelSolver):
    """Multistep UniPC-p with data prediction: UniP-p predicts a state, and UniC-p corrects it.

    A step evaluates the model once, at the predicted state y. With that evaluation it corrects y,
    then predicts the next state (Algorithms 1 and 2). The first steps have the orders 1, 2, ...,
    and with `denoise` the last ones ..., 2, 1. The final state is not corrected, which would take
    one more evaluation.

    Attributes:
        order: p, from 1 to 3; the order of convergence is p + 1.
        variant: "bh1", B(h) = h, or "bh2", B(h) = e^h - 1. They differ in UniC-1 and UniP-2 only.

    Raises:
        ValueError: an unknown order or variant, or fewer steps than the order.
    """

    order: int = 2
    variant: Literal["bh1", "bh2"] = "bh2"

    n_past: ClassVar[int] = 4  # the last corrected state, and three evaluations

    def __post_init__(self):
        super().__post_init__()
        check_order(self.order, (1, 2, 3))
        self.check_steps(self.order)
        check_name("variant", self.variant, ("bh1", "bh2"))

    @property
    def fewest_steps(self) -> int:
        return self.order

    def plan(self, now: Levels, then: Levels) -> Plan:
        half_log_snr = -np.log(now)
        ends = -np.log(then)
        correct, predict = np.zeros((len(now), 6)), np.zeros((len(now), 4))
        correct[0, 0] = 1.0  # the first state needs no correction
        for k in range(len(now)):
            order = min(self.order, self.n_steps - k) if self.denoise else self.order
            nodes = half_log_snr[max(0, k + 1 - order) : k + 1][::-1]
            predict[k, 0] = then[k] / now[k]
            predict[k, 1 : 1 + len(nodes)] = self._weights(nodes, ends[k])
            if k + 1 < len(now):
                weights = self._weights(np.append(nodes, ends[k]), ends[k])
                correct[k + 1, 1] = weights[-1]
                correct[k + 1, 2] = predict[k, 0]
                correct[k + 1, 3 : 2 + len(weights)] = weights[:-1]
        return Plan(now[:, None], (correct, predict))

    def _weights(self, nodes: Levels, end: float) -> Levels:
        """Weights of the evaluations at `nodes` in a step from nodes[0] to `end`, in half log-SNR.

        With three or more nodes the solution of R_p(h) a_p B(h) = psi_p(h) is the integral of the
        polynomial through the nodes, for any B. With two nodes a_1 = 1/2 for all h.
        """
        start, h = nodes[0], end - nodes[0]
        if len(nodes) != 2:
            return basis_integrals(nodes, start, end, lambda x: np.exp(x - end))
        b = h if self.variant == "bh1" else -np.expm1(-h)
        weight = b / 2 * h / (nodes[1] - start)
        return np.array([-np.expm1(-h) - weight, weight])

    def step(self, model: Model, y: Batch, c: Any, past: Array, z: Array) -> tuple[Batch, Array]:
        correct, predict = c
        denoised = model.denoised(y)
        corrected = combine(correct, [y, denoised, *past])
        past = jnp.stack([corrected, denoised, *past[1:-1]])
        return combine(predict, past), past
