"""Noise-conditional discriminators (Kim et al. 2023, arXiv 2211.17091): a head on an encoder."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from models.checked import CheckedNetwork
from models.conditions import ClassLabels, encode_labels
from models.layers import Dense, Embedding, ResnetBlock, group_norm
from models.mlp import Points
from models.resample import Image, side_axes


class Discriminator(CheckedNetwork):
    """Logits of two classes: 0 for samples of a model, 1 for data.

    Attributes:
        encoder: the network that computes the features, called with `features=True`.
        frozen: train the head only; the encoder keeps another run's weights.
        dropout: dropout probability of the head in training.
        reader: a network in place of the head, such as ADMHead.
        num_classes: classes of the data, with which the head is conditioned; 0: none. A reader has
            its own number.
    """

    encoder: nn.Module
    frozen: bool = False
    dropout: float = 0.0
    reader: nn.Module | None = None
    num_classes: int = 0

    @nn.compact
    def __call__(
        self,
        x: Image | Points,
        labels: Float[Array, " batch"],
        train: bool = False,
        class_labels: ClassLabels | None = None,
    ) -> Float[Array, "batch 2"]:
        """The logits. x and labels are scaled as the encoder was trained with them.

        Raises:
            ValueError: class_labels are missing, or the head is not conditioned on classes.
        """
        encoder: Any = self.encoder
        h, temb = encoder(x, labels, train and not self.frozen, features=True)
        if self.frozen and train:  # outside training the gradient in x is kept: guidance needs it
            h, temb = lax.stop_gradient((h, temb))
        own = {"parent": self, "name": "head"}  # parameters of any head are of this name
        reader = self.reader
        head: Any = reader.clone(**own) if reader else Head(self.dropout, self.num_classes, **own)
        return head(h, temb, labels, train, class_labels)


class Head(nn.Module):
    """A residual block conditioned on the noise level, global average pooling, and a linear map.

    The logits are equal at initialisation, so that an untrained head does not guide.

    Attributes:
        dropout: dropout probability in training.
        num_classes: classes of the data, each with an embedding that is added to that of the noise
            level; 0: none.
    """

    dropout: float
    num_classes: int = 0

    @nn.compact
    def __call__(
        self,
        h: Array,
        temb: Embedding | None,
        labels: Float[Array, " batch"],
        train: bool = False,
        class_labels: ClassLabels | None = None,
    ) -> Float[Array, "batch 2"]:
        channels = h.shape[-1]
        classes, *_ = encode_labels(self, len(h), class_labels, None, None)
        if classes is not None:
            width = channels if temb is None else temb.shape[-1]
            embedding = Dense(width, use_bias=False, name="class_embedding")(classes)
            temb = embedding if temb is None else temb + embedding
        if h.ndim == 2:  # points are treated as images of one pixel
            h = h[:, None, None]
        block = ResnetBlock(channels, nn.swish, "ddpm", self.dropout, True, 0.0)
        h = nn.swish(group_norm(channels)(block(h, temb, train)))
        return nn.Dense(2, kernel_init=nn.initializers.zeros)(h.mean(side_axes(h), jnp.float32))
