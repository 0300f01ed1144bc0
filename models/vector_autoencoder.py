"""An encoder and a decoder of vectors, such as points in the plane and rows of tables."""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from models.checked import CheckedNetwork

Vectors = Float[Array, "batch dims"]


class ResidualMLP(nn.Module):
    """A residual MLP of vectors; the first half of its output starts as the input, the other as 0.

    Attributes:
        nf: features of the hidden layers.
        num_res_blocks: number of residual blocks.
        features: numbers of its output, an even number.
    """

    nf: int
    num_res_blocks: int
    features: int

    @nn.compact
    def __call__(self, x: Vectors) -> Vectors:
        h = nn.Dense(self.nf)(x)
        for _ in range(self.num_res_blocks):
            y = nn.swish(nn.Dense(self.nf)(nn.swish(nn.LayerNorm()(h))))
            h += nn.Dense(self.nf)(y)
        direct = nn.Dense(self.features, use_bias=False, kernel_init=_identity, name="direct")
        return direct(x) + nn.Dense(self.features, kernel_init=nn.initializers.zeros)(nn.swish(h))


def _identity(key: Array, shape: tuple[int, int], dtype: DTypeLike = jnp.float32) -> Array:
    n_inputs, n_outputs = shape
    half = jnp.eye(n_inputs, n_outputs // 2, dtype=dtype)
    return jnp.concatenate([half, jnp.zeros_like(half)], axis=1)


class VectorAutoencoder(CheckedNetwork):
    """The counterpart of models.autoencoder.Autoencoder for vectors, with "kl" latents.

    Attributes:
        nf: features of the hidden layers.
        num_res_blocks: residual blocks of each half.
        latent_channels: numbers of a latent.
        channels: numbers of the decoder's output.
    """

    nf: int = 128
    num_res_blocks: int = 2
    latent_channels: int = 2
    channels: int = 2

    data_axes: ClassVar = (1,)

    def setup(self):
        sizes = self.nf, self.num_res_blocks
        self.encoder = ResidualMLP(*sizes, 2 * self.latent_channels)
        self.decoder = ResidualMLP(*sizes, self.channels)

    def __call__(self, x: Vectors) -> Vectors:
        """The decoder's output for the latent means."""
        return self.decode(self.encode(x)[0])

    def encode(self, x: Vectors) -> tuple[Vectors, Vectors]:
        """Means and log-variances of latents."""
        mean, log_variance = jnp.split(self.encoder(x), 2, axis=-1)
        return mean, jnp.clip(log_variance, -30, 20)

    def decode(self, z: Vectors) -> Vectors:
        """The decoder's output, of `channels` numbers."""
        return self.decoder(z)
