"""What a network's labels and output mean: the way from a network to a score function."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from models.config import Config
from models.registry import is_classifier
from sde_lib import SDE, VE, ScoreFn
from sde_lib.batch import expand


def score_fn(
    config: Config,
    sde: SDE,
    model: nn.Module,
    params: Any,
    train: bool = False,
    dropout_key: PRNGKeyArray | None = None,
) -> ScoreFn:
    """The score function of a network with the published conventions (Song et al. 2021).

    VE: the network sees sigma(t) and gives the score (`scale_by_sigma` divides inside it). Other
    SDEs: it sees 999 t / t_max and gives the noise, score = -output / sigma. The network for points
    ("mlp") always sees sigma(t) and gives the noise.

    With config.training.continuous = False the label is the index, among config.model.num_scales
    levels, of the level that is as noisy as x at t: an integer at a level, a fraction between two.

    Args:
        config: config.model and config.training.continuous decide, together with the SDE.
        sde: the forward SDE.
        model: from models.create(config).
        params: its parameters.
        train: apply dropout, with dropout_key.
        dropout_key: needed in training when the model has dropout.
    """
    rngs = {} if dropout_key is None else {"dropout": dropout_key}
    labels = noise_labels(config, sde)

    def score(x: jax.Array, t: jax.Array) -> jax.Array:
        output: Any = model.apply({"params": params}, x, labels(t), train=train, rngs=rngs)
        gives_score = isinstance(sde, VE) and config.model.name != "mlp"
        return output if gives_score else -output / expand(sde.sigma(t), x)

    return score


def noise_labels(config: Config, sde: SDE) -> Callable[[jax.Array], jax.Array]:
    """labels(t): what a network is conditioned on (score_fn says which); a classifier, as there."""
    if config.model.name == "mlp":
        return sde.sigma
    if "training" in config and not config.training.continuous and not is_classifier(config):
        levels = sde.levels(config.model.num_scales)
        order = np.argsort(levels)
        return lambda t: jnp.interp(sde.log_snr(t), levels[order], order)
    if isinstance(sde, VE):
        return sde.sigma
    # Positive, for classifiers take its logarithm.
    least = 999e-5 if is_classifier(config) else 0.0
    return lambda t: jnp.maximum(999 * t / sde.t_max, least)
