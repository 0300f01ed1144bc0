"""Mode study, config.study.name = "guidance": what guidance does to samples.

    python -m experiments.main --config=configs/points.py:mixture --mode=study \\
        --config.study.name=guidance
    python -m experiments.main --mode=study --config.study.name=guidance --workdir=runs/classes

Without a run, classes of points in the plane are guided by their exact scores, and compared with
the class and with the tilted density (points.py). With a run, each scale is measured for each
schedule and solver, over several sets of samples from the same noise in all settings (trained.py).
config.study.guidance.negatives adds a grid of images that are guided away from each of these
classes or prompts. config.eval.embeddings adds the agreement of samples with their captions.
A study of a run that was stopped continues.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments.build import guidance
from experiments.build.components import diffusion, sampling
from experiments.build.fields import sections
from experiments.commands.request import Request
from experiments.evaluation.alignment import Embeddings
from experiments.evaluation.metrics import LEAST
from experiments.pipeline.guidance import Classifier
from experiments.runs import charts, files, pictures, progress
from experiments.runs import folder as folders
from experiments.runs.parts import Parts
from experiments.studies import subject as subjects
from experiments.studies.guidance import negatives, points, trained
from experiments.studies.guidance.options import SECTION, Options
from experiments.studies.statistics import save_table
from models.config import Config
from samplers.guidance_schedules import CHANGES
from sde_lib.checks import check_at_least

HALF_WIDTH = 3.5  # of the picture
OF_RUNS = (  # fields that have no effect without a run
    *("study.guidance.schedules", "study.guidance.intervals"),
    *("study.guidance.classifier", "study.guidance.negatives"),
    *("guidance.schedule.name", "eval.embeddings"),
    *(f"guidance.schedule.{option}" for option in (*CHANGES, "power")),
)


def run(request: Request) -> None:
    """Measures all settings; prints the table, and saves it with its rows as JSON and pictures.

    Raises:
        ValueError: an impossible option, or a model that has no condition to guide by.
    """
    if folders.has_run(request.folder):
        of_run(request)
    else:
        of_points(request.config, request.folder)


def of_points(config: Config, folder: Path) -> None:
    """The study of points with exact scores."""
    for field in subjects.set_fields(config, OF_RUNS):
        raise ValueError(f"config.{field} needs a run: give --workdir, or leave it out")
    defaults = subjects.with_defaults(
        config.study.guidance, nfe=(99,), solvers=("heun", "euler_ancestral"), n_samples=2000
    )
    options = Options(**defaults)
    solvers = subjects.solvers(config, options.solvers, options.nfe)
    track = partial(progress.track, title="guidance", unit="setting")
    results: list[points.Result] = []
    shown: dict[str, dict[str, np.ndarray]] = {}
    path = subjects.table_path(folder, "guidance", options, config.seed)
    measured = points.measure(diffusion.sde(config), solvers, options, config.seed, track)
    for result, x in measured:
        results.append(result)
        if not result.guidance.endswith("classifier"):  # samples as classifier-free guidance does
            row = f"{result.guidance}\n{result.solver}".replace(", ", "\n").strip()
            shown.setdefault(row, {})[f"w = {result.weight:g}"] = x
        files.write_lines(path, map(_row, results))
    save_table(path, results)
    about = pictures.provenance(config=config.to_dict(), seed=config.seed)
    print(charts.save_clouds(path.with_suffix(".png"), shown, HALF_WIDTH, about))


def of_run(request: Request) -> None:
    """The study of a trained model."""
    config, folder = request.config, request.folder
    defaults = subjects.with_defaults(
        config.study.guidance, nfe=(35,), solvers=("heun",), n_samples=1000
    )
    options = Options(**defaults)
    check_at_least(LEAST, **{f"{SECTION}.n_samples": options.n_samples})
    solvers = subjects.solvers(config, options.solvers, options.nfe)
    study = _study(request, options)
    model = study.model
    settings = study.settings(solvers)
    sets = len(settings) * len(options.weights) * options.n_seeds
    print(f"{sets} sets of {options.n_samples} samples, {options.nfe} guided evaluations each")
    chosen = options, config.guidance.schedule.to_dict(), config.eval.embeddings
    path = subjects.table_path(folder, "guidance", chosen, model.seed, model.step)
    track = partial(progress.track, title="guidance", unit="setting")
    results: list[trained.Result] = []
    images: dict[tuple[Any, ...], list[np.ndarray]] = {}
    for result, shown in study.measure(settings, track):
        results.append(result)
        images.setdefault(result[:3], []).append(shown)
        files.write_lines(path, map(_row, results))
    save_table(path, results, missing="-")
    print("\n".join(best(results)))
    about = pictures.provenance(config=config.to_dict(), seed=model.seed, step=model.step)
    print(charts.save_curves(path.with_suffix(".png"), curves(results), "guidance scale", about))
    titles = [f"{weight:g}" for weight in options.weights]
    for k, columns in enumerate(images.values()):
        grid = np.stack(columns, axis=1)
        rows = grid.reshape(-1, *grid.shape[2:])
        target = path.with_name(f"{path.stem}_{k}.png")
        print(pictures.save_grid(target, rows, len(columns), about, titles))
    if options.negatives:
        target = path.with_name(f"{path.stem}_negatives.png")
        print(negatives.save(target, study, settings[0], options.negatives, about))


def _study(request: Request, options: Options) -> trained.Study:
    """The study of the run's model, whose options are checked before anything is drawn."""
    config, folder, model = request.config, request.folder, request.model()
    if model.super_resolution:
        raise ValueError("the study of guidance knows no super-resolution: give another run")
    schedule, file = sampling.guidance_schedule(config, model.sde), config.eval.embeddings
    embeddings = Embeddings.read(Path(file)) if file else None
    # Refused before the features of all data are computed:
    trained.check(model, options.compared(schedule).values(), embeddings)
    if options.negatives:
        negatives.models(model, options.negatives)
    fn, truth = subjects.features(request, model)
    judge = _judge(config, options, model)
    inputs = [model.identity(), options.n_samples, fn.name, fn.version, truth.path.name]
    inputs += [judge.params if judge else "", config.guidance.schedule.to_dict()]
    inputs += [embeddings.captions] if embeddings else []
    parts = Parts(folder / "guidance" / str(model.step), "sets", inputs)
    return trained.Study(model, schedule, options, fn, truth, judge, parts, embeddings)


def curves(results: Sequence[trained.Result]) -> list[charts.Errors]:
    """For each statistic its values and errors over the weight, of each schedule and solver."""
    panels = []
    for name in trained.Result._fields[4:]:
        lines: dict[str, list[tuple[float, float, float]]] = {}
        for result in results:
            found = getattr(result, name)
            if found is not None:
                label = f"{result.schedule}, {result.solver} {result.nfe}"
                lines.setdefault(label, []).append((result.weight, *found))
        if lines:
            panels.append(charts.Errors(name.replace("_", " "), lines))
    return panels


LEAST_IS_BEST = ("frechet", "kernel")


def best(results: Sequence[trained.Result]) -> Iterator[str]:
    """For each schedule and solver, the best scale by each statistic."""
    for setting in dict.fromkeys(result[:3] for result in results):
        own = [result for result in results if result[:3] == setting]
        found = []
        for name in trained.Result._fields[4:]:
            values = [getattr(result, name) for result in own]
            if values[0] is None:
                continue
            choose = min if name in LEAST_IS_BEST else max
            k = choose(range(len(own)), key=lambda k: values[k].value)
            end = " (the end of the scales)" * (k in (0, len(own) - 1))
            found.append(f"{name.replace('_', ' ')} w = {own[k].weight:g}{end}")
        yield f"{setting[0]}, {setting[1]} {setting[2]}, best by {'; '.join(found)}"


def _row(result: Any) -> dict[str, Any]:
    """A result as JSON has it: means as pairs of value and standard error."""
    return {name: value for name, value in result._asdict().items() if value is not None}


def _judge(config: Config, options: Options, model: Any) -> Classifier | None:
    """The classifier that judges the samples; None for none."""
    if not options.classifier:
        return None
    own = config.copy_and_resolve_references()
    sections.put(own, "guidance.classifier.run", options.classifier)
    return guidance.classifier(own, model.sde, model.params)
