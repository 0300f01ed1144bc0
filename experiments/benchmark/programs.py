"""The two programs that everything leads to: training steps, and a batch of samples."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax

from experiments.benchmark import measure
from experiments.benchmark.measure import Run
from experiments.benchmark.presets import Preset
from experiments.benchmark.subject import Subject
from experiments.benchmark.training import Trainer
from experiments.pipeline.draw import make_draw


class Program(NamedTuple):
    """A compiled program of n_images images, and a function that runs it any number of times."""

    name: str
    n_images: int
    compiled: jax.stages.Compiled
    run: Run


def programs(kind: str, preset: Preset, subject: Subject) -> Iterator[Program]:
    """One after the other, so that the first is gone from memory when the second is made."""
    with measure.working(f"{kind} {subject} sampling: compiling"):
        made = _sampling(preset, subject)
    yield made
    del made
    with measure.working(f"{kind} {subject} training: compiling"):
        made = _training(subject)
    yield made


def _sampling(preset: Preset, subject: Subject) -> Program:
    n, params = preset.n_samples, subject.network().params
    model = subject.pipeline(params, "predictor_corrector", preset.n_steps)

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
