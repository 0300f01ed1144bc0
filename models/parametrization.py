"""What a network's labels and output mean: the way from a network to a score function."""

from typing import Any

import flax.linen as nn
import jax
from jaxtyping import PRNGKeyArray

from models.config import Config
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

    Args:
        config: config.model.name decides, together with the SDE.
        sde: the forward SDE.
        model: from models.create(config).
        params: its parameters.
        train: apply dropout, with dropout_key.
        dropout_key: needed in training when the model has dropout.
    """
    rngs = {} if dropout_key is None else {"dropout": dropout_key}

    def score(x: jax.Array, t: jax.Array) -> jax.Array:
        sees_sigma = isinstance(sde, VE) or config.model.name == "mlp"
        labels = sde.sigma(t) if sees_sigma else 999 * t / sde.t_max
        output: Any = model.apply({"params": params}, x, labels, train=train, rngs=rngs)
        gives_score = isinstance(sde, VE) and config.model.name != "mlp"
        return output if gives_score else -output / expand(sde.sigma(t), x)

    return score
