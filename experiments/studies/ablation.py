"""Mode ablate: the effect of epsilon scaling and discriminator guidance, each alone and together.

    python -m experiments.main --config=configs/digits.py:edm --mode=ablate \
        --config.guidance.discriminator.run=runs/digits-discriminator

The arms are EDM, EDM-ES (epsilon scaling: Ning et al. 2023), EDM-G++ (discriminator guidance: Kim
et al. 2023) and SEDM-G++ (both), for each solver and number of network evaluations (NFE). The
guidance weight w and the scale b of the predicted noise are chosen for each arm by the least
Fréchet distance on one set of samples. The reported distances are of other sets, which start from
the same noise in all arms. The other options are those of config.sampling and config.guidance;
their own w and b do not count. A study that was stopped continues.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

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
from experiments.studies.ablation_report import BOTH, EDM, GUIDED, SCALED, Run
from experiments.studies.subject import Corrections
from samplers.solver import NoiseLevelSolver
from sde_lib.batch import Batch
from sde_lib.checks import check_at_least, check_positive

NOT_HERE = (  # config fields that no arm has
    *("guidance.classifier.run", "guidance.epsilon_scaling.slope", "guidance.time_shift.window"),
)
Arms = dict[str, list[tuple[float, float]]]
"""The settings (w, b) that each arm chooses from."""
Measure = Callable[[str, NoiseLevelSolver, float, float, int], Distances]
"""measure(name of the solver, solver, w, b, seed)"""
Draw = Callable[[float, float, int, int], Batch]
"""draw(w, b, seed, first index)"""


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of the study, config.ablate.

    Attributes:
        solvers: names of solvers.
        nfe: network evaluations a sample.
        weights: to choose w from.
        scales: to choose b from.
        n_samples: in a set.
        n_seeds: sets that are reported.
    """

    solvers: tuple[str, ...]
    nfe: tuple[int, ...]
    weights: tuple[float, ...]
    scales: tuple[float, ...]
    n_samples: int
    n_seeds: int

    def __post_init__(self):
        values = {name: getattr(self, name) for name in ("solvers", "nfe", "weights", "scales")}
        subjects.check_not_empty("ablate", **values)
        for name in ("weights", "scales"):
            for value in values[name]:
                check_positive(**{f"config.ablate.{name}": value})
        check_at_least(LEAST, **{"config.ablate.n_samples": self.n_samples})
        check_at_least(2, **{"config.ablate.n_seeds": self.n_seeds})

    def arms(self, guided: bool) -> Arms:
        """The arms that need no discriminator; if `guided`, all of them."""
        weights, scales = (tuple(map(float, values)) for values in (self.weights, self.scales))
        arms = {EDM: [(0.0, 1.0)], SCALED: list(itertools.product((0.0,), scales))}
        if guided:
            arms[GUIDED] = list(itertools.product(weights, (1.0,)))
            arms[BOTH] = list(itertools.product(weights, scales))
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
    kept = folder / "ablation" / str(model.step)
    compared = *features(request, model), options.n_samples, kept
    measure = make_measure(model, corrections, *compared)
    arms = options.arms(guided=corrections.discriminator is not None)
    if BOTH not in arms:
        print(f"without config.guidance.discriminator.run: {GUIDED} and {BOTH} are left out")
    seeds = range(model.seed, model.seed + options.n_seeds + 1)
    n_sets = len(solvers) * sum(len(tried) + options.n_seeds for tried in arms.values())
    runs = list(progress.track(study(arms, solvers, seeds, measure), "ablation", "set", n_sets))
    print("\n".join([*report.table(runs), *report.open_ends(runs), *report.verdicts(runs)]))
    stem = f"{model.step}_seed{model.seed}"
    print(files.write_table(folder / f"ablation_{stem}.csv", Run._fields, runs))
    about = pictures.provenance(config=config.to_dict(), seed=model.seed, step=model.step)
    columns, panels = len(options.nfe), report.arm_panels(runs)
    print(charts.save_arms(folder / f"ablation_{stem}.png", panels, columns, about))
    grids = report.grid_panels(runs)
    print(charts.save_grids(folder / f"ablation_grid_{stem}.png", grids, columns, about))


def study(
    arms: Arms, solvers: list[tuple[str, NoiseLevelSolver]], seeds: range, measure: Measure
) -> Iterator[Run]:
    """For each solver and arm the runs to choose by, of the first seed; then those to report."""

    def measured(name, solver, arm, w, b, role, seed) -> Run:
        distances = measure(name, solver, w, b, seed)
        return Run(name, solver.nfe, arm, w, b, role, seed, *distances[:3])

    for (name, solver), arm in itertools.product(solvers, arms):
        tried = []
        for w, b in arms[arm]:
            tried.append(measured(name, solver, arm, w, b, "choose", seeds[0]))
            yield tried[-1]
        best = min(tried, key=lambda run: run.frechet)
        for seed in seeds[1:]:
            yield measured(name, solver, arm, best.w, best.b, "report", seed)


def features(request: Request, model: Pipeline) -> tuple[FeatureFunction, Reference]:
    """The features that samples are compared by, and those of the training data.

    Samples of latents are decoded, and compared with images.
    """
    config = request.config
    found = data.images(config) if model.decoder else model.dataset()
    fn = reference.feature_function(components.feature_shape(config), config.eval.features)
    about = request.folder.parent / "stats", model.mesh, config.eval.batch_size
    return fn, reference.reference(config.data.dataset, found, fn, *about)


def make_measure(
    model: Pipeline,
    corrections: Corrections,
    fn: FeatureFunction,
    truth: Reference,
    n: int,
    folder: Path,
) -> Measure:
    """The distances of n samples to the data; a set that was measured is kept in the folder."""
    identity, decoder = model.identity(), model.decoder
    of_all = [identity, n, fn.name, fn.version, truth.path.name]
    size = batch_size(model, n)
    scaling = decoder.scaling if decoder else model.scaling

    @cache
    def prepared(solver: NoiseLevelSolver, guided: bool) -> tuple[Draw, Parts]:
        own = corrections if guided else Corrections()
        inputs, solving = [*of_all, solver], model.replace(sampler=solver)
        if guided:
            inputs.append(own.applied(solving, EpsilonScaling(), own.params, 1.0).identity())
        return make_draw(solving, own, size), Parts(folder, f"guided_{guided}", inputs)

    def measure(name: str, solver: NoiseLevelSolver, w: float, b: float, seed: int) -> Distances:
        draw, part = prepared(solver, w > 0)

        def images(first: int) -> np.ndarray:
            x = devices.fetch(draw(w, b, seed, first))
            return decoder.decode(x) if decoder else x

        def compute() -> dict[str, np.ndarray]:
            drawn = scaling, fn, images, size, n, model.mesh
            moments, values = reference.sampled_features(*drawn, title="")
            found = reference.distances(moments, values["features"], truth, seed)
            return {name: np.asarray(value) for name, value in found._asdict().items()}

        found = part(f"{name}_{solver.nfe}_{w}_{b}_{seed}", compute)
        return Distances(**{name: value.item() for name, value in found.items()})

    return measure


def make_draw(model: Pipeline, corrections: Corrections, size: int) -> Draw:
    """draw(w, b, seed, first): `size` samples, one program for all w and b.

    Without a discriminator, w has no effect.
    """
    sde, shape = model.sde, (size, *model.shape)
    sampler = analytic.resolved_sampler(model)

    @jax.jit
    def batch(params, discriminator_params, w, b, key, conditions, first):
        score_fn = model.conditional_score(params, conditions)
        guided = corrections.applied(model, EpsilonScaling(b), discriminator_params, w)
        own = [guide.params for guide in guided.guides]
        scores = guided.guided(score_fn, own, first + jnp.arange(size))
        return sampler(key, sde, scores, shape, first).x

    def draw(w: float, b: float, seed: int, first: int) -> Batch:
        conditions = model.sample_conditions(first + np.arange(size))
        params, key = (model.params, corrections.params), jax.random.key(seed)
        return batch(*params, w, b, key, conditions, first)

    return draw
