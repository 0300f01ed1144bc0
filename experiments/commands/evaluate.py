"""Mode evaluate: the figures of each checkpoint; mode stats: what samples are compared with."""

import dataclasses
import itertools
import json
import logging
from collections.abc import Sequence
from typing import Any

import jax

from experiments.build import data, pipelines, reports, restored, tasks
from experiments.build.components import optimization, specs
from experiments.commands.request import Request
from experiments.evaluation import lengths
from experiments.evaluation.figure import Figures
from experiments.evaluation.metrics import DRAWN, LEAST, METRICS, Subject
from experiments.evaluation.reference import check_data, feature_function, reference
from experiments.runs import card, files, pictures
from experiments.tasks import held_out
from sde_lib.checks import check_at_least, check_name

LOG = logging.getLogger(__name__)


def run(request: Request) -> None:
    """Evaluates the last checkpoint, or all: prints the figures, and writes evaluation.jsonl.

    The file is written after each metric. A metric that fails takes no other along. Several lengths
    of the average (config.eval.ema_length) are compared in a table and a chart of each checkpoint.

    Raises:
        ValueError: no checkpoint, too few images for a statistic, or a length of the average that
            the run's snapshots cannot give.
        FloatingPointError: a likelihood or a sample is not finite.
    """
    config, folder = request.config, request.folder
    names = chosen(config)
    of_lengths = [_with_length(request, length) for length in config.eval.ema_length] or [request]
    model = of_lengths[0].model()
    steps = restored.steps(folder) if config.eval.checkpoints == "all" else [model.step]
    for step, length in itertools.product(steps, config.eval.ema_length):
        restored.check_length(config, folder, length, step)
    if "bound" in names and not (model.grey_levels or model.codec):
        model.chain()  # refuses a chain that is impossible before anything is computed
    task: Any = tasks.task(config).with_scaling(model.scaling)
    task = task.with_conditions(model.conditions)
    losses = held_out.compiled(task, model.mesh)
    without_data = names == ["sampling"] and config.eval.statistics
    dataset = None if without_data else model.dataset()
    if set(names) & set(DRAWN) and dataset and not config.eval.statistics:
        check_data(dataset)
    failures: list[Exception] = []
    for step in steps:
        found: dict[float, Figures] = {}
        for each in of_lengths:
            if (step, pipelines.average_length(each.config)) != (model.step, model.ema_length):
                model = pipelines.with_weights(model, each.config, folder, step)
            subject = reports.subject(config, model, dataset, losses)
            figures = measured(each, subject, names, failures)
            if model.ema_length is not None:
                found[model.ema_length] = figures
        if len(found) > 1:
            about = pictures.provenance(config=config.to_dict(), seed=config.seed, step=step)
            stem = folder / f"ema_length_{step}_seed{config.seed}"
            print("\n".join(lengths.report(found, stem, about)))
    if failures:
        raise failures[0]


def measured(
    request: Request, subject: Subject, names: Sequence[str], failures: list[Exception]
) -> Figures:
    """The figures of a model, printed and recorded one metric after the other.

    Args:
        request: of the evaluation, with the length of the average, if there is one.
        subject: the model.
        names: of the metrics.
        failures: gets the errors of metrics that failed.
    """
    model, figures = subject.pipeline, {}
    which = f"step {model.step}"
    if model.ema_length is not None:
        which += f", EMA length {model.ema_length:g}"
    for name in names:
        try:
            new = METRICS[name](subject)
        except (FloatingPointError, jax.errors.JaxRuntimeError) as error:
            LOG.warning("%s: no %s: %s", which, name, error)
            failures.append(error)  # other metrics may have room, or finite samples
            continue
        for what, figure in new.items():
            print(f"{which}: {what} {figure}", flush=True)
        figures |= new
        _record(request, model.step, figures)
        texts = {name: str(figure) for name, figure in figures.items()}
        card.update(request.folder, model.step, texts, model.ema_length)
    return figures


def _with_length(request: Request, length: float) -> Request:
    """The request with one length of the average."""
    config = request.config.copy_and_resolve_references()
    config.eval.ema_length = (length,)
    return dataclasses.replace(request, config=config)


def chosen(config: Any) -> list[str]:
    """The metrics that config.eval asks for, by name.

    Raises:
        ValueError: an unknown metric, or an impossible number for one.
    """
    options = config.eval
    check_name("config.eval.checkpoints", options.checkpoints, ("last", "all"))
    flags = {name: options.get(f"enable_{name}") for name in METRICS}
    names = [name for name in METRICS if flags[name] or name in options.metrics]
    for name in options.metrics:
        check_name("config.eval.metrics", name, METRICS)
    if "bound" in names:
        check_at_least(2, **{"config.eval.bound_steps": options.bound_steps})
        if config.data.autoencoder:
            raise ValueError(
                "config.eval.enable_bound needs a model of images, and with "
                "config.data.autoencoder the data are latents: set it to False"
            )
    if set(names) & set(DRAWN):
        check_at_least(LEAST, **{"config.eval.num_samples": options.num_samples})
        specs.check_features(config)
        feature_function(specs.feature_shape(config), options.features)
    if bool(options.embeddings) != ("alignment" in names):
        raise ValueError(
            f"config.eval.embeddings is {options.embeddings!r}: config.eval.metrics = "
            "('alignment',) needs it, and nothing else does; give both or neither"
        )
    return names


def run_stats(request: Request) -> None:
    """Makes the statistics of the training data that samples are compared with."""
    config = request.config
    dataset, name = data.images(config), config.data.dataset
    fn = feature_function(specs.feature_shape(config), config.eval.features)
    folder, mesh = request.folder.parent / "stats", optimization.mesh(config)
    made = reference(name, dataset, fn, folder, mesh, config.eval.batch_size)
    print(f"{made.moments.n} of {name!r}: {made.path}")


def _record(request: Request, step: int, figures: Figures) -> None:
    """Writes a line of evaluation.jsonl, in place of an older one of the same step and settings."""
    path, config = request.folder / "evaluation.jsonl", request.config
    key = {name: config[name].to_dict() for name in ("eval", "sampling", "guidance")}
    del key["eval"]["checkpoints"]
    key = json.loads(json.dumps({"step": step, "seed": config.seed, **key}))
    lines = [line for line in files.read_lines(path) if {n: line.get(n) for n in key} != key]
    lines.append(key | {name: dataclasses.asdict(figure) for name, figure in figures.items()})
    files.write_lines(path, lines)
