"""Mode evaluate: the figures of each checkpoint; mode stats: what samples are compared with."""

import dataclasses
import json
import logging
from typing import Any

import jax

from experiments.build import components, data, related, tasks
from experiments.commands.request import Request
from experiments.evaluation.figure import Figures
from experiments.evaluation.metrics import DRAWN, LEAST, METRICS
from experiments.evaluation.reference import check_data, feature_function, reference
from experiments.runs import card, files
from sde_lib.checks import check_at_least, check_name

LOG = logging.getLogger(__name__)


def run(request: Request) -> None:
    """Evaluates the last checkpoint, or all: prints the figures, and writes evaluation.jsonl.

    The file is written after each metric. A metric that fails takes no other along.

    Raises:
        ValueError: no checkpoint, or too few images for a statistic.
        FloatingPointError: a likelihood or a sample is not finite.
    """
    config, folder = request.config, request.folder
    names = chosen(config)
    model = request.model()
    if "bound" in names and not (model.grey_levels or model.codec):
        model.chain()  # refuses a chain that is impossible before anything is computed
    task: Any = tasks.task(config).with_scaling(model.scaling)
    task = task.with_conditions(model.conditions)
    losses = jax.jit(task.metrics)
    without_data = names == ["sampling"] and config.eval.statistics
    dataset = None if without_data else model.dataset()
    if set(names) & set(DRAWN) and dataset and not config.eval.statistics:
        check_data(dataset)
    failures: list[Exception] = []
    steps = related.steps(folder) if config.eval.checkpoints == "all" else [model.step]
    for step in steps:
        model = model if step == model.step else request.model(step)
        subject, figures = tasks.subject(config, model, dataset, losses), {}
        for name in names:
            try:
                new = METRICS[name](subject)
            except (FloatingPointError, jax.errors.JaxRuntimeError) as error:
                LOG.warning("step %d: no %s: %s", step, name, error)
                failures.append(error)  # other metrics may have room, or finite samples
                continue
            for what, figure in new.items():
                print(f"step {step}: {what} {figure}", flush=True)
            figures |= new
            _record(request, step, figures)
            card.update(folder, step, {name: str(figure) for name, figure in figures.items()})
    if failures:
        raise failures[0]


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
        components.check_features(config)
        feature_function(components.feature_shape(config), options.features)
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
    fn = feature_function(components.feature_shape(config), config.eval.features)
    folder, mesh = request.folder.parent / "stats", components.mesh(config)
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
