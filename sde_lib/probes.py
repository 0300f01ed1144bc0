"""Probe vectors v with E v v^T = I, for estimates of a divergence: div f = E v . (df/dx) v.

The error of a random-sign probe is the sum of v_i v_j J_ij over pairs i != j, most of it from
values beside each other. Hierarchical probing (Stathopoulos et al. 2013, arXiv 1302.4018) gives
the same signs s to several probes, each times another pattern of even and odd positions, so that
in their mean the terms of neighbours cancel: of two probes, s and s times a checkerboard, all
terms between its black and white fields. One probe is the same as "rademacher".
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from sde_lib.batch import Batch, PerSample, normal
from sde_lib.checks import check_at_least, check_name

Probe = Literal["rademacher", "hierarchical", "gaussian", "exact"]


def draw(
    keys: Key[Array, " batch"], probe: Probe, n_probes: int, shape: Sequence[int]
) -> Float[Array, "probes batch *shape"]:
    """Draws n_probes vectors per sample; "exact" gives the standard basis instead.

    Args:
        keys: one key per sample, unused by "exact".
        probe: "rademacher" (random signs), "hierarchical" (random signs whose errors cancel in
            part: fewer probes do), "gaussian" (standard normal), or "exact".
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
    patterns = [np.ones(shape[1:])]
    if probe == "hierarchical":
        patterns = list(itertools.islice(_patterns(shape[1:]), n_probes))
    n_draws = -(-n_probes // len(patterns))
    draws = normal(keys, (shape[0], n_draws, *shape[1:]))
    if probe != "gaussian":
        draws = jnp.where(draws < 0, -1.0, 1.0)
    signs = jnp.asarray(np.stack(patterns)[:, None], draws.dtype)
    return (jnp.moveaxis(draws, 1, 0)[:, None] * signs).reshape(-1, *shape)[:n_probes]


def with_divergence(
    field: Callable[[Batch], Batch],
    x: Batch,
    probes: Float[Array, "probes batch *shape"],
    exact: bool,
    dims: PerSample | float,
) -> tuple[Batch, Float[Array, "batch rates"]]:
    """field(x), and an estimate by each probe of its divergence at x, divided by dims.

    With `exact` the probes are the standard basis, and the one rate is the divergence itself.
    """

    def along(v: Batch) -> tuple[Batch, PerSample]:
        value, tangent = jax.jvp(field, (x,), (v,))
        return value, jnp.sum(v * tangent, axis=tuple(range(1, x.ndim))) / dims

    value, rates = jax.vmap(along, out_axes=(None, 1))(probes)
    return value, jnp.sum(rates, axis=1, keepdims=True) if exact else rates


def _patterns(shape: Sequence[int]) -> Iterator[Float[np.ndarray, "*shape"]]:
    """Signs of a sample's values: the products of generators, the finest pattern first.

    With positions in binary, a generator is the parity of the lowest digits of all axes together
    (the checkerboard), then of all axes but the last one by one; then of the next digits.
    """
    index, generators = np.indices(shape), []
    for digit in range(max(shape).bit_length()):
        axes = [axis for axis, size in enumerate(shape) if size > 1 << digit]
        bits = [index[axis] >> digit & 1 for axis in axes]
        generators += [sum(bits), *bits[:-1]] if bits else []
    signs = [np.ones(shape)]
    yield signs[0]
    for generator in generators:
        new = [pattern * (-1.0) ** generator for pattern in signs]
        yield from new
        signs += new
