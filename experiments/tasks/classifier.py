"""Classifiers of noisy data: their training.

p(label | x, t) turns the score of p_t(x) into that of p_t(x | label) by Bayes' rule (Song et al.
2021, Section 5 and Appendix I). A classifier is a run of its own, in a folder of its own.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import models
import sde_lib
from experiments import build
from models.config import Config
from sde_lib import SDE, ScoreFn
from sde_lib.batch import Batch, PerSample
from sde_lib.noise_density import Quantile


def logits_fn(config: Config, sde: SDE, model: nn.Module, params: Any, **options) -> ScoreFn:
    """logits(x, t): [B, classes]. The classifier sees the noise as a score network does."""
    inputs = models.network_inputs(config, sde)
    return lambda x, t: model.apply({"params": params}, *inputs(x, t), **options)  # pyright: ignore


def cross_entropy(
    key: jax.Array,
    sde: SDE,
    logits_fn: Callable[[Batch, PerSample], jax.Array],
    x0: Batch,
    labels: jax.Array,
    first_index: int | jax.Array = 0,
    noise_density: Quantile | None = None,
) -> tuple[PerSample, dict[str, PerSample]]:
    """-log p(label | x_t, t) in nats of each sample, at a random t; sample i has its own key.

    Returns:
        The losses [B], and metrics [B]: "t" and "correct", whether the likeliest is the label.
    """
    x, t, *_ = sde_lib.perturb(key, sde, x0, noise_density, first_index=first_index)
    logits = logits_fn(x, t)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses, {"t": t, "correct": (jnp.argmax(logits, axis=1) == labels).astype(jnp.float32)}


def make_objective(config: Config, model: nn.Module) -> Callable[..., jax.Array]:
    """objective(params, keys, first_index, x, told): mean cross-entropy of a microbatch."""
    sde, noise_density = build.make_sde(config), build.make_noise_density(config)

    def objective(params, keys, first_index, x, told):
        logits = logits_fn(
            config, sde, model, params, train=True, rngs={"dropout": keys["dropout"]}
        )
        about = told["class_labels"], first_index, noise_density
        return jnp.mean(cross_entropy(keys["loss"], sde, logits, x, *about)[0])

    return objective
