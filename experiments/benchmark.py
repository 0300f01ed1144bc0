"""What the trainer adds to its steps, as ratios of times taken in turns in one process.

    python -m experiments.benchmark [--output=benchmark.json]

checkpoints: 1,000 steps on digits that save every 100, over the same without.
"""

import argparse
import itertools
import json
import tempfile
import time
from contextlib import closing
from pathlib import Path

import jax
import numpy as np

import models
from configs import digits
from experiments import data, loop, sharding, train
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


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures what the trainer adds to its steps.")
    parser.add_argument("--output", type=Path, default=Path("benchmark.json"))
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    result = {"device": jax.devices()[0].device_kind, "checkpoints": checkpoints(arguments.repeats)}
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"checkpoints: {result['checkpoints']['ratio']:.3f}")
    print(arguments.output)


if __name__ == "__main__":
    main()
