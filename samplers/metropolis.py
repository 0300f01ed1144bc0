"""Metropolis correction of Langevin steps (Roberts & Tweedie 1996): MALA.

The proposal y = x + h s(x) + sqrt(2 h) z, with the score s, is accepted with the probability
min(1, p(y) q(x | y) / p(x) q(y | x)), where q(y | x) is its density. Then the chain leaves p
exactly as it is, which a plain Langevin step of finite size h does not.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from sde_lib.batch import Batch, PerSample, expand


class Visit(NamedTuple):
    """A state of the chain, its score and its log density up to a constant."""

    x: Batch
    score: Batch
    log_density: PerSample


def accept(before: Visit, proposal: Visit, step: PerSample, u: PerSample) -> Visit:
    """The proposal of a Langevin step of size `step` where u in [0, 1] accepts it, else `before`.

    A proposal whose density is not a number is not accepted.
    """

    def log_q(end: Visit, start: Visit) -> PerSample:
        gap = end.x - start.x - expand(step, start.x) * start.score
        return -jnp.sum(gap**2, axis=tuple(range(1, gap.ndim))) / (4 * step)

    log_ratio = proposal.log_density + log_q(before, proposal)
    log_ratio -= before.log_density + log_q(proposal, before)
    return choose(jnp.log(u) < log_ratio, proposal, before)


def choose(chosen: Bool[Array, "*batch"], there: Visit, otherwise: Visit) -> Visit:
    """The visit `there` of the samples that are chosen, `otherwise` of the others."""
    return jax.tree.map(lambda a, b: jnp.where(expand(chosen, a), a, b), there, otherwise)
