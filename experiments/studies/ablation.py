"""Mode ablate: the effect of epsilon scaling and discriminator guidance, each alone and together.

    python -m experiments.main --config=configs/digits.py:edm --mode=ablate \
        --config.guidance.discriminator.run=runs/digits-discriminator

The arms are EDM, EDM-ES (epsilon scaling: Ning et al. 2023), EDM-G++ (discriminator guidance: Kim
et al. 2023) and SEDM-G++ (both), for each solver and number of network evaluations (NFE); with
config.ablate.step_slopes or slopes also EDM-ES-k, epsilon scaling with a slope. EDM-TS is the time
shift in the solver (Li et al. 2023), with config.ablate.windows. EDM-IP is the model of another
run, trained with input perturbation (Ning et al. 2023b): config.ablate.input_perturbation. Each arm
chooses its numbers, such as the guidance weight w and the scale b of the predicted noise, by the
least Fréchet distance on one set of n_samples samples. The reported distances are of other sets, of
n_report samples, which start from the same noise in all arms. The other options are those of
config.sampling and config.guidance; their own w and b do not count. A study that was stopped
continues.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.build import alike, related
from experiments.build.fields import sections
from experiments.commands.request import Request
from experiments.evaluation.metrics import LEAST
from experiments.evaluation.reference import Distances
from experiments.pipeline.guidance import EpsilonScaling
from experiments.pipeline.pipeline import Pipeline
from experiments.runs import charts, files, pictures, progress
from experiments.studies import ablation_report as report
from experiments.studies import subject as subjects
from experiments.studies.ablation_report import (
    BOTH,
    CHOSEN,
    EDM,
    GUIDED,
    PERTURBED,
    SCALED,
    SHIFTED,
    SLOPED,
    Run,
)
from experiments.studies.discriminator.sets import Sets, Setting
from experiments.studies.subject import Corrections
from samplers.solver import NoiseLevelSolver
from samplers.time_shift import Shifting
from sde_lib.checks import check_at_least, check_in, check_positive

NOT_HERE = (  # config fields that no arm has, or that config.ablate has instead
    *("guidance.classifier.run", "guidance.time_shift.window"),
    *("guidance.epsilon_scaling.slope", "guidance.epsilon_scaling.step_slope"),
)
Arms = dict[str, list[Setting]]
"""The settings that each arm chooses from."""
Measure = Callable[[str, NoiseLevelSolver, Setting, int, int], Distances]
"""measure(name of the solver, solver, setting, seed, number of samples)"""


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of the study, config.ablate.

    Attributes:
        solvers: names of solvers.
        nfe: network evaluations a sample.
        weights: to choose w from.
        scales: to choose b from.
        n_samples: in a set that is chosen by.
        n_seeds: sets that are reported.
        step_slopes: changes of b with the number of the step, to choose from in an arm of its own.
        slopes: likewise with t; the arm chooses one of all.
        n_report: samples in a set that is reported; None: n_samples.
        n_shown: samples of each arm in a picture.
        windows: widths of the time shift, to choose from in an arm of its own; (): no such arm.
        cutoffs: times up to which nothing is shifted, likewise.
        input_perturbation: the folder of a run that was trained with it; "": no such arm.
    """

    solvers: tuple[str, ...]
    nfe: tuple[int, ...]
    weights: tuple[float, ...]
    scales: tuple[float, ...]
    n_samples: int
    n_seeds: int
    step_slopes: tuple[float, ...] = ()
    slopes: tuple[float, ...] = ()
    n_report: int | None = None
    n_shown: int = 0
    windows: tuple[float, ...] = ()
    cutoffs: tuple[float, ...] = (0.0,)
    input_perturbation: str = ""

    def __post_init__(self):
        values = {name: getattr(self, name) for name in ("solvers", "nfe", "weights", "scales")}
        subjects.check_not_empty("ablate", **values)
        for name in ("weights", "scales"):
            for value in values[name]:
                check_positive(**{f"config.ablate.{name}": value})
        for name in ("step_slopes", "slopes"):
            for value in getattr(self, name):
                check_in("(-inf, inf)", **{f"config.ablate.{name}": value})
        for value in self.windows:
            check_positive(**{"config.ablate.windows": value})
        subjects.check_not_empty("ablate", cutoffs=self.cutoffs)
        for value in self.cutoffs:
            check_positive(or_zero=True, **{"config.ablate.cutoffs": value})
        check_at_least(LEAST, **{"config.ablate.n_samples": self.n_samples})
        check_at_least(LEAST, **{"config.ablate.n_report": self.sizes["report"]})
        check_at_least(2, **{"config.ablate.n_seeds": self.n_seeds})
        check_at_least(0, **{"config.ablate.n_shown": self.n_shown})

    @property
    def sizes(self) -> dict[str, int]:
        """Samples in a set, by its role."""
        report = self.n_samples if self.n_report is None else self.n_report
        return {"choose": self.n_samples, "report": report}

    def arms(self, guided: bool) -> Arms:
        """The arms that need no discriminator; if `guided`, all of them."""
        weights, scales = (tuple(map(float, values)) for values in (self.weights, self.scales))
        arms = {EDM: [Setting(0.0, 1.0)], SCALED: [Setting(0.0, b) for b in scales]}
        slopes = [(float(k), 0.0) for k in self.step_slopes] + [
            (0.0, float(k)) for k in self.slopes
        ]
        if slopes:
            arms[SLOPED] = [
                Setting(0.0, b, *k) for b, k in itertools.product((1.0, *scales), slopes)
            ]
        if self.windows:
            pairs = itertools.product(self.windows, self.cutoffs)
            arms[SHIFTED] = [Setting(0.0, 1.0, window=w, cutoff=c) for w, c in pairs]
        if self.input_perturbation:
            arms[PERTURBED] = [Setting(0.0, 1.0, perturbed=True)]
        if guided:
            arms[GUIDED] = [Setting(w, 1.0) for w in weights]
            arms[BOTH] = list(itertools.starmap(Setting, itertools.product(weights, scales)))
        return arms


def run(request: Request) -> None:
    """Chooses, measures and compares; prints the table and the verdicts, and saves the pictures.

    Raises:
        ValueError: an impossible study, no run, or a discriminator that does not know this model.
        FloatingPointError: a sample is not finite.
    """
    config, folder = request.config, request.folder
    options = Options(**config.ablate.to_dict())
    for field in subjects.set_fields(config, NOT_HERE):
        raise ValueError(f"no arm has config.{field} = {sections.get(config, field)!r}")
    solvers = subjects.solvers(config, options.solvers, options.nfe)
    check_shift(options, [solver for _, solver in solvers])
    model = subjects.unguided(request)
    corrections = subjects.corrections(config, model)
    kept, about_data = folder / "ablation" / str(model.step), subjects.features(request, model)
    sets = Sets(model, corrections, *about_data, kept)
    if options.input_perturbation:
        other = perturbed(request, Path(options.input_perturbation))
        sets.perturbed = Sets(other, Corrections(), *about_data, kept / "perturbed")
    arms = options.arms(guided=corrections.discriminator is not None)
    if BOTH not in arms:
        print(f"without config.guidance.discriminator.run: {GUIDED} and {BOTH} are left out")
    for (_, solver), tried in itertools.product(solvers, arms.values()):
        for setting in tried:  # refuses slopes by which b is not positive
            scaling = EpsilonScaling(setting.b, setting.slope, setting.step_slope)
            Corrections().applied(model.replace(sampler=solver), scaling, ())
    seeds = range(model.seed, model.seed + options.n_seeds + 1)
    n_sets = len(solvers) * sum(len(tried) + options.n_seeds for tried in arms.values())
    each = study(arms, solvers, seeds, sets.measure, options.sizes)
    runs = list(progress.track(each, "ablation", "set", n_sets))
    print("\n".join([*report.table(runs), *report.open_ends(runs), *report.verdicts(runs)]))
    stem = f"{model.step}_seed{model.seed}"
    print(files.write_table(folder / f"ablation_{stem}.csv", Run._fields, runs))
    about = pictures.provenance(config=config.to_dict(), seed=model.seed, step=model.step)
    columns, panels = len(options.nfe), report.arm_panels(runs)
    for path in show(sets, runs, solvers, options.n_shown, folder / f"ablation_{stem}", about):
        print(path)
    print(charts.save_arms(folder / f"ablation_{stem}.png", panels, columns, about))
    grids = report.grid_panels(runs)
    print(charts.save_grids(folder / f"ablation_grid_{stem}.png", grids, columns, about))


def study(
    arms: Arms,
    solvers: list[tuple[str, NoiseLevelSolver]],
    seeds: range,
    measure: Measure,
    sizes: Mapping[str, int],
) -> Iterator[Run]:
    """For each solver and arm the runs to choose by, of the first seed; then those to report."""

    def measured(name, solver, arm, setting, role, seed) -> Run:
        n = sizes[role]
        about = name, solver.nfe, arm, setting.w, setting.b, role, seed
        distances = measure(name, solver, setting, seed, n)[:3]
        shift = setting.window, setting.cutoff
        return Run(*about, *distances, setting.step_slope, setting.slope, n, *shift)

    for (name, solver), arm in itertools.product(solvers, arms):
        tried = []
        for setting in arms[arm]:
            tried.append(measured(name, solver, arm, setting, "choose", seeds[0]))
            yield tried[-1]
        _, best = min(zip(tried, arms[arm], strict=True), key=lambda pair: pair[0].frechet)
        for seed in seeds[1:]:
            yield measured(name, solver, arm, best, "report", seed)


def show(
    sets: Sets,
    runs: Sequence[Run],
    solvers: list[tuple[str, NoiseLevelSolver]],
    n: int,
    stem: Path,
    about: dict[str, str],
) -> Iterator[Path]:
    """Saves n samples of each arm as it was reported, a column for each, from the same noise.

    A picture is of images or of points in the plane, for each solver and NFE.
    """
    cells = report.reported(runs)
    for name, solver in solvers if n and sets.can_be_shown else ():
        columns = {}
        for arm, (run, *_) in cells[name, solver.nfe].items():
            numbers = {name: getattr(run, name) for name in CHOSEN}
            setting = Setting(**numbers, perturbed=arm == PERTURBED)
            columns[arm] = sets.samples(solver, setting, run.seed, n)
        path = stem.with_name(f"{stem.name}_{name}_{solver.nfe}.png")
        drawn = np.stack([*columns.values()], axis=1)
        if sets.scaling.levels and drawn.ndim == 5:
            images = sets.scaling.to_uint8(drawn.reshape(-1, *drawn.shape[2:]))
            yield pictures.save_grid(path, images, len(columns), about, list(columns))
        else:
            paths = sets.scaling.to_grey(drawn).swapaxes(0, 1)
            yield charts.save_point_path(path, paths, about, list(columns))


def check_shift(options: Options, solvers: Sequence[NoiseLevelSolver]) -> None:
    """Raises ValueError for a time shift that a solver of the study does not have."""
    for solver in solvers if options.windows else ():
        if not isinstance(solver, Shifting):
            raise ValueError(
                f"config.ablate.windows is {options.windows}, but {type(solver).__name__} has no "
                "time shift: leave it out, or take 'euler', 'heun', 'edm', 'ddim' or "
                "'euler_ancestral'"
            )


def perturbed(request: Request, folder: Path) -> Pipeline:
    """The model of another run, trained with input perturbation on the same data and noise.

    Raises:
        ValueError: there is no such run, or one without input perturbation.
    """
    config, field = request.config, "config.ablate.input_perturbation"
    theirs = related.config(config, folder, field, "score")
    if not theirs.objective.input_perturbation:
        raise ValueError(
            f"{field} is {str(folder)!r}, which was trained without it: give a run with "
            "config.objective.input_perturbation, such as 0.1"
        )
    alike.check_noise(config, theirs, folder, "model with input perturbation", field)
    theirs.sampling, theirs.seed = config.sampling, config.seed
    return subjects.unguided(dataclasses.replace(request, config=theirs, folder=folder))
