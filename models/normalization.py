"""Group normalisation as one multiplication and one addition per element."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import initializers
from jaxtyping import Array, Float

from models.resample import Image, side_axes

Modulation = Float[Array, "batch channels"] | None


class GroupNorm(nn.Module):
    """Group normalisation (Wu & He 2018) of images, with the parameter names of nn.GroupNorm.

    Statistics are in float32: means over the pixels of each channel, then over the channels of each
    group. They are combined with all scales and shifts into one a x + b, which XLA fuses with the
    next operation.

    Attributes:
        num_groups: number of groups of neighbouring channels, a divisor of the channels.
        epsilon: added to the variance.
    """

    num_groups: int
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Image, scale: Modulation = None, shift: Modulation = None) -> Image:
        """The normalised x, times 1 + scale and plus shift if given ([B, C]), in the dtype of x.

        Raises:
            ValueError: num_groups does not divide the channels.
        """
        channels = x.shape[-1]
        if self.num_groups < 1 or channels % self.num_groups:
            raise ValueError(
                f"{channels} channels cannot be normalised in {self.num_groups} groups of equal "
                "size: num_groups must be a divisor of the channels"
            )
        a = self.param("scale", initializers.ones, (channels,))
        b = self.param("bias", initializers.zeros, (channels,))
        return _normalised(x, a, b, scale, shift, self.num_groups, self.epsilon)


@partial(jax.jit, static_argnames=("num_groups", "epsilon"), inline=True)
def _normalised(
    x: Image,
    a: Array,
    b: Array,
    scale: Modulation,
    shift: Modulation,
    num_groups: int,
    epsilon: float,
) -> Image:
    """The normalised x, times a (1 + scale) and plus b (1 + scale) + shift.

    Layers of one shape share its trace.
    """
    group_means = partial(_group_means, num_groups=num_groups)
    # Subtract the mean of a few pixels first, so that a large mean does not cost precision.
    axes = side_axes(x)
    few_pixels = x[:, *[slice(None, None, 4)] * len(axes)].astype(jnp.float32)
    reference = lax.stop_gradient(group_means(few_pixels.mean(axes)))
    y = x.astype(jnp.float32) - jnp.expand_dims(reference, axes)
    mean = group_means(y.mean(axes))
    variance = group_means(jnp.square(y).mean(axes)) - jnp.square(mean)
    a *= lax.rsqrt(jnp.maximum(variance, 0) + epsilon)
    b -= a * mean
    if scale is not None:
        factor = 1 + scale.astype(jnp.float32)
        a, b = a * factor, b * factor
    if shift is not None:
        b += shift
    return (jnp.expand_dims(a, axes) * y + jnp.expand_dims(b, axes)).astype(x.dtype)


def _group_means(values: Float[Array, "batch channels"], num_groups: int) -> Array:
    """Replaces each channel's value by the mean over its group.

    An accelerator gets one product with a matrix. Reshaping to groups would copy the values into
    other layouts, in a dozen operations for each normalisation.
    """
    cpu, others = (partial(f, num_groups=num_groups) for f in (means_by_shape, means_by_product))
    return lax.platform_dependent(values, cpu=cpu, default=others)


def means_by_shape(values: Float[Array, "batch channels"], num_groups: int) -> Array:
    """The means of groups, broadcast to their channels."""
    groups = values.reshape(len(values), num_groups, -1)
    means = groups.mean(-1, keepdims=True)
    return jnp.broadcast_to(means, groups.shape).reshape(values.shape)


def means_by_product(values: Float[Array, "batch channels"], num_groups: int) -> Array:
    """The same as a product in full precision."""
    size = values.shape[-1] // num_groups
    group = jnp.arange(values.shape[-1]) // size
    weights = (group[:, None] == group).astype(values.dtype) / size
    return jnp.matmul(values, weights, precision=lax.Precision.HIGHEST)
