"""Scores mixed with that of a standard normal variable (Vahdat et al. 2021, LSGM, Section 3.2).

score(x, t) = (1 - a) n(x, t) + a s(x, t), where n = -x / (alpha^2 + sigma^2) is the score of
standard normal data, s that of the network, and a in (0, 1) a learned number for each dimension.
Where the latents of a dimension are normal already, the network has nothing to learn.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from models.parametrization import NoiseModel
from sde_lib import ScoreFn
from sde_lib.batch import expand

MIXING = "mixing"  # the name of the logits of a, beside the parameters of the network
FIRST_LOGIT = 0.0


@dataclasses.dataclass(frozen=True)
class MixedModel(NoiseModel):
    """A network of noisy latents whose score is mixed with a standard normal variable's.

    The network must not learn the variance of DDPM's step.
    """

    def init(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Any:
        """Random parameters of the network, and the logits of a, of the shape of a sample."""
        logits = jnp.full(shape[1:], FIRST_LOGIT)
        return {**super().init(key, shape), MIXING: logits}

    def score_fn(self, params: Any, *args: Any, **options: Any) -> ScoreFn:
        """The mixed score function; arguments as of NoiseModel.score_fn."""
        own, a = super().score_fn(params, *args, **options), jax.nn.sigmoid(params[MIXING])

        def score(x: jax.Array, t: jax.Array) -> jax.Array:
            power = self.sde.alpha(t) ** 2 + self.sde.sigma(t) ** 2
            return a * own(x, t) - (1 - a) * x / expand(power, x)

        return score
