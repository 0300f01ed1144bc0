"""Rescaled guidance (Lin et al. 2023, arXiv 2305.08891, Section 3.4)."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array

from sde_lib import SDE
from sde_lib.batch import Batch, PerSample, expand
from sde_lib.checks import check_in


@dataclasses.dataclass(frozen=True)
class Rescale:
    """Guidance whose estimate of x_0 has the contrast of the unguided one.

    With D = E[x_0 | x_t], D_w the guided estimate and std the standard deviation over a sample's
    values, the estimate becomes phi (std(D) / std(D_w)) D_w + (1 - phi) D_w (Eq. 15 and 16, which
    the paper applies to the network's output).

    Attributes:
        phi: share of the rescaled estimate: 0 changes nothing; the paper takes 0.7.

    Raises:
        ValueError: phi outside [0, 1].
    """

    phi: float = 0.7

    def __post_init__(self):
        check_in("[0, 1]", phi=self.phi)

    def __call__(
        self, sde: SDE, x: Batch, t: PerSample, weight: Array, own: Batch, guided: Batch
    ) -> Batch:
        """The score of the rescaled estimate, from the unguided and the guided score."""
        variance = expand(sde.sigma(t) ** 2, x)
        estimate = x + variance * guided  # alpha D_w: alpha does not change the ratio
        ratio = _std(x + variance * own) / jnp.maximum(_std(estimate), jnp.finfo(x.dtype).tiny)
        return guided + self.phi * (ratio - 1) * estimate / variance


def _std(x: Batch) -> Batch:
    """The standard deviation over each sample's values, [B, 1, ...]."""
    return jnp.std(x, axis=tuple(range(1, x.ndim)), keepdims=True)
