"""Transformer layers (Vaswani et al. 2017) on tokens [batch, positions, features]."""

import flax.linen as nn
import jax.numpy as jnp
from jax.nn import initializers
from jaxtyping import Array, Bool, Float

from models.layers import Dense, attend, init

Tokens = Float[Array, "batch positions features"]
Mask = Bool[Array, "batch positions"]
ZERO = initializers.zeros


class TokenAttention(nn.Module):
    """Multi-head attention of x to the tokens of a context, by default to x itself.

    Tokens whose mask is False are ignored.

    Attributes:
        heads: number of heads, a divisor of the features of x.
        kernel_init: initialiser of the output layer.
        use_bias: queries, keys and values have a bias.
    """

    heads: int
    kernel_init: initializers.Initializer = init()
    use_bias: bool = True

    @nn.compact
    def __call__(
        self, x: Tokens, context: Tokens | None = None, mask: Mask | None = None
    ) -> Tokens:
        context = x if context is None else context
        width = x.shape[-1]

        def in_heads(tokens, name):
            y = Dense(width, use_bias=self.use_bias, kernel_init=init(), name=name)(tokens)
            return y.reshape(*tokens.shape[:2], self.heads, width // self.heads)

        q, k, v = in_heads(x, "query"), in_heads(context, "key"), in_heads(context, "value")
        y = attend(q, k, v, mask).reshape(x.shape)
        return Dense(width, kernel_init=self.kernel_init, name="out")(y)


class Perceptron(nn.Module):
    """An MLP of two layers with GELU, applied to each token.

    Attributes:
        features: width of the hidden layer.
    """

    features: int

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        h = nn.gelu(Dense(self.features, kernel_init=init())(x))
        return Dense(x.shape[-1], kernel_init=init())(h)


def layer_norm(
    x: Tokens, *modulation: Array, affine: bool = False, epsilon: float = 1e-6
) -> Tokens:
    """Layer normalisation in float32; then, if given modulation, times 1 + scale plus shift."""
    norm = nn.LayerNorm(
        epsilon, jnp.float32, use_bias=affine, use_scale=affine, use_fast_variance=False
    )
    y = norm(x)
    if modulation:
        scale, shift = modulation
        y = y * (1 + scale) + shift
    return y.astype(x.dtype)
