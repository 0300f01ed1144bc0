"""Training, over bare gradient steps; its data, over what these take; its checkpoints."""

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

import models
from experiments import build
from experiments.benchmark import measure
from experiments.benchmark.measure import Figure
from experiments.benchmark.presets import Preset
from experiments.commands import train
from experiments.data import data
from experiments.training import loop
from experiments.training.checkpoint import Checkpoints
from experiments.training.state import TrainState, abstract_state, init_state
from models.config import Config


def train_figures(preset: Preset, repeats: int) -> Iterator[Figure]:
    """The trainer with checkpoints at the config's frequency over bare steps; then with many.

    The second is over the first: what more checkpoints cost.
    """
    n = preset.train_steps
    for subject in preset.subjects:
        config = subject.config()
        run, bare = trainer(config), Bare(config).run
        measure.compiled(partial(run, 2, 1), partial(bare, 2))
        runs = {
            "trainer": partial(run, n, config.training.snapshot_freq_for_preemption),
            "checkpoints": partial(run, n, preset.save_every),
            "bare": partial(bare, n),
        }
        times = measure.in_turns(runs, repeats)
        for whole, part in (("trainer", "bare"), ("checkpoints", "trainer")):
            seconds = measure.medians({name: times[name] for name in (whole, part)})
            ratio = measure.ratio(times, whole, [part])
            yield Figure("train", str(subject), whole, ratio, seconds, repeats, {"steps": n})


def data_figures(preset: Preset, repeats: int) -> Iterator[Figure]:
    """Batches a second of the pipeline, of data that live on the host, over those of bare steps."""
    n = preset.train_steps
    for subject in preset.subjects:
        config = subject.config()
        config.data.resident_bytes, config.training.steps_per_jit = 0, 1
        bare, batches = Bare(config).run, batches_of(config, data.load(config))

        def pipeline(batches=batches):
            for _ in range(n):
                jax.block_until_ready(next(batches))

        measure.compiled(partial(bare, 1))
        times = measure.in_turns({"bare": partial(bare, n), "pipeline": pipeline}, repeats)
        seconds, ratio = measure.medians(times), measure.ratio(times, "bare", ["pipeline"])
        images = n * config.training.batch_size
        rates = {f"{name} images/s": images / taken for name, taken in seconds.items()}
        yield Figure("data", str(subject), "pipeline", ratio, seconds, repeats, rates)


def trainer(config: Config) -> Callable[[int, int], None]:
    """run(n, every): the next n steps of a training that saves every so many, to the last write."""
    step, state, batches = make_training(config)

    def run(n: int, every: int) -> None:
        nonlocal state
        training = config.training.copy_and_resolve_references()
        training.n_iters = int(state.step) + n
        training.snapshot_freq_for_preemption = every
        with tempfile.TemporaryDirectory() as name, closing(Checkpoints(Path(name))) as kept:
            state, _ = loop.fit(training, step, state, batches, kept, Path(name))

    return run


def make_training(config: Config) -> tuple[Any, TrainState, Iterator[Any]]:
    """The trainer's program, to be compiled, the first state and the batches."""
    model, dataset = models.create(config), data.load(config)
    program = train.make_program(config, model, dataset.levels)
    program = train.compiled(program, abstract_state(config, model))
    return program, init_state(config, model), batches_of(config, dataset)


def batches_of(config: Config, dataset: data.Dataset) -> Iterator[Any]:
    """The trainer's, without an end."""
    config = config.copy_and_resolve_references()
    config.training.n_iters = sys.maxsize
    return train.make_batches(config, dataset, 0)


class Bare:
    """Gradient steps and nothing else: of the loss on one batch, and the optimizer's update.

    Attributes:
        step: compiled step(params, opt_state, key, x) -> (params, opt_state, loss), in place.
        arguments: its next ones.
    """

    def __init__(self, config: Config):
        sde, model = build.make_sde(config), models.create(config)
        loss, optimizer = build.make_loss(config), build.make_optimizer(config)

        def objective(params, key, x):
            score_fn = models.score_fn(config, sde, model, params, True, key)
            return jnp.mean(loss(key, sde, score_fn, x)[0])

        @partial(jax.jit, donate_argnums=(0, 1))
        def step(params, opt_state, key, x):
            value, grads = jax.value_and_grad(objective)(params, key, x)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), opt_state, value

        state, key = init_state(config, model), jax.random.key(config.seed)
        x = jnp.zeros((config.training.batch_size, *build.image_shape(config)))
        self.step, self.arguments = step, (state.params, state.opt_state, key, x)

    def run(self, n: int) -> Any:
        """n steps, each launched without waiting for the last; what is to be waited for."""
        for _ in range(n):
            *state, _ = self.step(*self.arguments)
            self.arguments = (*state, *self.arguments[2:])
        return self.arguments
