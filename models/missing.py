"""Masks of missing values as an input of any network, in channels beside those of the data.

The network is made for twice the channels: those of c x, 0 where a value is missing, and those of
the mask, 1 where a value is observed. The first half of its output is F. Without a mask all values
are observed: this is the model of complete data.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def input_shape(shape: tuple[int, ...], missing: bool) -> tuple[int, ...]:
    """The shape of a network's input for a sample, or a state, of this shape."""
    return (*shape[:-1], 2 * shape[-1]) if missing else shape


def with_mask(
    network: Callable[[jax.Array, jax.Array], jax.Array], observed: jax.Array | None
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The function F(x, label) of a network that is given the mask beside x.

    Args:
        network: takes and returns twice the channels.
        observed: the mask, of the shape of x; None: all values are observed.
    """

    def masked(x: jax.Array, label: jax.Array) -> jax.Array:
        mask = jnp.ones_like(x) if observed is None else jnp.asarray(observed, x.dtype)
        return network(jnp.concatenate([x, mask], axis=-1), label)[..., : x.shape[-1]]

    return masked
