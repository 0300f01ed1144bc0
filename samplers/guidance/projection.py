"""Adaptive projected guidance, APG (Sadat et al. 2024, arXiv 2410.02416).

The paper's momentum is left out. It sums the updates of earlier steps, and a score function here
depends on (x, t) alone: solvers evaluate it several times a step, adaptive ones go back, and
encoding runs it backwards.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array

from sde_lib import SDE
from sde_lib.batch import Batch, PerSample, expand
from sde_lib.checks import check_in, check_positive


@dataclasses.dataclass(frozen=True)
class Projected:
    """Guidance whose update is bounded, and split along the estimate of x_0 and across it.

    With D = E[x_0 | x_t] the update of the estimate is U = D_w - D = (w - 1) (D - D_other). Its
    part along D, which saturates colours, is multiplied by eta (Section 4).

    Attributes:
        eta: factor of the part along D: 0 drops it as in the paper, 1 keeps it.
        threshold: largest norm r of D - D_other, that is of U / |w - 1|; None for no bound. It
            grows with the square root of the number of values of a sample.

    Raises:
        ValueError: eta outside [0, inf) or a threshold outside (0, inf).
    """

    eta: float = 0.0
    threshold: float | None = None

    def __post_init__(self):
        check_positive(or_zero=True, eta=self.eta)
        check_in("(0, inf)", True, threshold=self.threshold)

    def __call__(
        self, sde: SDE, x: Batch, t: PerSample, weight: Array, own: Batch, guided: Batch
    ) -> Batch:
        """The score with the projected update, from the unguided and the guided score."""
        variance, update = expand(sde.sigma(t) ** 2, x), guided - own
        if self.threshold is not None:
            norm = variance / expand(sde.alpha(t), x) * jnp.sqrt(_dot(update, update))
            most = self.threshold * jnp.abs(weight - 1)
            update *= jnp.where(norm > most, most / jnp.where(norm > most, norm, 1), 1)
        along = x + variance * own  # alpha D
        square = _dot(along, along)
        part = _dot(update, along) / jnp.where(square > 0, square, 1) * along
        return own + update + (self.eta - 1) * part


def _dot(a: Batch, b: Batch) -> Batch:
    """The inner product of each sample of a and b, [B, 1, ...]."""
    return jnp.sum(a * b, axis=tuple(range(1, a.ndim)), keepdims=True)
