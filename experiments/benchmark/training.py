"""Training against bare gradient steps, its data against these, and the cost of checkpoints."""

import dataclasses
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.benchmark import measure
from experiments.benchmark.measure import Figure
from experiments.benchmark.presets import Preset
from experiments.benchmark.subject import Subject
from experiments.build import components, data, tasks
from experiments.training import loop
from experiments.training.checkpoints import Checkpoints
from experiments.training.state import abstract_state, init_state
from experiments.training.step import compiled, make_batches, make_program
from models.config import Config


def train_figures(preset: Preset, repeats: int) -> Iterator[Figure]:
    """The trainer against bare steps, and the trainer with many checkpoints against itself.

    The trainer saves as often as the config says; the other one every preset.save_every steps.
    """
    n = preset.train_steps
    for subject in preset.subjects:
        title = f"train {subject}"
        with measure.working(f"{title}: loading data"):
            trainer, bare = Trainer(subject.config()), Bare(subject)
        run = trainer.run
        measure.compiled(title, partial(run, 2, 1), partial(bare.run, 2))
        runs = {
            "trainer": partial(run, n, trainer.training.snapshot_freq_for_preemption),
            "checkpoints": partial(run, n, preset.save_every),
            "bare": partial(bare.run, n),
        }
        times = measure.in_turns(title, runs, repeats)
        for whole, part in (("trainer", "bare"), ("checkpoints", "trainer")):
            seconds = measure.medians({name: times[name] for name in (whole, part)})
            ratio = measure.ratio(times, whole, [part])
            yield Figure("train", str(subject), whole, ratio, seconds, repeats, {"steps": n})


def data_figures(preset: Preset, repeats: int) -> Iterator[Figure]:
    """Batches a second of data that live on the host, against those of bare steps."""
    n = preset.train_steps
    for subject in preset.subjects:
        title, config = f"data {subject}", subject.config()
        config.data.resident_bytes, config.training.steps_per_jit = 0, 1
        with measure.working(f"{title}: loading data"):
            trainer, bare = Trainer(config), Bare(subject)

        def pipeline(batches=trainer.batches):
            for _ in range(n):
                jax.block_until_ready(next(batches))

        measure.compiled(title, partial(bare.run, 1))
        runs = {"bare": partial(bare.run, n), "pipeline": pipeline}
        times = measure.in_turns(title, runs, repeats)
        seconds, ratio = measure.medians(times), measure.ratio(times, "bare", ["pipeline"])
        images = n * trainer.training.batch_size
        rates = {f"{name} images/s": images / taken for name, taken in seconds.items()}
        yield Figure("data", str(subject), "pipeline", ratio, seconds, repeats, rates)


class Trainer:
    """A training as mode train makes it.

    Attributes:
        training: its options.
        program: its steps, to be compiled.
        state: its state now.
        batches: the arguments of the next programs, without an end.
    """

    def __init__(self, config: Config):
        task, mesh = tasks.task(config), components.mesh(config)
        self.training = components.training(config)
        abstract = abstract_state(task, config.seed, mesh)
        self.program = compiled(make_program(task, self.training, mesh), abstract)
        self.state = init_state(task, config.seed, abstract)
        endless = dataclasses.replace(self.training, n_iters=sys.maxsize)
        values = task.values(data.dataset(config), "train")
        self.batches = make_batches(values, endless, mesh, 0)

    def run(self, n: int, every: int) -> None:
        """Makes the next n steps, saves every `every` steps, and waits for the last write."""
        n_iters = int(self.state.step) + n
        options = {"n_iters": n_iters, "snapshot_freq_for_preemption": every}
        training = dataclasses.replace(self.training, **options)
        with tempfile.TemporaryDirectory() as name, closing(Checkpoints(Path(name))) as kept:
            about = training, self.program, self.state, self.batches, kept, Path(name)
            self.state, _ = loop.fit(*about)


class Bare:
    """Gradient steps and nothing else: the loss of one batch, and the optimizer's update.

    It shares no code with the trainer, whose cost it measures.

    Attributes:
        step: compiled step(params, opt_state, key, x) -> (params, opt_state, loss), in place.
        arguments: its next ones.
    """

    def __init__(self, subject: Subject):
        config, (model, params, shape) = subject.config(), subject.network()
        loss = components.loss_of(config, model.sde)(None)
        optimizer = components.adam(config).create()

        def objective(params, key, x):
            score_fn = model.score_fn(params, True, key)
            return jnp.mean(loss(key, model.sde, score_fn, x)[0])

        @partial(jax.jit, donate_argnums=(0, 1))
        def step(params, opt_state, key, x):
            value, grads = jax.value_and_grad(objective)(params, key, x)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), opt_state, value

        key, x = jax.random.key(config.seed), jnp.zeros((config.training.batch_size, *shape))
        self.step, self.arguments = step, (params, optimizer.init(params), key, x)

    def run(self, n: int) -> Any:
        """Starts n steps without waiting for any of them; returns the arrays to wait for."""
        for _ in range(n):
            *state, _ = self.step(*self.arguments)
            self.arguments = (*state, *self.arguments[2:])
        return self.arguments
