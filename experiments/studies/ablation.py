"""Mode ablate: the effect of epsilon scaling and discriminator guidance, each alone and together.

    python -m experiments.main --config=configs/digits.py:edm --mode=ablate \
        --config.guidance.discriminator.run=runs/digits-discriminator

The arms are EDM, EDM-ES (epsilon scaling: Ning et al. 2023), EDM-G++ (discriminator guidance: Kim
et al. 2023) and SEDM-G++ (both), for each solver and number of network evaluations (NFE); with
config.ablate.step_slopes or slopes also EDM-ES-k, epsilon scaling with a slope. The guidance weight
w and the scale b of the predicted noise are chosen for each arm by the least Fréchet distance on
one set of n_samples samples. The reported distances are of other sets, of n_report samples, which
start from the same noise in all arms. The other options are those of config.sampling and
config.guidance; their own w and b do not count. A study that was stopped continues.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.build import components, data
from experiments.build.fields import sections
from experiments.commands.request import Request
from experiments.evaluation import reference
from experiments.evaluation.features import FeatureFunction
from experiments.evaluation.metrics import LEAST
from experiments.evaluation.reference import Distances, Reference
from experiments.pipeline import analytic
from experiments.pipeline.draw import batch_size
from experiments.pipeline.guidance import EpsilonScaling
from experiments.pipeline.pipeline import Pipeline
from experiments.runs import charts, devices, files, pictures, progress
from experiments.runs.parts import Parts
from experiments.studies import ablation_report as report
from experiments.studies import subject as subjects
from experiments.studies.ablation_report import BOTH, EDM, GUIDED, SCALED, SLOPED, Run
from experiments.studies.subject import Corrections
from samplers.solver import NoiseLevelSolver
from sde_lib.batch import Batch
from sde_lib.checks import check_at_least, check_in, check_positive

NOT_HERE = (  # config fields that no arm has, or that config.ablate has instead
    *("guidance.classifier.run", "guidance.time_shift.window"),
    *("guidance.epsilon_scaling.slope", "guidance.epsilon_scaling.step_slope"),
)


class Setting(NamedTuple):
    """The numbers that an arm chooses.

    w: guidance weight. The predicted noise is divided by b + step_slope i + slope t, where i is the
    number of the sampler's step.
    """

    w: float
    b: float
    step_slope: float = 0.0
    slope: float = 0.0


Arms = dict[str, list[Setting]]
"""The settings that each arm chooses from."""
Measure = Callable[[str, NoiseLevelSolver, Setting, int, int], Distances]
"""measure(name of the solver, solver, setting, seed, number of samples)"""
Draw = Callable[..., Batch]
"""draw(w, b, seed, first index, step_slope, slope), without slopes if they are 0"""


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

    def __post_init__(self):
        values = {name: getattr(self, name) for name in ("solvers", "nfe", "weights", "scales")}
        subjects.check_not_empty("ablate", **values)
        for name in ("weights", "scales"):
            for value in values[name]:
                check_positive(**{f"config.ablate.{name}": value})
        for name in ("step_slopes", "slopes"):
            for value in getattr(self, name):
                check_in("(-inf, inf)", **{f"config.ablate.{name}": value})
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
    model = subjects.unguided(request)
    corrections = subjects.corrections(config, model)
    sets = Sets(
        model, corrections, *features(request, model), folder / "ablation" / str(model.step)
    )
    arms = options.arms(guided=corrections.discriminator is not None)
    if BOTH not in arms:
        print(f"without config.guidance.discriminator.run: {GUIDED} and {BOTH} are left out")
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
        return Run(*about, *distances, setting.step_slope, setting.slope, n)

    for (name, solver), arm in itertools.product(solvers, arms):
        tried = []
        for setting in arms[arm]:
            tried.append(measured(name, solver, arm, setting, "choose", seeds[0]))
            yield tried[-1]
        _, best = min(zip(tried, arms[arm], strict=True), key=lambda pair: pair[0].frechet)
        for seed in seeds[1:]:
            yield measured(name, solver, arm, best, "report", seed)


def show(
    sets: "Sets",
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
    for name, solver in solvers if n else ():
        columns = {}
        for arm, (run, *_) in cells[name, solver.nfe].items():
            setting = Setting(run.w, run.b, run.step_slope, run.slope)
            columns[arm] = sets.samples(solver, setting, run.seed, n)
        path = stem.with_name(f"{stem.name}_{name}_{solver.nfe}.png")
        drawn = np.stack([*columns.values()], axis=1)
        if sets.scaling.levels and drawn.ndim == 5:
            images = sets.scaling.to_uint8(drawn.reshape(-1, *drawn.shape[2:]))
            yield pictures.save_grid(path, images, len(columns), about, list(columns))
        elif drawn.shape[2:] == (2,):
            paths = sets.scaling.to_grey(drawn).swapaxes(0, 1)
            yield charts.save_point_path(path, paths, about, list(columns))


def features(request: Request, model: Pipeline) -> tuple[FeatureFunction, Reference]:
    """The features that samples are compared by, and those of the training data.

    Samples of latents are decoded, and compared with images.
    """
    config = request.config
    found = data.images(config) if model.decoder else model.dataset()
    fn = reference.feature_function(components.feature_shape(config), config.eval.features)
    about = request.folder.parent / "stats", model.mesh, config.eval.batch_size
    return fn, reference.reference(config.data.dataset, found, fn, *about)


class Sets:
    """Sets of samples by their settings, and their distances to the data, which are kept.

    Args:
        model: without guides.
        corrections: the discriminator, if there is one, and the order.
        fn: gives the features of samples.
        truth: those of the data.
        folder: keeps the distances.
    """

    def __init__(
        self,
        model: Pipeline,
        corrections: Corrections,
        fn: FeatureFunction,
        truth: Reference,
        folder: Path,
    ):
        self.model, self.corrections, self.fn, self.truth = model, corrections, fn, truth
        self.folder, self.decoder = folder, model.decoder
        self.scaling = self.decoder.scaling if self.decoder else model.scaling
        self._draws: dict[Any, Draw] = {}
        self._parts: dict[Any, Parts] = {}

    def measure(
        self, name: str, solver: NoiseLevelSolver, setting: Setting, seed: int, n: int
    ) -> Distances:
        """The distances of n samples to the data; name is that of the solver."""
        size = batch_size(self.model, n)
        draw = self._drawer(solver, setting.w > 0, size)

        def compute() -> dict[str, np.ndarray]:
            drawn = self.scaling, self.fn, partial(self._images, draw, setting, seed), size, n
            moments, values = reference.sampled_features(*drawn, self.model.mesh, title="")
            found = reference.distances(moments, values["features"], self.truth, seed)
            return {name: np.asarray(value) for name, value in found._asdict().items()}

        part = self._part(solver, setting.w > 0, n)
        found = part(f"{name}_{solver.nfe}_{_numbers(setting)}_{seed}", compute)
        return Distances(**{name: value.item() for name, value in found.items()})

    def samples(self, solver: NoiseLevelSolver, setting: Setting, seed: int, n: int) -> np.ndarray:
        """The first n samples of a seed, decoded. They are kept."""
        guided, sizes = setting.w > 0, [size for *key, size in self._draws if key[0] == solver]

        def compute() -> dict[str, np.ndarray]:
            size = max(sizes, default=0)  # a program that is compiled already, if it holds them all
            draw = self._drawer(solver, guided, size if size >= n else batch_size(self.model, n))
            rows, first = [], 0
            while sum(map(len, rows)) < n:
                rows.append(self._images(draw, setting, seed, first))
                first += len(rows[-1])
            return {"x": np.concatenate(rows)[:n]}

        part = self._part(solver, guided, n)
        return part(f"samples_{_numbers(setting)}_{seed}", compute)["x"]

    def _images(self, draw: Draw, setting: Setting, seed: int, first: int) -> np.ndarray:
        x = devices.fetch(draw(setting.w, setting.b, seed, first, *setting[2:]))
        return self.decoder.decode(x) if self.decoder else x

    def _drawer(self, solver: NoiseLevelSolver, guided: bool, size: int) -> Draw:
        key = solver, guided, size
        if key not in self._draws:
            own = self.corrections if guided else Corrections()
            self._draws[key] = make_draw(self.model.replace(sampler=solver), own, size)
        return self._draws[key]

    def _part(self, solver: NoiseLevelSolver, guided: bool, n: int) -> Parts:
        key = solver, guided, n
        if key not in self._parts:
            inputs = [self._identity, n, self.fn.name, self.fn.version, self.truth.path.name]
            inputs.append(solver)
            if guided:
                own, solving = self.corrections, self.model.replace(sampler=solver)
                inputs.append(own.applied(solving, EpsilonScaling(), own.params, 1.0).identity())
            self._parts[key] = Parts(self.folder, f"guided_{guided}", inputs)
        return self._parts[key]

    @cached_property
    def _identity(self) -> str:
        return self.model.identity()


def _numbers(setting: Setting) -> str:
    """The numbers of a setting, for the name of a part."""
    return "_".join(map(str, setting if any(setting[2:]) else setting[:2]))


def make_draw(model: Pipeline, corrections: Corrections, size: int) -> Draw:
    """draw(w, b, seed, first, step_slope, slope): `size` samples, one program for all numbers.

    Without a discriminator, w has no effect.
    """
    sde, shape = model.sde, (size, *model.shape)
    sampler = analytic.resolved_sampler(model)

    @jax.jit
    def batch(params, discriminator_params, setting, key, conditions, first):
        score_fn = model.conditional_score(params, conditions)
        scaling = EpsilonScaling(setting.b, setting.slope, setting.step_slope)
        guided = corrections.applied(model, scaling, discriminator_params, setting.w)
        own = [guide.params for guide in guided.guides]
        scores = guided.guided(score_fn, own, first + jnp.arange(size))
        return sampler(key, sde, scores, shape, first).x

    def draw(w: float, b: float, seed: int, first: int, *slopes: float) -> Batch:
        setting: Any = jax.tree.map(jnp.float32, Setting(w, b, *slopes))
        conditions = model.sample_conditions(first + np.arange(size))
        params, key = (model.params, corrections.params), jax.random.key(seed)
        return batch(*params, setting, key, conditions, first)

    return draw
