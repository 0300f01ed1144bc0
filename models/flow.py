"""An invertible network of affine coupling layers (Dinh et al. 2017, Real NVP, arXiv 1605.08803).

A layer leaves one half of the channels as they are, and maps the other half by
b -> b exp(s(a)) + m(a), whose log-determinant is the sum of s. Halves change places from layer to
layer, and channels move on by one after every two. Series, images and volumes are squeezed first:
blocks of 2 a side become channels. The last layers of s and m start at 0, so that the flow starts
as the identity, to the last bit.
"""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from models.checked import CheckedNetwork
from models.config import data_kind
from models.layers import conv3x3, convolution_of
from sde_lib.batch import Batch, PerSample

MOST_LOG_SCALE = 2.0  # of a layer: keeps its inverse accurate


class CouplingFlow(CheckedNetwork):
    """An invertible map of data of any shape whose sides are even, or of vectors.

    Attributes:
        nf: features of the hidden layers.
        num_layers: number of coupling layers; 0: the identity.
    """

    nf: int = 64
    num_layers: int = 8

    data_axes: ClassVar = (1, 2, 3, 4)

    @nn.compact
    def __call__(self, x: Batch, inverse: bool = False) -> tuple[Batch, PerSample]:
        """The image of x, or its inverse image, and log |det| of this map, [B].

        Raises:
            ValueError: a shape without two halves (check_halves).
        """
        check_halves(x.shape[1:])
        y, log_det = squeeze(x), jnp.zeros(len(x))
        channels = y.shape[-1]
        for k in reversed(range(self.num_layers)) if inverse else range(self.num_layers):
            y = jnp.roll(y, -(k // 2), axis=-1)
            first, second = y[..., : channels // 2], y[..., channels // 2 :]
            kept, moved = (second, first) if k % 2 else (first, second)
            terms = Terms(self.nf, moved.shape[-1], name=f"layer_{k}")(kept)
            log_scale, shift = jnp.split(terms, 2, axis=-1)
            log_scale = MOST_LOG_SCALE * jnp.tanh(log_scale / MOST_LOG_SCALE)
            if inverse:
                log_scale = -log_scale
                moved = (moved - shift) * jnp.exp(log_scale)
            else:
                moved = moved * jnp.exp(log_scale) + shift
            log_det += jnp.sum(log_scale, axis=tuple(range(1, y.ndim)))
            y = jnp.concatenate([moved, kept] if k % 2 else [kept, moved], axis=-1)
            y = jnp.roll(y, k // 2, axis=-1)
        return unsqueeze(y, x.shape), log_det


class Terms(nn.Module):
    """The terms (log scale, shift) of a coupling layer, 0 at the start.

    Attributes:
        nf: features of the hidden layers.
        channels: of the half that is mapped.
    """

    nf: int
    channels: int

    @nn.compact
    def __call__(self, x: Batch) -> Float[Array, "batch *shape"]:
        zero = nn.initializers.zeros
        if x.ndim == 2:
            h = nn.swish(nn.Dense(self.nf)(nn.swish(nn.Dense(self.nf)(x))))
            return nn.Dense(2 * self.channels, kernel_init=zero)(h)
        h = nn.swish(nn.Dense(self.nf)(nn.swish(conv3x3(self.nf)(x))))
        return convolution_of(3, 2 * self.channels, kernel_init=zero)(h)


def check_halves(shape: tuple[int, ...]) -> None:
    """Raises ValueError for samples whose channels, after squeezing, have no two halves."""
    if len(shape) == 1 and shape[0] < 2:
        raise ValueError(
            f"a coupling flow needs two numbers a sample at least, but the data have the shape "
            f"{shape}: leave the flow out"
        )
    if any(side % 2 for side in shape[:-1]):
        raise ValueError(
            f"a coupling flow of {data_kind(shape)} needs even sides, as it makes channels of "
            f"blocks of 2 a side, but the data have the shape {shape}: crop or pad them"
        )


def squeeze(x: Batch) -> Batch:
    """x [B, *sides, C] with channels in place of blocks of 2 a side: [B, *halves, 2^n C]."""
    sides = x.shape[1:-1]
    blocks = x.reshape(len(x), *(n for side in sides for n in (side // 2, 2)), x.shape[-1])
    n = len(sides)
    order = (0, *range(1, 2 * n, 2), *range(2, 2 * n + 1, 2), 2 * n + 1)
    return blocks.transpose(order).reshape(len(x), *(side // 2 for side in sides), -1)


def unsqueeze(y: Batch, shape: tuple[int, ...]) -> Batch:
    """The inverse of squeeze, to `shape` = [B, *sides, C]."""
    n = len(shape) - 2
    halves = y.reshape(*y.shape[:-1], *(2,) * n, shape[-1])
    pairs = (axis for k in range(n) for axis in (1 + k, 1 + n + k))
    return halves.transpose(0, *pairs, 2 * n + 1).reshape(shape)
