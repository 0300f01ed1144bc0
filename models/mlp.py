"""A score network for vectors, such as points in the plane and rows of tables."""

from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from models import conditions
from models.checked import CheckedNetwork
from models.layers import Embedding, FourierEmbedding
from sde_lib.checks import check_at_least

Points = Float[Array, "batch dims"]


class MLP(CheckedNetwork):
    """Residual MLP on vectors, conditioned on Fourier features of the log noise level.

    Attributes:
        nf: features of the hidden layers.
        num_res_blocks: number of residual blocks.
        fourier_scale: standard deviation of the Fourier frequencies.
        dropout: dropout probability in training.
        num_classes: classes that the network is conditioned on; 0 for none.
        text: kind of caption, "bytes" or "embeddings" (models.text), of which it sees the mean;
            "": no captions.
        text_length: maximum length of a caption, in bytes.
        text_width: features per token.
        text_depth: blocks of the transformer that encodes bytes.
        vector_dim: numbers in the vector that conditions it; 0: none.
        attributes: number of classes of each attribute that conditions it; (): none.
    """

    nf: int = 128
    num_res_blocks: int = 3
    fourier_scale: float = 1.0
    dropout: float = 0.0
    num_classes: int = 0
    text: str = ""
    text_length: int = 64
    text_width: int = 128
    text_depth: int = 2
    vector_dim: int = 0
    attributes: Sequence[int] = ()

    inputs: ClassVar = "points"  # models/parametrization.py
    data_axes: ClassVar = (1,)

    def __post_init__(self):
        super().__post_init__()
        check_at_least(2, **{"config.model.nf": self.nf})  # half of them are Fourier features

    @nn.compact
    def __call__(
        self,
        x: Points,
        labels: Float[Array, " batch"],
        train: bool = False,
        features: bool = False,
        **given: Array | None,
    ) -> Points | tuple[Points, Embedding]:
        """The network output, of the shape of x; labels > 0 grow with the noise level.

        `given` are its conditions by keyword (models.conditions). With `features=True`: the input
        of the last linear layer, and the noise embedding.

        Raises:
            ValueError: a condition is missing, unknown or misshapen.
        """
        encoded = conditions.encode(self, x, given).features
        temb = FourierEmbedding(self.nf // 2, self.fourier_scale)(jnp.log(labels))
        temb = nn.swish(nn.Dense(self.nf)(temb))
        for name, each in encoded.items():
            temb += nn.Dense(self.nf, use_bias=False, name=f"{name}_embedding")(each)
        h = nn.Dense(self.nf)(x)
        for _ in range(self.num_res_blocks):
            y = nn.swish(nn.LayerNorm()(h)) + nn.Dense(self.nf)(temb)
            y = nn.swish(nn.Dense(self.nf)(y))
            if self.dropout:
                y = nn.Dropout(self.dropout, deterministic=not train)(y)
            h += nn.Dense(self.nf)(y)
        if features:
            return nn.swish(h), temb
        return nn.Dense(x.shape[-1], kernel_init=nn.initializers.zeros)(nn.swish(h))
