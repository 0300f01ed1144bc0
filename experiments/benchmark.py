"""What is added to the network's own time, as ratios of times taken in turns in one process.

    python -m experiments.benchmark [--output=benchmark.json]

checkpoints: 1,000 steps on digits that save every 100, over the same without.
sampling: 64 digits by each sampler, over as many calls of the compiled network as it evaluates.
"""

import argparse
import dataclasses
import itertools
import json
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import models
import samplers
from configs import digits
from experiments import build, data, loop, sharding, train
from experiments.checkpoint import Checkpoints
from experiments.state import TrainState, abstract_state, init_state

N_STEPS, EVERY = 1000, 100


def checkpoints(repeats: int) -> dict[str, object]:
    """Seconds of `repeats` runs of each kind, in turns, and the ratio of their medians."""
    config = digits.get_config()
    model, dataset = models.create(config), data.load(config)
    placement = sharding.of_batch(sharding.make_mesh(config), axis=1)
    batches = data.batches((dataset.train,), 0, (1, config.training.batch_size), 0, placement)
    train_step = train.make_train_step(config, model, dataset.levels)
    step = train.compiled(train_step, abstract_state(config, model))

    def seconds(state: TrainState, n_steps: int, every: int) -> tuple[TrainState, float]:
        training = config.training.copy_and_resolve_references()
        training.n_iters = int(state.step) + n_steps
        training.snapshot_freq_for_preemption = every
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            with closing(Checkpoints(Path(folder))) as kept:
                state, _ = loop.fit(training, step, state, batches, kept, Path(folder))
            return state, time.perf_counter() - begun

    state, _ = seconds(init_state(config, model), 20, 10)  # compiles
    kinds: dict[str, list[float]] = {"with": [], "without": []}
    for kind, times in itertools.chain.from_iterable([kinds.items()] * repeats):
        state, taken = seconds(state, N_STEPS, EVERY if kind == "with" else 10 * N_STEPS)
        times.append(taken)
    ratio = float(np.median(kinds["with"]) / np.median(kinds["without"]))
    return {"ratio": ratio, **kinds}


def sampling(repeats: int) -> dict[str, float]:
    """For each sampler, the median over its runs of the time for the network's evaluations."""
    config = digits.get_config("edm")
    sde, model = build.make_sde(config), models.create(config)
    score_fn = models.score_fn(config, sde, model, init_state(config, model).ema_params)
    shape = (config.sampling.n_samples, *build.image_shape(config))
    key, x, t = jax.random.key(0), jnp.ones(shape), jnp.ones(shape[0])
    call = jax.jit(score_fn)

    def seconds(function: Callable[..., Any], *arguments: Any) -> float:
        begun = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        return time.perf_counter() - begun

    ratios = {}
    for name, kind in samplers.SAMPLERS.items():
        if "n_steps" not in {field.name for field in dataclasses.fields(kind)}:
            continue  # it chooses its steps as it goes
        sampler = samplers.create(name, n_steps=config.sampling.n_steps)
        run = jax.jit(lambda key, sampler=sampler: sampler(key, sde, score_fn, shape))
        nfe, _ = int(run(key).nfe), call(x, t)
        times = [
            (seconds(run, key), sum(seconds(call, x, t) for _ in range(nfe)))
            for _ in range(repeats)
        ]
        ratios[name] = float(np.median([whole / calls for whole, calls in times]))
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures what is added to the network's time.")
    parser.add_argument("--output", type=Path, default=Path("benchmark.json"))
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    result = {
        "device": jax.devices()[0].device_kind,
        "checkpoints": checkpoints(arguments.repeats),
        "sampling": sampling(arguments.repeats),
    }
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"checkpoints: {result['checkpoints']['ratio']:.3f}")
    for name, ratio in result["sampling"].items():
        print(f"sampling, {name}: {ratio:.3f}")
    print(arguments.output)


if __name__ == "__main__":
    main()
