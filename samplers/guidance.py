"""Guidance: functions from a score function to a score function, that no sampler knows of."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from sde_lib import ScoreFn
from sde_lib.batch import PerSample, expand


def gradient(
    score_fn: ScoreFn,
    log_prob: Callable[[Array, Array], PerSample],
    weight: float | Callable[[PerSample], PerSample] = 1.0,
) -> ScoreFn:
    """score_fn + weight grad_x log_prob: guidance by a classifier or a discriminator.

    With weight = 1 and log_prob(x, t) = log p(y | x_t = x), the score given y (Song et al. 2021,
    Eq. 14; larger weights: Dhariwal & Nichol 2021).

    Args:
        score_fn: the score to be guided.
        log_prob: (x, t) -> [B] in nats; sample i's must depend on x[i] and t[i] alone.
        weight: a number, or a function of t, [B] -> [B].

    Raises:
        ValueError: in the result, a log_prob that is not one number a sample.
    """

    def guided(x: Array, t: Array) -> Array:
        def total(x):
            values = log_prob(x, t)
            if values.shape != t.shape:
                raise ValueError(
                    f"log_prob returned {values.shape} for x of shape {x.shape}: it must return "
                    f"one number a sample, {t.shape}"
                )
            return jnp.sum(values)

        w = jnp.asarray(weight(t) if callable(weight) else weight)
        return score_fn(x, t) + expand(w, x) * jax.grad(total)(x)

    return guided
