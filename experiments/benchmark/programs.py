"""The programs that are measured: training as it is made, bare gradient steps, and sampling."""

import dataclasses
import tempfile
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.benchmark import measure
from experiments.benchmark.measure import Run
from experiments.benchmark.subject import Subject
from experiments.build import data, tasks
from experiments.build.components import objectives, optimization
from experiments.pipeline.draw import make_draw
from experiments.training import loop
from experiments.training.checkpoints import Checkpoints
from experiments.training.state import abstract_state, init_state
from experiments.training.step import compiled, make_batches, make_program
from models.config import Config
from sde_lib.checks import MOST


class Trainer:
    """A training as mode train makes it.

    Attributes:
        training: its options.
        program: its steps, to be compiled.
        state: its state now.
        batches: the arguments of the next programs, without an end.
    """

    def __init__(self, config: Config):
        task, mesh = tasks.task(config), optimization.mesh(config)
        self.training = optimization.training(config)
        abstract = abstract_state(task, config.seed, mesh, self.training.average.count)
        self.program = compiled(make_program(task, self.training, mesh), abstract)
        self.state = init_state(task, config.seed, abstract)
        endless = dataclasses.replace(self.training, n_iters=MOST)
        values = task.values(data.dataset(config), "train")
        self.batches = make_batches(values, endless, mesh, 0, task.shared)

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
        loss = objectives.loss_of(config, model.sde)(None)
        optimizer = optimization.adam(config).create()

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


class Program(NamedTuple):
    """A compiled program of n_images images, and a function that runs it any number of times."""

    name: str
    n_images: int
    compiled: jax.stages.Compiled
    run: Run


def programs(kind: str, subject: Subject, n_samples: int, n_steps: int) -> Iterator[Program]:
    """Sampling, then training: the first is gone from memory when the second is made."""
    with measure.working(f"{kind} {subject} sampling: compiling"):
        made = _sampling(subject, n_samples, n_steps)
    yield made
    del made
    with measure.working(f"{kind} {subject} training: compiling"):
        made = _training(subject)
    yield made


def _sampling(subject: Subject, n: int, n_steps: int) -> Program:
    params = subject.network().params
    model = subject.pipeline(params, "predictor_corrector", n_steps)

    def draw(params: Any) -> Any:
        return make_draw(model.replace(params=params), n)(0)

    program = jax.jit(draw).lower(params).compile()
    return Program("sampling", n, program, partial(program, params))


def _training(subject: Subject) -> Program:
    trainer = Trainer(subject.config())
    batch = next(trainer.batches)
    program = trainer.program.lower(trainer.state, *batch).compile()

    def run() -> Any:
        trainer.state, metrics = program(trainer.state, *batch)
        return metrics

    return Program("training", trainer.training.batch_size, program, run)
