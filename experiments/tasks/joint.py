"""Score models of latents whose encoder, or flow, is trained with them: LSGM and INDM.

The loss is a bound of -log p(x) in nats, with gradients in all parameters:

    cross-entropy of the latents by denoising (sde_lib.cross_entropy) - log_ratio,

where log_ratio is log p(x | z) - log q(z | x) of LSGM's encoder and decoder (Vahdat et al. 2021,
Eq. 6 and 8), or log |det dz/dx| of INDM's flow (Kim et al. 2022, Theorem 1).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from experiments.pipeline.codec import CODEC, Codec
from experiments.runs import devices
from experiments.tasks.base import Description
from experiments.tasks.score_model import ScoreModel


@dataclasses.dataclass(frozen=True, eq=False)
class JointModel(ScoreModel):
    """The task of a score model with a codec."""

    @property
    def codec(self) -> Codec:
        """The model's codec."""
        assert self.model.codec is not None
        return self.model.codec

    def init(self, key: jax.Array) -> Any:
        codec = self.codec.init(jax.random.fold_in(key, 1), self.shape)
        return {**super().init(key), CODEC: codec}

    def loss(self, params, keys, carry, first_index, x, conditions):
        model, key = self.model, keys["loss"]
        conditions = model.complete(conditions, key, x, first_index, training=True)
        conditions = model.conditions.drop(keys["labels"], conditions, first_index)
        score_fn = model.model.score_fn(params, True, keys["dropout"], **conditions)
        encoded = self.codec.encode(params[CODEC], model.sde, key, x, first_index)
        about = key, model.sde, score_fn, encoded.start
        losses, _ = self.loss_of(params)(*about, first_index=first_index)
        return jnp.mean(losses - encoded.log_ratio), {}

    def metrics(self, params, key, batch, first_index):
        """The bound of each sample in nats as "loss", and "t" and "error" of the latents."""
        model, (x, given) = self.model, batch
        x = model.scaling.to_model_each(key, x, first_index)
        conditions = model.complete(given, key, x, first_index, training=True)
        params = devices.gather(model.mesh, params)
        score_fn = devices.spread(model.mesh, model.model.score_fn(params, **conditions))
        encoded = self.codec.encode(params[CODEC], model.sde, key, x, first_index)
        about = key, model.sde, score_fn, encoded.start
        losses, metrics = self.held_out_loss(*about, first_index=first_index, stratified=False)
        return {"loss": losses - encoded.log_ratio} | metrics

    def describe(self) -> Description:
        about = super().describe()
        what = "flow" if self.codec.exact else "encoder and decoder"
        limits = [*about.limits, f"It diffuses latents of a {what} that was trained with it."]
        if not self.codec.exact:
            limits.append("Its bits/dim are a bound from above, of one latent for each sample.")
        return about._replace(kind="diffusion model in latents of its own", limits=limits)
