"""Training steps on digits and their classes, and guided samples: the same on any mesh.

python tests/mesh_steps.py FOLDER DATAxFSDP ... [HOST:PORT PROCESS_ID]
"""

import re
import sys
from pathlib import Path

import jax
import numpy as np
from flax import serialization

import sde_lib
from configs import digits
from experiments.build import data, tasks
from experiments.build.components import optimization
from experiments.pipeline.draw import draw_all
from experiments.runs import devices, hosts
from experiments.training.state import abstract_state, init_state
from experiments.training.step import compiled, make_batches, make_program
from sde_lib.transport import Assignment

N_STEPS = 15
QUICK = {"xla_backend_optimization_level": 0}  # to compile
BYTES = {"f32": 4, "s32": 4, "u32": 4, "u8": 1, "pred": 1}
COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)


def make_config(rows=-1, columns=1):
    config = digits.get_config("vp_score_sde")
    config.mesh.data, config.mesh.fsdp = rows, columns
    config.model.nf, config.model.ch_mult, config.model.attn_resolutions = 8, (1,), (8,)
    config.model.dropout = 0.1
    config.model.class_conditional, config.model.label_dropout = True, 0.1
    config.guidance.classifier_free.weight = 1.5
    config.training.batch_size, config.training.n_iters = 32, N_STEPS
    config.optim.warmup = 10
    config.data.random_flip = True
    config.sampling.update(method="predictor_corrector", n_steps=21)
    config.sampling.update(predictor="none", corrector="langevin", noise_removal=False)
    return config


def steps(config):
    """Losses of the steps, bytes moved by each kind of collective and of state; the weights."""
    task, training, dataset = (
        tasks.task(config),
        optimization.training(config),
        data.dataset(config),
    )
    abstract = abstract_state(task, config.seed, task.mesh)
    state = init_state(task, config.seed, abstract)
    batches = list(make_batches(task.values(dataset, "train"), training, task.mesh, 0))
    program = compiled(make_program(task, training, task.mesh), abstract)
    program = program.lower(abstract, *batches[0]).compile(QUICK)
    losses = []
    for batch in batches:
        state, metrics = program(state, *batch)
        losses.extend(np.asarray(metrics["loss"]))
    leaves = jax.tree.leaves(state)
    result = collectives(program.as_text()) | {
        "losses": losses,
        "params": sum(leaf.nbytes for leaf in jax.tree.leaves(state.params)),
        "state": sum(leaf.nbytes for leaf in leaves),
        "state_here": sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves),
    }
    return result, devices.fetch(state.params)


def collectives(text):
    """Bytes of the results of each kind of collective in a compiled program."""
    total = {}
    for shapes, kind in COLLECTIVE.findall(text):
        for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", shapes):
            size = int(np.prod([int(n) for n in shape.split(",") if n]))
            total[kind] = total.get(kind, 0) + BYTES[dtype] * size
    return total


def samples(config, params, batch_size=8):
    """Ten samples of given weights."""
    config.sampling.batch_size = batch_size
    model = tasks.task(config).model
    params = jax.device_put(params, devices.state_shardings(model.mesh, params))
    return draw_all(model.replace(params=params), 10)[0]


def coupled(mesh):
    """Noise of 32 samples that is assigned in groups of 16, whatever part of them a device has."""
    x = np.random.RandomState(0).randn(32, 3).astype(np.float32)
    place, sde = devices.batch_sharding(mesh), sde_lib.LinearFlow()
    pair = jax.jit(lambda x: sde_lib.perturb(jax.random.key(0), sde, x, coupling=Assignment(16)).z)
    return devices.fetch(pair(devices.put(place, x, np.arange(32))))


def main(folder, *arguments):
    meshes = [text for text in arguments if re.fullmatch(r"\d+x\d+", text)]
    if len(arguments) > len(meshes):
        hosts.join(arguments[-2], 2, int(arguments[-1]), 100)
    params = serialization.msgpack_restore((Path(folder) / "weights").read_bytes())
    for text in meshes:
        config = make_config(*map(int, text.split("x")))
        result, _ = steps(config)
        result["samples"] = samples(config, params)
        result["coupled"] = coupled(optimization.mesh(config))
        if hosts.is_first():
            np.savez(Path(folder) / f"{jax.process_count()}_{text}.npz", **result)


if __name__ == "__main__":
    main(*sys.argv[1:])
