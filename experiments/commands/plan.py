"""Mode plan: what training will need, on the devices here or on a TPU slice that is elsewhere.

XLA compiles the train step of abstract arrays; no data are loaded, and nothing is computed.
"""

import logging
import math
import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh

import models
from experiments import build
from experiments.commands import train
from experiments.data import captions
from experiments.pipeline import conditions
from experiments.runs import sharding
from experiments.training.state import TrainState, abstract_state
from models.config import Config

HELD = ("argument", "temp", "generated_code")  # the new state takes the place of the old one
SAVING = "(config.mesh.fsdp, config.model.remat and config.training.n_microbatches save memory)"
LOG = logging.getLogger(__name__)


def prepare(config: Config, topology: str | None) -> None:
    """Before JAX starts: the CPU will stand for as many devices as the mesh has.

    Where there are GPUs or TPUs, these are planned for; with a topology, they are left alone.
    """
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if topology is not None:
        jax.config.update("jax_platforms", "cpu")
    elif platforms and "cpu" not in platforms:  # which counts the arithmetic
        jax.config.update("jax_platforms", f"{platforms},cpu")
    if topology is None and config.mesh.data > 0 and config.mesh.fsdp > 0:
        jax.config.update("jax_num_cpu_devices", config.mesh.data * config.mesh.fsdp)


def run(config: Config, topology: str | None = None) -> None:
    """Prints what a train step takes: arithmetic, and memory of each device.

    Args:
        config: of the training.
        topology: a TPU slice, as "v5e:2x4"; None for the devices of this process.

    Raises:
        ValueError: a mesh or batch that does not fit the devices, a step that does not fit their
            memory, an unknown topology, or no libtpu.
    """
    mesh = sharding.make_mesh(config, _slice(topology) if topology else None)
    state, lowered = _lower(config, mesh)
    device, batch_size = mesh.devices.flat[0], config.training.batch_size
    shape = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    n_params = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    _tell("parameters", f"{n_params:,}")
    _tell("devices", f"{mesh.size}", f"{device.device_kind}: {shape}")
    work = f"{flops(config) / 1e9:,.1f} GFLOP"
    _tell("a step", work, f"of {batch_size} samples; a multiply-add is two")
    _tell("state", _mib(bytes_each(state)), "a device: parameters, their average, Adam's moments")
    LOG.info("XLA compiles for %s, a large network in minutes", device.platform)
    try:
        memory = lowered.compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"XLA cannot compile the step: {error} {SAVING}") from error
    in_all = sum(getattr(memory, f"{part}_size_in_bytes") for part in HELD)
    _tell("the rest", _mib(in_all - bytes_each(state)), "a device: gradients, activations, program")
    but = ", where remat saves nothing" if device.platform == "cpu" else ""
    _tell("in all", _mib(in_all), f"a device, as XLA compiled for {device.platform}{but}")


def flops(config: Config) -> float:
    """Of a train step of the whole batch as it is written, before XLA; a multiply-add is two."""
    alone = config.copy_and_resolve_references()
    alone.mesh.data = alone.mesh.fsdp = alone.training.n_microbatches = 1  # loops count once
    cpu = jax.devices("cpu")[0]
    with jax.default_device(cpu):
        return costs(_lower(alone, sharding.make_mesh(alone, [cpu]))[1])


def costs(lowered: jax.stages.Lowered) -> float:
    """The FLOPs of a program lowered for CPU, whose compiler, unlike GPUs', counts them."""
    counted = lowered.cost_analysis()
    assert counted is not None
    return counted["flops"]


def bytes_each(tree: Any) -> int:
    """Of abstract arrays with shardings, the bytes on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _lower(config: Config, mesh: Mesh) -> tuple[TrainState, jax.stages.Lowered]:
    """The abstract state, and the train step before XLA."""
    are_floats = models.encoder_name(config) == "mlp" or config.data.autoencoder
    model, levels = models.create(config), None if are_floats else 256
    shape, place = train.batch_shape(mesh, config.training), sharding.of_batch(mesh, axis=1)
    dtype = jnp.float32 if levels is None else jnp.uint8
    batch = jax.ShapeDtypeStruct((*shape, *build.image_shape(config)), dtype, sharding=place)
    abstract = partial(jax.ShapeDtypeStruct, sharding=place)
    told = {}
    if conditions.takes_labels(config):
        told["class_labels"] = abstract(shape, jnp.int32)
    if config.model.label_confidence:
        told["confidences"] = abstract(shape, jnp.float32)
    if config.model.text:
        row = captions.empty(config)
        told["text"] = abstract((*shape, *row.shape), row.dtype)
    state = abstract_state(config, model, mesh)
    step = train.make_train_step(config, model, levels, mesh)
    return state, train.compiled(step, state).lower(state, batch, told)


def _slice(topology: str) -> Sequence[Any]:
    """The devices of a TPU slice that need not be there, to compile for."""
    # libtpu would take hold of this machine's TPU, and complain where there is none.
    os.environ |= {
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-8",
        "TPU_WORKER_HOSTNAMES": "localhost",
    }
    one_device_a_chip = {"chip_config_name": "megacore"} if topology.startswith("v4") else {}
    try:
        return topologies.get_topology_desc(topology, "tpu", **one_device_a_chip).devices
    except RuntimeError as error:
        raise ValueError(
            f"--topology={topology!r}: {error}; it takes `pip install 'jax[tpu]'`, and a name such "
            "as 'v5e:2x4' or 'v4:2x2x1'"
        ) from error


def _mib(n: int) -> str:
    return f"{n / 2**20:,.1f} MiB"


def _tell(what: str, figure: str, of: str = "") -> None:
    print(f"{what:<12}{figure:>18}  {of}".rstrip(), flush=True)
