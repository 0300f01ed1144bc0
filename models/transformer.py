"""Layers of transformers (Vaswani et al. 2017), on tokens [batch, positions, features]."""

import flax.linen as nn
import jax.numpy as jnp
from jax.nn import initializers
from jaxtyping import Array, Bool, Float

from models.layers import Dense, attend, init

Tokens = Float[Array, "batch positions features"]
Mask = Bool[Array, "batch positions"]
ZERO = initializers.zeros


class TokenAttention(nn.Module):
    """Attention to the context's tokens whose mask is True, by default to x's own, in heads.

    Attributes:
        heads: a divisor of x's features.
        kernel_init: of the last layer.
    """

    heads: int
    kernel_init: initializers.Initializer = init()

    @nn.compact
    def __call__(
        self, x: Tokens, context: Tokens | None = None, mask: Mask | None = None
    ) -> Tokens:
        context = x if context is None else context
        width = x.shape[-1]

        def in_heads(tokens, name):
            y = Dense(width, kernel_init=init(), name=name)(tokens)
            return y.reshape(*tokens.shape[:2], self.heads, width // self.heads)

        q, k, v = in_heads(x, "query"), in_heads(context, "key"), in_heads(context, "value")
        y = attend(q, k, v, mask).reshape(x.shape)
        return Dense(width, kernel_init=self.kernel_init, name="out")(y)


class Perceptron(nn.Module):
    """Two layers, of each token for itself."""

    features: int

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        h = nn.gelu(Dense(self.features, kernel_init=init())(x))
        return Dense(x.shape[-1], kernel_init=init())(h)


def normalized(x: Tokens, *modulation: Array, affine: bool = False) -> Tokens:
    """Layer normalisation, in float32; of modulation (scale, shift), times 1 + scale plus shift."""
    norm = nn.LayerNorm(
        1e-6, jnp.float32, use_bias=affine, use_scale=affine, use_fast_variance=False
    )
    y = norm(x)
    if modulation:
        scale, shift = modulation
        y = y * (1 + scale) + shift
    return y.astype(x.dtype)
