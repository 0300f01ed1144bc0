"""Mode train: trains to config.training.n_iters, then makes the reports of config.training.at_end.

A run that was stopped continues where it was. Reports that a finished run has made already are
printed again, not made again. A report that fails after training is a warning, and is made by the
same command again.
"""

import dataclasses
import logging
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import jax

import models
from experiments.build import data, initial, reports, tasks
from experiments.build.components import optimization, specs
from experiments.build.fields import configs
from experiments.build.inspection import advice
from experiments.commands.request import Request
from experiments.data import scaling
from experiments.data.dataset import Dataset
from experiments.data.lazy_arrays import complete_samples
from experiments.evaluation import reference
from experiments.evaluation.metrics import LEAST
from experiments.runs import card, charts, files, hosts, parts, pictures, progress
from experiments.runs import folder as folders
from experiments.tasks.base import Task
from experiments.tasks.held_out import make_evaluation
from experiments.training import imported, loop, watch
from experiments.training.averages import snapshots
from experiments.training.averages.power import PowerAverage
from experiments.training.checkpoints import Checkpoints
from experiments.training.init_from import warm_start
from experiments.training.options import Training
from experiments.training.state import TrainState, abstract_state, init_state, restore
from experiments.training.step import check_batch, compiled, make_batches, make_program
from sde_lib.checks import check_at_least, check_name

LOG = logging.getLogger(__name__)
DONE = "reports.json"


def run(request: Request) -> None:
    """Trains, and makes the reports.

    Raises:
        FloatingPointError: config.training.max_skipped steps in a row had no finite loss and
            gradient.
    """
    folder = request.folder
    _check_no_length(request.config)
    config, found = advice.settled(request.config, folder)
    task = tasks.task(config)  # first, because it checks the fields
    training, mesh = optimization.training(config), optimization.mesh(config)
    training.batch_shape(mesh)
    configs.check_same(config, folder, configs.RESUME)
    changes = configs.changes(config, folder)
    check_reports(config, task)
    abstract = abstract_state(task, config.seed, mesh, training.average.count)
    training.optimizer.check_freeze(abstract.params)
    first = initial.weights(config, folder, abstract.params)
    with folders.locked(folder):
        task, dataset = prepared(config, folder, task, training, found)
        shared = task.shared  # refused before anything is compiled
        found = None  # frees images whose latents are the data
        n_params = sum(leaf.size for leaf in jax.tree.leaves(abstract.params))
        facts = reports.card_facts(config, task, dataset, n_params)
        with (
            loop.stop_signals() as stop,
            closing(
                Checkpoints(
                    folder, training.snapshot_freq, describe=partial(card.describe, facts, folder)
                )
            ) as checkpoints,
        ):
            state = restore(checkpoints, task, abstract)
            state = state or imported.start(task, folder, abstract)
            state = state or first_state(config, task, abstract, first)
            begun = int(state.step)
            snapshots.remove_after(folder, begun)
            folders.record_changes(folder, begun, changes)
            configs.save(config, folder)
            if first:
                files.write_json(folder / folders.ORIGIN, first.record)
            first = None  # frees its weights
            LOG.info("%s: %d parameters, from step %d", folder, n_params, begun)
            state, stopped = loop.fit(
                training,
                compiled(make_program(task, training, mesh), abstract),
                state,
                make_batches(task.values(dataset, "train"), training, mesh, begun, shared),
                checkpoints,
                folder,
                periodic(config, task, dataset, training, folder),
                stop,
            )
            checkpoints.save(int(state.step), state)
        if stopped:
            step = int(state.step)
            LOG.info("stopped and saved at step %d: run the same command to go on", step)
            return
        report(config, task, state, dataset, folder, trained=int(state.step) > begun)


def _check_no_length(config: Any) -> None:
    if config.eval.ema_length:
        raise ValueError(
            f"config.eval.ema_length is {tuple(config.eval.ema_length)}, which is of a trained "
            "model: leave it out here, and give it to --mode=evaluate or --mode=sample"
        )


def prepared(
    config: Any, folder: Path, task: Task, training: Training, found: Dataset | None
) -> tuple[Task, Dataset]:
    """The task as the data ask for it, and the data, which are checked and recorded.

    `found` are the images that were loaded already, if any were.
    """
    with progress.working("loading data"):
        dataset = data.claimed(config, folder, found)
    check_data(config, task, training, dataset)
    task = standardized(task, dataset, folder)
    latents = config.latent.name or models.kind(config) == "autoencoder"
    if not folders.has_run(folder) and not latents:
        advice.warn(config, dataset.train)
    return task.prepare(dataset, folder) or task, dataset


def standardized(task: Task, dataset: Dataset, folder: Path) -> Task:
    """The task with the moments of the training data, if these are standardised."""
    if not task.scaling.standardized:
        return task
    real = dataset.real or dataset
    made = scaling.claim(task.scaling, real.train, real.test, real.columns, folder)
    return task.with_scaling(made)


def first_state(
    config: Any, task: Task, abstract: TrainState, first: initial.Initial | None
) -> TrainState:
    """The state before the first step, of random weights or with those of another run."""
    state = init_state(task, config.seed, abstract)
    if first:
        state = warm_start(state, first.params, first.matched)
    return task.start(state)


def check_reports(config: Any, task: Task) -> None:
    """Raises ValueError for reports, or for sample quality during training, that cannot be made."""
    at_end, period = config.training.at_end, config.training.quality_freq
    for name in at_end:
        check_name("config.training.at_end", name, {*tasks.REPORTS, *task.reports})
    if period and "quality" not in task.reports:
        raise ValueError(
            f"config.training.quality_freq is {period}, but a {task.describe().kind} has no "
            "samples: set it to 0"
        )
    if _measures_quality(config, task):
        check_at_least(LEAST, **{"config.eval.num_samples": config.eval.num_samples})
        specs.check_features(config)
        reference.feature_function(specs.feature_shape(config), config.eval.features)


def check_data(config: Any, task: Task, training: Training, dataset: Dataset) -> None:
    """Raises ValueError for data that are too few for a batch or for an evaluation."""
    check_batch(len(dataset.train), training)
    if _measures_quality(config, task):
        if task.scaling.missing:
            dataset = dataclasses.replace(dataset, train=complete_samples(dataset.train))
        reference.check_data(dataset)


def _measures_quality(config: Any, task: Task) -> bool:
    at_end = "quality" in config.training.at_end and "quality" in task.reports
    return bool(config.training.quality_freq) or at_end


def periodic(
    config: Any, task: Task, dataset: Dataset, training: Training, folder: Path
) -> list[loop.Periodic]:
    """The evaluations and pictures during training."""
    mesh = optimization.mesh(config)
    about = task, dataset, mesh, config.seed, config.eval.batch_size
    made: list[loop.Periodic] = [(training.eval_freq, make_evaluation(*about))]

    def save_pictures(step: int, state: TrainState) -> list[Path]:
        if step >= training.n_iters:  # the last ones are a report
            return []
        return task.pictures(state.ema_params, step, dataset, folder)

    def quality(step: int, state: TrainState) -> dict[str, float]:
        report = task.reports["quality"](state.ema_params, step, dataset, folder)
        return {f"quality_{name}": float(text.split()[0]) for name, text in report.figures.items()}

    average = training.average
    if isinstance(average, PowerAverage):

        def save_averages(step: int, state: TrainState) -> list[Path]:
            averages = state.ema_params, *state.averages
            snapshots.write(folder, step, average.lengths, averages)
            return []

        made.insert(0, (training.ema_period, save_averages))
    made.append((training.snapshot_freq, save_pictures))
    if training.quality_freq:
        made.append((training.quality_freq, quality))
    return made


def report(
    config: Any, task: Task, state: TrainState, dataset: Dataset, folder: Path, trained: bool
) -> None:
    """Makes and prints the reports of config.training.at_end that the task has, and the loss curve.

    A report that was made of the same step and settings is printed again. One that fails does not
    take the others along; it is an error of a command that has not trained, but reports alone.
    """
    step, path = int(state.step), folder / DONE
    done = files.read_json(path) if hosts.agree(path.exists()) else {}
    failures: list[Exception] = []
    for name in config.training.at_end:
        if name not in task.reports:
            continue
        settings = [getattr(config, section).to_dict() for section in ("eval", "sampling")]
        settings += [config.guidance.to_dict(), config.seed]
        key = f"{step} {name} {parts.digest(settings)}"
        kept = key in done and _pictures_exist(done[key])
        with watch.surviving(f"no report {name!r}; the same command tries again", failures):
            if not hosts.agree(kept):
                result = task.reports[name](state.ema_params, step, dataset, folder)
                card.update(folder, step, result.figures)
                done[key] = result.lines
                files.write_json(path, done)
            for line in done[key]:
                print(line)
    with watch.surviving("no picture of the losses", failures):
        metrics = files.read_lines(folder / "metrics.jsonl")
        about = pictures.provenance(config=config.to_dict(), seed=config.seed, step=step)
        print(charts.save_loss_curve(folder / "samples" / "loss.png", metrics, about))
    if failures and not trained:
        raise failures[0]


def _pictures_exist(lines: list[str]) -> bool:
    """True if the pictures among the lines of a report are still there."""
    return all(Path(line).exists() for line in lines if line.endswith(".png"))
