"""What is added to the network's own time, as ratios of times taken in turns in one process.

    python -m experiments.benchmark [--output=benchmark.json]

checkpoints: 1,000 steps on digits that save every 100, over the same without.
sampling: 64 digits by each sampler, over as many calls of the compiled network as it evaluates.
guidance: 64 digits by EDM's sampler, classifier-free over calls of the network with 128, and by a
discriminator over calls of the network, and of the discriminator's gradient where that guides.
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
import sde_lib
from configs import digits
from experiments import build, classifier, data, loop, sharding, train
from experiments.checkpoint import Checkpoints
from experiments.state import TrainState, abstract_state, init_state
from samplers.noise_levels import levels_at

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
    call, inputs = jax.jit(score_fn), (jnp.ones(shape), jnp.ones(shape[0]))
    key = jax.random.key(0)

    ratios = {}
    for name, kind in samplers.SAMPLERS.items():
        if "n_steps" not in {field.name for field in dataclasses.fields(kind)}:
            continue  # it chooses its steps as it goes
        sampler = samplers.create(name, n_steps=config.sampling.n_steps)
        run = jax.jit(lambda key, sampler=sampler: sampler(key, sde, score_fn, shape))
        nfe = int(run(key).nfe)
        ratios[name] = ratio((run, (key,), 1), [(call, inputs, nfe)], repeats)
    return ratios


def guidance(repeats: int) -> dict[str, float]:
    """For each guide, likewise."""
    config = digits.get_config("edm")
    config.model.class_conditional = True
    sde, sampler, model = build.make_sde(config), samplers.EDM(), models.create(config)
    params = init_state(config, model).ema_params
    n = config.sampling.n_samples
    shape, classes = (n, *build.image_shape(config)), jnp.arange(n) % config.data.num_classes

    def conditional(x, t, classes):
        return models.score_fn(config, sde, model, params, class_labels=classes)(x, t)

    def plain(x, t):
        return conditional(x, t, classes)

    other = digits.get_config("discriminator")
    critic = models.create(other)
    logits_fn = classifier.logits_fn(other, sde, critic, init_state(other, critic).ema_params)

    def log_ratio(x, t):
        return jnp.diff(logits_fn(x, t))[:, 0]

    def timed(score_fn: samplers.Scores, parts: list[Part]) -> float:
        run = jax.jit(lambda key: sampler(key, sde, score_fn, shape))
        return ratio((run, (jax.random.key(0),), 1), parts, repeats)

    x, t, gradient = jnp.ones(shape), jnp.ones(n), jax.grad(lambda x, t: log_ratio(x, t).sum())
    twice = jnp.ones((2 * n, *shape[1:])), jnp.ones(2 * n), jnp.concatenate([classes, classes])
    free = samplers.guidance.classifier_free(conditional, classes, 2.0)
    critical = samplers.guidance.discriminator(plain, sde, log_ratio)
    low, high = levels_at(sde_lib.VP(), list(samplers.guidance.GUIDED_TIMES))
    first = sampler.levels(sde, *levels_at(sde, [sde.t_max, sde.t_min]))[:-1]
    n_guided = int(np.sum((low <= first) & (first <= high)))
    return {
        "classifier_free": timed(free, [(jax.jit(conditional), twice, sampler.nfe)]),
        "discriminator": timed(
            critical,
            [(jax.jit(plain), (x, t), sampler.nfe), (jax.jit(gradient), (x, t), n_guided)],
        ),
    }


Part = tuple[Callable[..., Any], tuple[Any, ...], int]
"""A compiled function, its arguments, and how often it is called."""


def ratio(whole: Part, parts: list[Part], repeats: int) -> float:
    """The median over runs of the time of the whole over that of its parts."""

    def seconds(function: Callable[..., Any], arguments: tuple[Any, ...]) -> float:
        begun = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        return time.perf_counter() - begun

    for function, arguments, _ in (whole, *parts):
        seconds(function, arguments)  # compiles
    calls = [(function, arguments) for function, arguments, n in parts for _ in range(n)]
    times = [(seconds(*whole[:2]), sum(seconds(*call) for call in calls)) for _ in range(repeats)]
    return float(np.median([run / bare for run, bare in times]))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures what is added to the network's time.")
    parser.add_argument("--output", type=Path, default=Path("benchmark.json"))
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    result = {
        "device": jax.devices()[0].device_kind,
        "checkpoints": checkpoints(arguments.repeats),
        "sampling": sampling(arguments.repeats),
        "guidance": guidance(arguments.repeats),
    }
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"checkpoints: {result['checkpoints']['ratio']:.3f}")
    for kind in ("sampling", "guidance"):
        for name, value in result[kind].items():
            print(f"{kind}, {name}: {value:.3f}")
    print(arguments.output)


if __name__ == "__main__":
    main()
