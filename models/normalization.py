"""Group normalisation in one multiplication and one addition for each element."""

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jax.nn import initializers
from jaxtyping import Array, Float

from models.resample import Image

Modulation = Float[Array, "batch channels"] | None


class GroupNorm(nn.Module):
    """Group normalisation (Wu & He 2018) of images; parameters are named as nn.GroupNorm's.

    Statistics are in float32: sums over the pixels of each channel, then over each group's
    channels. They and all scales and shifts make one a x + b, which fuses with what follows it.

    Attributes:
        num_groups: a divisor of the channels; neighbours make a group.
        epsilon: added to the variance.
    """

    num_groups: int
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Image, scale: Modulation = None, shift: Modulation = None) -> Image:
        """The normalised x, times (1 + scale) plus shift where these are given; in x's dtype.

        Raises:
            ValueError: num_groups does not divide the channels.
        """
        channels = x.shape[-1]
        if self.num_groups < 1 or channels % self.num_groups:
            raise ValueError(
                f"{channels} channels cannot be normalised in {self.num_groups} groups of one "
                "size: choose a divisor"
            )
        a = self.param("scale", initializers.ones, (channels,))
        b = self.param("bias", initializers.zeros, (channels,))
        # Variances are those of x less a mean of some pixels: no digits are lost at a large mean.
        some = x[:, ::4, ::4].astype(jnp.float32)
        reference = lax.stop_gradient(self._of_groups(some.mean((1, 2))))
        y = x.astype(jnp.float32) - reference[:, None, None]
        mean = self._of_groups(y.mean((1, 2)))
        variance = self._of_groups(jnp.square(y).mean((1, 2))) - jnp.square(mean)
        a *= lax.rsqrt(jnp.maximum(variance, 0) + self.epsilon)
        b -= a * mean
        if scale is not None:
            factor = 1 + scale.astype(jnp.float32)
            a, b = a * factor, b * factor
        if shift is not None:
            b += shift
        return (a[:, None, None] * y + b[:, None, None]).astype(x.dtype)

    def _of_groups(self, of_channels: Float[Array, "batch channels"]) -> Array:
        """Every channel's mean over the channels of its group."""
        groups = of_channels.reshape(len(of_channels), self.num_groups, -1)
        means = groups.mean(-1, keepdims=True)
        return jnp.broadcast_to(means, groups.shape).reshape(of_channels.shape)
