"""Where arrays live: batches over all devices, states over those of the axis "fsdp".

Nothing here changes a number: the same batch on another mesh gives the same result.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from models.config import Config
from sde_lib import ScoreAndVariance, ScoreFn

AXES = ("data", "fsdp")
WHOLE = 0.01  # of a device's share of the state: the smallest leaves, which are not worth a message


def make_mesh(config: Config, devices: Sequence[Any] | None = None) -> Mesh:
    """The devices, config.mesh.data x config.mesh.fsdp of them; data = -1 takes the rest.

    Args:
        config: with its section mesh.
        devices: jax.Devices, all to be used; None for those of all hosts.

    Raises:
        ValueError: the two do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    n, data, fsdp = len(devices), config.mesh.data, config.mesh.fsdp
    if data == -1 and fsdp > 0:
        data = n // fsdp
    if data < 1 or fsdp < 1 or data * fsdp != n:
        raise ValueError(
            f"config.mesh.data = {config.mesh.data} times config.mesh.fsdp = {fsdp} must be the "
            f"number of devices, {n}; data = -1 takes what fsdp leaves"
        )
    return jax.make_mesh((data, fsdp), AXES, axis_types=(AxisType.Auto,) * 2, devices=devices)


def of_batch(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Split along `axis`, over all devices."""
    return NamedSharding(mesh, P(*(None,) * axis, AXES))


def of_state(mesh: Mesh, tree: Any) -> Any:
    """A sharding for each leaf: over "fsdp" by output channel, which is the last axis.

    Where the devices do not divide that, by the last axis that they do divide. The smallest
    leaves, together at most WHOLE of a device's share, are whole everywhere.
    """
    n = mesh.shape["fsdp"]
    sizes, counts = np.unique([leaf.size for leaf in jax.tree.leaves(tree)], return_counts=True)
    up_to = np.cumsum(sizes * counts)
    small = sizes[up_to <= WHOLE * up_to[-1] / n].max(initial=0)

    def of(leaf) -> NamedSharding:
        divisible = [axis for axis, length in enumerate(leaf.shape) if length % n == 0]
        if n == 1 or leaf.size <= small or not divisible:
            return NamedSharding(mesh, P())
        return NamedSharding(mesh, P(*(None,) * divisible[-1], "fsdp"))

    return jax.tree.map(of, tree)


def gather(mesh: Mesh, tree: Any) -> Any:
    """Inside jit: every leaf whole on every device."""
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, P()))


def spread(mesh: Mesh, score_fn: ScoreFn) -> ScoreFn:
    """Inside jit: score_fn evaluated on all devices, on each its rows, if they divide the batch."""
    fn = score_fn.both if isinstance(score_fn, ScoreAndVariance) else score_fn

    def spread_fn(x: jax.Array, t: jax.Array) -> Any:
        place = of_batch(mesh) if len(x) % mesh.size == 0 else NamedSharding(mesh, P())
        x, t = jax.lax.with_sharding_constraint((x, t), place)
        return jax.lax.with_sharding_constraint(fn(x, t), place)

    return spread_fn if fn is score_fn else ScoreAndVariance(spread_fn)


def put(sharding: NamedSharding, values: Any, indices: np.ndarray) -> jax.Array:
    """values[indices] as a global array; each host reads the rows of its own devices alone.

    Args:
        sharding: of the result.
        values: [N, ...], on every host; what an array of indices can index.
        indices: of any number of axes.
    """

    def read(index: Any) -> np.ndarray:
        rows = indices[index[: indices.ndim]]
        return values[rows.ravel()].reshape(*rows.shape, *values.shape[1:])

    return jax.make_array_from_callback((*indices.shape, *values.shape[1:]), sharding, read)


def fetch(tree: Any) -> Any:
    """Every leaf as a whole numpy array, on every host."""

    def whole(leaf: Any) -> np.ndarray:
        if getattr(leaf, "is_fully_addressable", True):
            return np.asarray(leaf)
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(whole, tree)


def round_up(mesh: Mesh, n: int) -> int:
    """The size of the least batch, of n or more, that the devices divide."""
    return -(-n // mesh.size) * mesh.size
