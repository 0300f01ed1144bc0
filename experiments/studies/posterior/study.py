"""Mode study, config.study.name = "posterior": posterior samplers against what is known.

    python -m experiments.main --config=configs/points.py:mixture --mode=study \\
        --config.study.name=posterior

Without a run, x_0 is a mixture of Gaussians with its exact score, in each of
config.study.posterior.dims, and y a linear measurement; --config may be left out. The posterior is
known, so the table has the errors of the samples' mean, covariance and weights, and the sliced
Wasserstein distance.

With the run of an image model, test images are measured and sampled. The table has the error of
the mean of the samples, their standard deviation, and how often the truth lies within intervals of
theirs.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from experiments.build.components import diffusion
from experiments.commands.request import Request
from experiments.runs import charts, files, pictures, progress
from experiments.runs import folder as folders
from experiments.studies import subject as subjects
from experiments.studies.posterior import images, mixtures
from experiments.studies.posterior.methods import Options
from experiments.studies.posterior.mixtures import EXACT, Result
from experiments.studies.statistics import save_table
from models.config import Config


def run(request: Request) -> None:
    """Measures all methods; prints the table, and saves it with its rows as JSON and pictures.

    Raises:
        ValueError: an impossible option, or a run of a model that has no images.
    """
    if folders.has_run(request.folder):
        on_images(request)
    else:
        on_mixtures(request.config, request.folder)


def on_mixtures(config: Config, folder: Path) -> None:
    """The study on mixtures with known posteriors."""
    defaults = subjects.with_defaults(
        config.study.posterior, n_measurements=4, n_samples=500, noise_std=0.3
    )
    options = Options(**defaults)
    solvers = subjects.solvers(config, options.solvers, options.nfe)
    sde, results = diffusion.sde(config), list[Result]()
    path = subjects.table_path(folder, "posterior", options, config.seed)
    for problem in mixtures.problems(options, config.seed):
        about = mixtures.settings(options, solvers, problem)
        title = f"{problem.name}, {problem.dims} dimensions"
        track = partial(progress.track, title=title, unit="method")
        for result in mixtures.measure(sde, problem, about, options.n_samples, config.seed, track):
            results.append(result)
            files.write_lines(path, [each._asdict() for each in results])
    save_table(path, results)
    about = pictures.provenance(config=config.to_dict(), seed=config.seed, sde=str(sde))
    for k, name in enumerate(dict.fromkeys(result.measurement for result in results)):
        made = panels([result for result in results if result.measurement == name])
        print(charts.save_work_precision(path.with_name(f"{path.stem}_{k}.png"), made, about))


def on_images(request: Request) -> None:
    """The study on the test images of a run."""
    config = request.config
    defaults = subjects.with_defaults(
        config.study.posterior, n_measurements=16, n_samples=19, noise_std=0.1
    )
    options = Options(**defaults)
    solvers = subjects.solvers(config, options.solvers, options.nfe)
    model = subjects.unguided(request)
    images.check(model, options)
    path = subjects.table_path(request.folder, "posterior", options, config.seed, model.step)
    results: list[images.Result] = []
    shown: dict[str, dict[str, images.Drawn]] = {}
    about = images.settings(model, options, solvers)
    for setting in progress.track(about, "posterior samplers", "method"):
        drawn, result = images.measure(model, options, setting)
        results.append(result)
        shown.setdefault(setting.measurement, {})[setting.label] = drawn
        files.write_lines(path, [each._asdict() for each in results])
    save_table(path, results)
    details = pictures.provenance(config=config.to_dict(), seed=config.seed)
    for k, drawn in enumerate(shown.values()):
        print(images.save_pictures(path.with_name(f"{path.stem}_{k}.png"), model, drawn, details))


def panels(results: Sequence[Result]) -> list[charts.Curves]:
    """For each dimension the distance over the evaluations, of each method."""
    made, solvers = [], {result.solver for result in results if result.solver}
    for dims in dict.fromkeys(result.dims for result in results):
        curves: dict[str, list[tuple[float, float]]] = {}
        floor = 0.0
        for result in results:
            distance = result.sliced_wasserstein
            if result.dims == dims and distance is not None:
                if result.method == EXACT:
                    floor = distance
                else:
                    name = result.method + f", {result.solver}" * (len(solvers) > 1)
                    curves.setdefault(name, []).append((result.evaluations, distance))
        title = f"sliced Wasserstein-1 distance in {dims} dimensions"
        made.append(charts.Curves(title, curves, floor))
    return made
