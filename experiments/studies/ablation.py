"""Mode ablate: what epsilon scaling and a discriminator's guidance do, each alone and together.

    python -m experiments.main --config=configs/digits.py:edm --mode=ablate \
        --config.sampling.discriminator=runs/digits-discriminator

The arms are EDM, EDM-ES (scaled: Ning et al. 2023), EDM-G++ (guided: Kim et al. 2023) and SEDM-G++
(both), for each solver and number of network evaluations (NFE). The weight w of an arm's guidance
and the scale b of its predicted noise are those of the least Fréchet distance on one set of
samples; what is reported is of other sets, which start from the same noise in all arms. All else is
as config.sampling has it; what it has of w and b does not count. A study that was stopped goes on.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from tqdm import tqdm

from experiments import build
from experiments.commands import evaluate, train
from experiments.commands.evaluate import Distances
from experiments.pipeline import guides, scores
from experiments.runs import pictures, sharding
from experiments.runs import workdir as workdirs
from experiments.runs.parts import Parts
from experiments.studies import benchmark_solvers
from experiments.training import state
from models.config import Config
from sde_lib.batch import Batch
from sde_lib.checks import check_at_least, check_positive

NOT_HERE = ("classifier", "eps_scale_slope", "time_shift_window")  # that no arm has
EDM, SCALED, GUIDED, BOTH = "EDM", "EDM-ES", "EDM-G++", "SEDM-G++"

CLAIMS = ((SCALED, EDM), (GUIDED, EDM), (BOTH, SCALED), (BOTH, GUIDED))
"""Pairs of arms of which the first should be the better."""
Arms = dict[str, list[tuple[float, float]]]
"""The settings (w, b) that each arm chooses from."""
Measure = Callable[[str, int, float, float, int], Distances]
"""measure(solver, nfe, w, b, seed)"""


class Run(NamedTuple):
    """A set of samples; role: "choose" or "report"."""

    solver: str
    nfe: int
    arm: str
    w: float
    b: float
    role: str
    seed: int
    frechet: float
    kernel: float
    kernel_error: float


class Mean(NamedTuple):
    """Of independent values, with its standard error."""

    value: float
    error: float

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> "Mean":
        return cls(float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values))))

    def __str__(self) -> str:
        digits = 1 - math.floor(math.log10(self.error or 1e-6))
        return f"{self.value:.{max(digits, 0)}f} +- {self.error:.{max(digits, 0)}f}"


def run(config: Config, workdir: Path) -> None:
    """Chooses, measures and compares; prints the table and the verdicts, and saves the pictures.

    Raises:
        ValueError: an impossible study, no run, or a discriminator that is not for its model.
        FloatingPointError: a sample is not finite.
    """
    check(config)
    arms, step = arms_of(config), state.saved_steps(workdir)[-1]
    options = config.ablate
    n_sets = sum(len(settings) + options.n_seeds for settings in arms.values())
    n_sets *= len(options.solvers) * len(options.nfe)
    sets = study(config, arms, make_measure(config, workdir, step))
    if BOTH not in arms:
        print(f"without config.sampling.discriminator: {GUIDED} and {BOTH} are left out")
    runs = list(tqdm(sets, total=n_sets, unit="set", disable=None))
    print("\n".join([*table(runs), *open_ends(runs), *verdicts(runs)]))
    print(workdirs.write_table(workdir / "ablation.csv", Run._fields, runs))
    about = pictures.provenance(config=config.to_dict(), seed=config.seed, step=step)
    columns = len(options.nfe)
    print(pictures.save_arms(workdir / "ablation.png", arm_panels(runs), columns, about))
    print(pictures.save_grids(workdir / "ablation_grid.png", grid_panels(runs), columns, about))


def check(config: Config) -> None:
    """Raises ValueError for a study that would fail, if only after hours."""
    options, sde = config.ablate, build.make_sde(config)
    for name in ("solvers", "nfe", "weights", "scales"):
        if not options[name]:
            raise ValueError(f"config.ablate.{name} is empty: give one or more")
    for name in NOT_HERE:
        if config.sampling[name]:
            raise ValueError(f"no arm has config.sampling.{name} = {config.sampling[name]!r}")
    for solver, nfe in itertools.product(options.solvers, options.nfe):
        benchmark_solvers.evaluations(build.make_solver(config, solver, nfe), sde)
    for w in options.weights:
        check_positive(**{"config.ablate.weights": w})
    for b in options.scales:
        check_positive(**{"config.ablate.scales": b})
    check_at_least(evaluate.LEAST, **{"config.ablate.n_samples": options.n_samples})
    check_at_least(2, **{"config.ablate.n_seeds": options.n_seeds})


def arms_of(config: Config) -> Arms:
    """Those that need no discriminator, and with config.sampling.discriminator all."""
    weights, scales = (tuple(map(float, config.ablate[name])) for name in ("weights", "scales"))
    arms = {EDM: [(0.0, 1.0)], SCALED: list(itertools.product((0.0,), scales))}
    if config.sampling.discriminator:
        arms[GUIDED] = list(itertools.product(weights, (1.0,)))
        arms[BOTH] = list(itertools.product(weights, scales))
    return arms


def study(config: Config, arms: Arms, measure: Measure) -> Iterator[Run]:
    """Of each arm the runs to choose by, of config.seed; then those to report, of later seeds."""
    options, chooses = config.ablate, config.seed

    def measured(solver, nfe, arm, w, b, role, seed) -> Run:
        return Run(solver, nfe, arm, w, b, role, seed, *measure(solver, nfe, w, b, seed)[:3])

    for place in itertools.product(options.solvers, options.nfe, arms):
        tried = []
        for w, b in arms[place[-1]]:
            tried.append(measured(*place, w, b, "choose", chooses))
            yield tried[-1]
        best = min(tried, key=lambda run: run.frechet)
        for seed in range(chooses + 1, chooses + 1 + options.n_seeds):
            yield measured(*place, best.w, best.b, "report", seed)


def make_measure(config: Config, workdir: Path, step: int) -> Measure:
    """Of samples of a checkpoint; what is measured is kept in the run's folder."""
    model, params, _ = state.load(config, workdir, step)
    log_ratio, d_params = None, None
    if config.sampling.discriminator:
        log_ratio, d_params = guides.load_discriminator(config, build.make_sde(config), params)
    dataset, fn = train.load_data(config), evaluate.feature_function(config)
    truth = evaluate.reference(config, dataset, fn, workdir)

    settings = config.sampling.to_dict() | {"n_samples": config.ablate.n_samples}
    without = {k: v for k, v in settings.items() if not k.startswith(("dg_", "discriminator"))}
    of_all = [fn.name, fn.version, truth.path.name, params]
    folder = workdir / "ablation" / str(step)
    kept = {
        False: Parts(folder, "unguided", [without, *of_all]),
        True: Parts(folder, "guided", [settings, d_params, *of_all]),
    }
    n = config.ablate.n_samples
    size = sharding.round_up(sharding.make_mesh(config), min(config.sampling.batch_size, n))

    @functools.cache
    def draw(solver: str, nfe: int, guided: bool) -> Callable[..., Batch]:
        return make_draw(config, model, size, solver, nfe, log_ratio if guided else None)

    def measure(solver, nfe, w, b, seed):
        def compute():
            key = jax.random.key(seed)
            batch = partial(draw(solver, nfe, w > 0), params, d_params, w, b, key)
            moments, values = evaluate.sampled_features(config, dataset.levels, fn, batch, size, n)
            found = evaluate.distances(moments, values["features"], truth, seed)
            return {name: np.asarray(value) for name, value in found._asdict().items()}

        found = kept[w > 0](f"{solver}_{nfe}_{w}_{b}_{seed}", compute)
        return Distances(**{name: value.item() for name, value in found.items()})

    return measure


def make_draw(
    config: Config,
    model: nn.Module,
    size: int,
    solver: str,
    nfe: int,
    log_ratio: Callable[[Any, Batch, jax.Array], jax.Array] | None,
) -> Callable[..., Batch]:
    """draw(params, d_params, w, b, key, first): `size` samples, one program for all w and b.

    Without log_ratio(d_params, x, t), the discriminator's log d / (1 - d), w is of no effect.
    """
    sde, sampler = build.make_sde(config), build.make_solver(config, solver, nfe)
    mesh = sharding.make_mesh(config)
    shape = (size, *build.image_shape(config))

    @jax.jit
    def draw(params, d_params, w, b, key, first):
        ratio = log_ratio and partial(log_ratio, sharding.gather(mesh, d_params))
        indices = first + jnp.arange(size)
        score_fn = scores.sampling_score_fn(config, sde, model, mesh, params, indices)
        guided = guides.corrected(config, sde, score_fn, ratio, w, b)
        guided = jax.tree.map(partial(sharding.spread, mesh), guided)
        return sampler(key, sde, guided, shape, first).x

    return draw


def reported(runs: Sequence[Run]) -> dict[tuple[str, int], dict[str, list[Run]]]:
    """By solver and NFE, then by arm: a run of each seed."""
    cells: dict[tuple[str, int], dict[str, list[Run]]] = {}
    for run in runs:
        if run.role == "report":
            cells.setdefault((run.solver, run.nfe), {}).setdefault(run.arm, []).append(run)
    return cells


def difference(arms: dict[str, list[Run]], arm: str, other: str) -> Mean:
    """How much farther from the data an arm is than another, from the same noise."""
    pairs = zip(arms[arm], arms[other], strict=True)
    return Mean.of([run.frechet - theirs.frechet for run, theirs in pairs])


def table(runs: Sequence[Run]) -> Iterator[str]:
    """A header, and for each solver, NFE and arm a line: means, and the figure of every seed."""
    names = ("Fréchet distance", "less EDM's", "kernel distance")
    yield (
        f"{'solver':<8}{'NFE':>4}  {'arm':<9}{'w':>6}{'b':>8}"
        + "".join(f"{name:>24}" for name in names)
        + "  Fréchet distance of each seed"
    )
    for (solver, nfe), arms in reported(runs).items():
        for arm, sets in arms.items():
            frechet, kernel = (
                Mean.of([getattr(run, name) for run in sets]) for name in ("frechet", "kernel")
            )
            less = "-" if arm == EDM else difference(arms, arm, EDM)
            yield (
                f"{solver:<8}{nfe:>4}  {arm:<9}{sets[0].w:>6g}{sets[0].b:>8g}"
                + "".join(f"  {figure!s:>22}" for figure in (frechet, less, kernel))
                + "  "
                + " ".join(f"{run.frechet:.4g}" for run in sets)
            )


def verdicts(runs: Sequence[Run]) -> Iterator[str]:
    """For each solver and NFE the arms in order, and whether what the method claims holds."""
    n_seeds = 0
    for (solver, nfe), arms in reported(runs).items():
        n_seeds = len(arms[EDM])
        means = {arm: np.mean([run.frechet for run in sets]) for arm, sets in arms.items()}
        ordering = " < ".join(
            f"{arm} {means[arm]:.4g}" for arm in sorted(arms, key=lambda arm: means[arm])
        )
        yield f"{solver} {nfe}: {ordering}"
        for arm, other in CLAIMS:
            if arm in arms:
                less = difference(arms, arm, other)
                certain = abs(less.value) > scipy.special.stdtrit(n_seeds - 1, 0.975) * less.error
                verdict = ("better" if less.value < 0 else "worse") if certain else "cannot be told"
                yield f"  {arm} less {other}: {less}, {verdict}"
    yield f"(better or worse: by a paired t test of {n_seeds} seeds at 5%, each pair by itself)"


def open_ends(runs: Sequence[Run]) -> Iterator[str]:
    """Of each arm that chose the last of several values, that one beyond may be better."""
    for run, *_ in (sets for arms in reported(runs).values() for sets in arms.values()):
        tried = [other for other in runs if other[:3] == run[:3] and other.role == "choose"]
        for name in ("w", "b"):
            values = {getattr(other, name) for other in tried}
            for end, beyond in ((max(values), "larger"), (min(values), "smaller")):
                if len(values) > 1 and getattr(run, name) == end:
                    yield f"{run.solver} {run.nfe}: {run.arm} may be better with a {beyond} {name}"


def arm_panels(runs: Sequence[Run]) -> dict[str, dict[str, list[float]]]:
    """By solver and NFE, and by arm: the figure of every seed."""
    return {
        f"{solver}, NFE {nfe}": {arm: [run.frechet for run in sets] for arm, sets in arms.items()}
        for (solver, nfe), arms in reported(runs).items()
    }


def grid_panels(runs: Sequence[Run]) -> dict[str, pictures.Grid]:
    """By solver and NFE: what was tried, over b for each w, and what each arm chose."""
    panels: dict[str, pictures.Grid] = {}
    for run in runs:
        if run.role == "choose":
            curves, chosen = panels.setdefault(
                f"{run.solver}, NFE {run.nfe}", pictures.Grid({}, {})
            )
            point = run.b, run.frechet
            curves.setdefault(f"w = {run.w:g}", []).append(point)
            chosen[run.arm] = min(chosen.get(run.arm, point), point, key=lambda point: point[1])
    return panels
