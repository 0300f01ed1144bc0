"""The two programs that everything leads to: a training step, and a batch of samples."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax

from experiments.benchmark.measure import Run
from experiments.benchmark.presets import Preset
from experiments.benchmark.sampling import sampling_config
from experiments.benchmark.subject import Network, Subject
from experiments.benchmark.training import make_training
from experiments.pipeline import sample
from models.config import Config


class Program(NamedTuple):
    """A compiled program of so many images, and what runs it again and again."""

    name: str
    n_images: int
    compiled: jax.stages.Compiled
    run: Run


def programs(preset: Preset, subject: Subject) -> Iterator[Program]:
    """One after the other: the first is gone from memory by the time of the second."""
    yield _sampling(sampling_config(preset, subject, "predictor_corrector"), preset.n_samples)
    yield _training(subject.config())


def _sampling(config: Config, n: int) -> Program:
    network = Network.of(config)
    draw: Any = sample.make_draw(config, network.model, network.params, n)  # a partial of jit's
    program = draw.func.lower(*draw.args, 0).compile()
    return Program("sampling", n, program, partial(program, *draw.args, 0))


def _training(config: Config) -> Program:
    step, state, batches = make_training(config)
    batch = next(batches)
    program = step.lower(state, *batch).compile()

    def run():
        nonlocal state
        state, metrics = program(state, *batch)
        return metrics

    return Program("training", config.training.batch_size, program, run)
