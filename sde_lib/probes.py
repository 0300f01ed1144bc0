"""Probe vectors v with E v v^T = I, for estimates of a divergence: div f = E v . (df/dx) v."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from sde_lib.batch import normal
from sde_lib.checks import check_at_least, check_name

Probe = Literal["rademacher", "gaussian", "exact"]


def draw(
    keys: Key[Array, " batch"], probe: Probe, n_probes: int, shape: Sequence[int]
) -> Float[Array, "probes batch *shape"]:
    """Draws n_probes vectors per sample; "exact" gives the standard basis instead.

    Args:
        keys: one key per sample, unused by "exact".
        probe: "rademacher" (random signs), "gaussian" (standard normal), or "exact".
        n_probes: draws per sample, ignored by "exact".
        shape: (B, ...), shape of the batch.

    Raises:
        ValueError: an unknown probe, or n_probes < 1.
    """
    check_name("probe", probe, get_args(Probe))
    check_at_least(1, n_probes=n_probes)
    if probe == "exact":
        dims = math.prod(shape[1:])
        basis = jnp.eye(dims).reshape(dims, 1, *shape[1:])
        return jnp.broadcast_to(basis, (dims, *shape))
    draws = normal(keys, (shape[0], n_probes, *shape[1:]))
    if probe == "rademacher":
        draws = jnp.where(draws < 0, -1.0, 1.0)
    return jnp.moveaxis(draws, 1, 0)
