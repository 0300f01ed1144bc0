"""Mode plan: the cost of training, on the devices here or on a TPU slice that is elsewhere.

XLA compiles the train step of abstract arrays; no data are loaded, and nothing is computed. With
config.plan.program it is a sampling step, or one of a likelihood, of a batch of score models.
"""

import logging
import math
import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.build import tasks
from experiments.build.components import optimization
from experiments.commands.cost import compiled as compiled_text
from experiments.commands.request import Request
from experiments.pipeline import analytic, draw, likelihood
from experiments.pipeline.model import TrainedModel
from experiments.runs import devices
from experiments.tasks.base import Task
from experiments.training.state import TrainState, abstract_state
from experiments.training.step import compiled, make_train_step
from models.config import Config
from sde_lib.checks import check_name

HELD = ("argument", "temp", "generated_code")  # the new state takes the place of the old one
SAVING = "(config.mesh.fsdp, config.model.remat and config.training.n_microbatches save memory)"
BATCHES = {
    "sample": lambda config: config.sampling.batch_size or draw.MOST_ON_CPU,
    "likelihood": lambda config: config.eval.batch_size,
}
"""The number of samples in a batch of the programs beside a train step."""
LOG = logging.getLogger(__name__)


def prepare(config: Config, topology: str | None) -> None:
    """Sets up JAX before it starts: the CPU stands for as many devices as the mesh has.

    GPUs or TPUs that are here are planned for; with a topology, they are left alone.
    """
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if topology is not None:
        jax.config.update("jax_platforms", "cpu")
    elif platforms and "cpu" not in platforms:  # the CPU counts the arithmetic
        jax.config.update("jax_platforms", f"{platforms},cpu")
    if topology is None and config.mesh.data > 0 and config.mesh.fsdp > 0:
        jax.config.update("jax_num_cpu_devices", config.mesh.data * config.mesh.fsdp)


def run(request: Request) -> None:
    """Prints what a step takes: arithmetic, and memory of each device.

    Raises:
        ValueError: an unknown program, a mesh or batch that does not fit the devices, a step that
            does not fit their memory, an unknown topology, or no libtpu.
    """
    config, topology = request.config, request.topology
    check_name("config.plan.program", config.plan.program, ("train", *BATCHES))
    mesh = optimization.mesh(config, _slice(topology) if topology else None)
    if config.plan.program != "train":
        _print_model(config, mesh)
        return
    state, lowered = _lower(config, mesh)
    device, batch_size = mesh.devices.flat[0], config.training.batch_size
    shape = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    n_params = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    _print("parameters", f"{n_params:,}")
    _print("devices", f"{mesh.size}", f"{device.device_kind}: {shape}")
    work = flops(config)
    _print("a step", f"{work / 1e9:,.1f} GFLOP", f"of {batch_size} samples; a multiply-add is two")
    _print("state", _mib(bytes_each(state)), "a device: parameters, their average, Adam's moments")
    program = _compiled(lowered, device.platform, state, "gradients, activations", SAVING)
    _print_program(program, device.device_kind, work / mesh.size)


def _print_model(config: Config, mesh: Mesh) -> None:
    """Prints what a step of sampling or of a likelihood takes: memory of each device."""
    size = devices.round_up(mesh, BATCHES[config.plan.program](config))
    weights, lowered = _lower_model(config, mesh, size)
    _print("devices", f"{mesh.size}", f"{mesh.devices.flat[0].device_kind}, {size} samples in all")
    _print("weights", _mib(bytes_each(weights)), "a device")
    smaller = "(a smaller config.sampling.batch_size or config.eval.batch_size saves memory)"
    platform = mesh.devices.flat[0].platform
    _compiled(lowered, platform, weights, "samples, activations", smaller)


def _compiled(
    lowered: jax.stages.Lowered, platform: str, held: Any, others: str, saving: str
) -> jax.stages.Compiled:
    """The compiled program, whose memory beside the arrays `held` is printed."""
    LOG.info("XLA compiles for %s, a large network in minutes", platform)
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"XLA cannot compile the step: {error} {saving}") from error
    memory = program.memory_analysis()
    in_all = sum(getattr(memory, f"{part}_size_in_bytes") for part in HELD)
    _print("the rest", _mib(in_all - bytes_each(held)), f"a device: {others}, program")
    but = ", where remat saves nothing" if platform == "cpu" and saving == SAVING else ""
    _print("in all", _mib(in_all), f"a device, as XLA compiled for {platform}{but}")
    return program


def _print_program(program: jax.stages.Compiled, device_kind: str, work: float) -> None:
    """Prints what a program consists of, and the least time of its work, in FLOPs, on a device."""
    found = compiled_text.content(program.as_text() or "")
    about = f"{found.copies:,} copies into other layouts, {found.collectives:,} collectives"
    _print("program", f"{found.fusions:,} fusions", about)
    _print("copies", _mib(found.copied))
    _print("traffic", _mib(found.traffic), "a device: read and written in its memory by a step")
    own = compiled_text.chip(device_kind)
    if own is None:
        return
    operands: Any = program.cost_analysis()
    # Other devices have no such memory as a TPU's core, which keeps results for later operations.
    touched = float(operands["bytes accessed"])
    traffic = dict.fromkeys(compiled_text.OTHERS, touched) | {own: float(found.traffic)}
    for name, n_bytes in traffic.items():
        seconds, share = compiled_text.roofline(name, work, n_bytes)
        about = f"a step on {name}, {share:.0%} of its peak"
        _print("at best", f"{seconds * 1e3:,.2f} ms", about)


def flops(config: Config) -> float:
    """The FLOPs of a train step of the whole batch before XLA; a multiply-add is two."""
    alone = config.copy_and_resolve_references()
    alone.mesh.data = alone.mesh.fsdp = alone.training.n_microbatches = 1  # loops count once
    cpu = jax.devices("cpu")[0]
    with jax.default_device(cpu):
        return costs(_lower(alone, optimization.mesh(alone, [cpu]))[1])


def costs(lowered: jax.stages.Lowered) -> float:
    """The FLOPs of a program lowered for CPU, whose compiler, unlike GPUs', counts them."""
    counted = lowered.cost_analysis()
    assert counted is not None
    return counted["flops"]


def bytes_each(tree: Any) -> int:
    """The bytes on one device of abstract arrays with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _lower(config: Config, mesh: Mesh) -> tuple[TrainState, jax.stages.Lowered]:
    """The abstract state, and the train step before XLA."""
    task, training = _task(config, mesh), optimization.training(config)
    shape, place = training.batch_shape(mesh), devices.batch_sharding(mesh, axis=1)
    abstract = partial(jax.ShapeDtypeStruct, sharding=place)
    batch = abstract((*shape, *task.shape), task.scaling.dtype)
    conditions = {
        name: abstract((*shape, *values.shape[1:]), values.dtype)
        for name, values in task.example_conditions().items()
    }
    state = abstract_state(task, config.seed, mesh, training.average.count)
    training.optimizer.check_freeze(state.params)
    step = compiled(make_train_step(task, training, mesh), state)
    shared = jax.tree.map(partial(_whole, mesh), task.shared)
    return state, step.lower(state, batch, conditions, shared)


def _whole(mesh: Mesh, leaf: Any) -> jax.ShapeDtypeStruct:
    """The abstract array, whole on every device."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, P()))


def _task(config: Config, mesh: Mesh) -> Task:
    """The task, in units of its own where the data's moments would be needed."""
    task = tasks.task(config, mesh)
    if not task.scaling.standardized:
        return task
    zeros_and_ones = {"mean": [0.0] * task.shape[-1], "std": [1.0] * task.shape[-1]}
    return task.with_scaling(task.scaling.with_moments(zeros_and_ones))


def _lower_model(config: Config, mesh: Mesh, size: int) -> tuple[Any, jax.stages.Lowered]:
    """The abstract weights, and a step of config.plan.program for `size` samples, before XLA."""
    task = _task(config, mesh)
    model = getattr(task, "model", None)
    if not isinstance(model, TrainedModel) or model.super_resolution:
        raise ValueError(
            f"config.plan.program = {config.plan.program!r} is of score models without smaller "
            "images, and this config trains another network: leave it out"
        )

    place = devices.batch_sharding(mesh)

    def batch(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((size, *shape), dtype, sharding=place)

    state = abstract_state(task, config.seed, mesh)
    weights = jax.tree.map(partial(_whole, mesh), state.ema_params)
    key = _whole(mesh, jax.eval_shape(jax.random.key, 0))
    conditions = {
        name: batch(values.shape[1:], values.dtype)
        for name, values in task.example_conditions().items()
    }
    model = model.replace(params=weights)
    if config.plan.program == "sample":
        sampler = analytic.resolved_sampler(model)
        program = model.program(draw.make_batch, sampler, size, 0)
        return weights, program.lower(weights, [], key, conditions, 0)
    x = batch(task.shape, task.scaling.dtype)
    program = likelihood.batch_program(model, task.shape)
    return weights, program.lower(weights, key, (x, conditions), 0)


def _slice(topology: str) -> Sequence[Any]:
    """The devices of a TPU slice that need not be here, to compile for."""
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
            f"--topology={topology!r}: {error}; it needs `pip install 'jax[tpu]'` and a name such "
            "as 'v5e:2x4' or 'v4:2x2x1'"
        ) from error


def _mib(n: int) -> str:
    return f"{n / 2**20:,.1f} MiB"


def _print(what: str, figure: str, about: str = "") -> None:
    print(f"{what:<12}{figure:>18}  {about}".rstrip(), flush=True)
