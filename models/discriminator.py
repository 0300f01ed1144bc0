"""Discriminators of noisy data (Kim et al. 2023, arXiv 2211.17091): a small head on an encoder."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from models.layers import Embedding, ResnetBlock, group_norm
from models.mlp import Points
from models.resample import Image


class Discriminator(nn.Module):
    """Logits of two classes: 0, the model's samples, and 1, the data.

    Attributes:
        encoder: the network whose features the head sees; called with `features=True`.
        frozen: only the head is trained: the encoder has the weights of another run.
        dropout: probability in the head, in training.
    """

    encoder: nn.Module
    frozen: bool = False
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, x: Image | Points, labels: Float[Array, " batch"], train: bool = False
    ) -> Float[Array, "batch 2"]:
        """The logits; the encoder sees x and labels as it does in its own run."""
        encoder: Any = self.encoder
        h, temb = encoder(x, labels, train and not self.frozen, features=True)
        if self.frozen and train:  # guidance needs the gradient in x, training that of the head
            h, temb = lax.stop_gradient((h, temb))
        return Head(self.dropout, name="head")(h, temb, train)


class Head(nn.Module):
    """A residual block, conditioned on the noise, the mean over positions, and a linear map.

    It starts with equal logits: before training, nothing is guided.
    """

    dropout: float

    @nn.compact
    def __call__(self, h: Array, temb: Embedding | None, train: bool) -> Float[Array, "batch 2"]:
        channels = h.shape[-1]
        if h.ndim == 2:  # points are images of one pixel
            h = h[:, None, None]
        block = ResnetBlock(channels, nn.swish, "ddpm", self.dropout, True, 0.0)
        h = nn.swish(group_norm(channels)(block(h, temb, train)))
        return nn.Dense(2, kernel_init=nn.initializers.zeros)(h.mean((1, 2), jnp.float32))
