"""Gains of the optimal discriminator between two mixtures of Gaussians, by the weight."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import sde_lib
from experiments.data.sources.points import MIXTURE
from samplers import guidance
from sde_lib import SDE, GaussianMixture, gain

MODEL = GaussianMixture(  # nearer to the middle, wider, and with wrong shares
    (0.2, 0.05, 0.15, 0.1, 0.2, 0.05, 0.15, 0.1),
    tuple(tuple(0.9 * place for place in mean) for mean in MIXTURE.means),
    1.5 * MIXTURE.std,
)
ORDER = 8  # nodes of the quadrature that the flow's densities are computed at


class Gain(NamedTuple):
    """The gains of a weight in nats, and divergences in nats.

    Attributes:
        weight: of guidance, in all evaluations and at all noise levels.
        model: KL(data || model).
        scores: the fall of the bound on it (the first gain of sde_lib/gain.py).
        density: KL(data || model) - KL(data || q r^w / Z) at t = 0 (the second gain).
        flow: KL(data || model) - KL(data || guided), of the density that the guided probability
            flow has.
    """

    weight: float
    model: float
    scores: float
    density: float
    flow: float


def gains(
    sde: SDE,
    weights: tuple[float, ...],
    data: GaussianMixture = MIXTURE,
    model: GaussianMixture = MODEL,
) -> list[Gain]:
    """The gains at each weight, by quadrature."""
    log_ratio = gain.optimal_log_ratio(sde, data, model)
    first = gain.kl_divergence(data, model)
    score = model.score_fn(sde)
    x, shares = data.quadrature(ORDER)
    x = jnp.asarray(x, float)
    own = np.dot(shares, np.asarray(data.log_prob(x), np.float64))

    @jax.jit
    def flow(weight: jax.Array) -> jax.Array:
        guided = guidance.gradient(score, log_ratio, weight)
        key = jax.random.key(0)  # of nothing: the divergence is exact
        return sde_lib.log_likelihood(key, sde, guided, x, probe="exact").log_prob

    def at(weight: float) -> Gain:
        guided = guidance.gradient(score, log_ratio, weight)
        scores = gain.score_gain(sde, data, score, guided)
        density = gain.density_gain(
            data, model, lambda x: data.log_prob(x) - model.log_prob(x), weight
        )
        divergence = own - np.dot(shares, np.asarray(flow(jnp.float32(weight)), np.float64))
        return Gain(weight, first, scores, float(density), float(first - divergence))

    return [at(float(weight)) for weight in weights]
