"""Placement of arrays: batches over all devices, states over those of the axis "fsdp".

Nothing here changes a number: the same batch on another mesh gives the same result.
"""

import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sde_lib import MeanFlow, ScorePair

AXES = ("data", "fsdp")
WHOLE = 0.01  # leaves that make up this share of a device's part of the state are not split


def make_mesh(data: int = -1, fsdp: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """A grid of data x fsdp devices with the axes "data" and "fsdp".

    Args:
        data: rows of devices, each with a copy of the state; -1: all devices, divided by fsdp.
        fsdp: devices in a row; the state is split over them.
        devices: the jax.Devices to use, all of them; None: those of all hosts.

    Raises:
        ValueError: the two do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    n, rows = len(devices), data
    if rows == -1 and fsdp > 0:
        rows = n // fsdp
    if rows < 1 or fsdp < 1 or rows * fsdp != n:
        raise ValueError(
            f"config.mesh.data = {data} times config.mesh.fsdp = {fsdp} must be the number of "
            f"devices, {n}; data = -1 needs an fsdp that divides it"
        )
    return jax.make_mesh((rows, fsdp), AXES, axis_types=(AxisType.Auto,) * 2, devices=devices)


def batch_sharding(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """The sharding of a batch: `axis` is split over all devices."""
    return NamedSharding(mesh, P(*(None,) * axis, AXES))


def state_shardings(mesh: Mesh, tree: Any) -> Any:
    """A sharding for each leaf of a state: its last axis, output channels, is split over "fsdp".

    Where the devices do not divide the last axis, the last axis that they divide is split. The
    smallest leaves, together at most WHOLE of a device's share, are copied to every device.
    """
    n = mesh.shape["fsdp"]
    sizes, counts = np.unique([leaf.size for leaf in jax.tree.leaves(tree)], return_counts=True)
    up_to = np.cumsum(sizes * counts)
    small = sizes[up_to <= WHOLE * up_to[-1] / n].max(initial=0)

    def place(leaf) -> NamedSharding:
        divisible = [axis for axis, length in enumerate(leaf.shape) if length % n == 0]
        if n == 1 or leaf.size <= small or not divisible:
            return NamedSharding(mesh, P())
        return NamedSharding(mesh, P(*(None,) * divisible[-1], "fsdp"))

    return jax.tree.map(place, tree)


def everywhere(mesh: Mesh, tree: Any) -> Any:
    """The arrays of the host, whole on every device."""
    whole = NamedSharding(mesh, P())
    return jax.tree.map(
        lambda leaf: jax.make_array_from_callback(leaf.shape, whole, leaf.__getitem__), tree
    )


def gather(mesh: Mesh, tree: Any) -> Any:
    """Inside jit: copies every leaf to every device."""
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, P()))


def spread(mesh: Mesh, score_fn: Any) -> Any:
    """Inside jit: splits the batches of a score function over the devices that divide the batch.

    Any function of arrays [B, ...] is spread likewise; a pair or a MeanFlow stays what it is.
    """
    if isinstance(score_fn, MeanFlow):
        return MeanFlow(spread(mesh, score_fn.score), spread(mesh, score_fn.average))
    pair = isinstance(score_fn, ScorePair)
    fn = score_fn.both if pair else score_fn

    def spread_fn(*arguments: jax.Array) -> Any:
        even = len(arguments[0]) % mesh.size == 0
        place = batch_sharding(mesh) if even else NamedSharding(mesh, P())
        arguments = jax.lax.with_sharding_constraint(arguments, place)
        return jax.lax.with_sharding_constraint(fn(*arguments), place)

    return type(score_fn)(spread_fn) if pair else spread_fn


def put(sharding: NamedSharding, values: Any, indices: np.ndarray) -> jax.Array:
    """The rows values[indices] as a global array; each host reads those of its own devices.

    Args:
        sharding: of the result.
        values: [N, ...] on every host, indexable by an array.
        indices: an array with any number of axes.
    """

    def read(index: Any) -> np.ndarray:
        rows = indices[index[: indices.ndim]]
        return values[rows.ravel()].reshape(*rows.shape, *values.shape[1:])

    return jax.make_array_from_callback((*indices.shape, *values.shape[1:]), sharding, read)


def fetch(tree: Any) -> Any:
    """Copies every leaf to a numpy array on every host."""

    def whole(leaf: Any) -> np.ndarray:
        if getattr(leaf, "is_fully_addressable", True):
            return np.asarray(leaf)
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(whole, tree)


def round_up(mesh: Mesh, n: int) -> int:
    """The smallest multiple of the number of devices that is at least n."""
    return -(-n // mesh.size) * mesh.size


def free_bytes(mesh: Mesh) -> int:
    """The free memory of each device of this process, in bytes; devices of a CPU share the host's.

    Raises:
        ValueError: the system does not say how much memory is free.
    """
    counted = [device.memory_stats() for device in mesh.local_devices]
    if all(counted):
        return min(each["bytes_limit"] - each["bytes_in_use"] for each in counted)  # pyright: ignore
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError) as error:
        raise ValueError(
            "this system does not say how much memory is free: set config.sampling.batch_size to "
            "a number of samples"
        ) from error
    return free // len(counted)
