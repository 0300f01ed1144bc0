"""Mode benchmark_solvers: the error of every sampler against its network evaluations (NFE).

    python -m experiments.main --config=configs/points.py:mixture --mode=benchmark_solvers

What is sampled is the run's trained model or, for the data set "mixture" without a run, that
mixture by its exact score. A sampler that draws no noise on its way is judged by the distance of
its samples to where the probability flow takes the same starts; one that does, by the sliced
Wasserstein-1 distance of its samples to the distribution that they should have.
"""

import csv
import dataclasses
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from tqdm import tqdm

import models
import samplers
from experiments import build, pictures, sharding, state
from experiments import workdir as workdirs
from experiments.datasets.points import MIXTURE
from experiments.quality import Moments
from models.config import Config
from samplers.registry import Sampler
from sde_lib import ScoreFn

BUDGETS = (5, 10, 20, 50, 100)  # evaluations
TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # of adaptive samplers
OPTIONS: dict[str, dict[str, Any]] = {"edm": {"s_churn": 10.0}}  # with 0 it is Heun's method
FINE = samplers.ProbabilityFlow(rtol=1e-5, atol=1e-6, denoise=True)
LOOSER = dataclasses.replace(FINE, rtol=1e-4, atol=1e-5)
EXACT_FACTOR = 10  # times as many exact samples, where they cost nothing
N_FLOORS = 5  # sets of exact samples whose errors are averaged
N_DIRECTIONS = 64
SAME = 1e-4  # RMS between samples that differ by rounding alone


class Problem(NamedTuple):
    """What is sampled.

    about: says it. score_fn(params): its score. exact(n): as many exact samples, [n, D]; or None.
    """

    config: Config
    about: str
    score_fn: Callable[[Any], ScoreFn]
    params: Any
    exact: Callable[[int], np.ndarray] | None


class Drawn(NamedTuple):
    """x: [n, D] samples. nfe: evaluations of each. noisy: whether more than the start is random."""

    x: Float[np.ndarray, "n dims"]
    nfe: int
    noisy: bool


class Result(NamedTuple):
    """A sampler's errors: endpoint, of one without noise, is in units of the data."""

    sampler: str
    nfe: int
    endpoint: float | None
    mean: float
    covariance: float
    sliced_wasserstein: float


@dataclasses.dataclass(frozen=True)
class Truth:
    """A distribution, by a multiple of n samples of it: moments, and quantiles of projections.

    Attributes:
        moments: of the samples.
        directions: [D, N_DIRECTIONS] unit vectors.
        quantiles: [n, N_DIRECTIONS], evenly through the projections on them.
    """

    moments: Moments
    directions: Float[np.ndarray, "dims directions"]
    quantiles: Float[np.ndarray, "n directions"]

    @classmethod
    def of(cls, x: Float[np.ndarray, "multiple dims"], n: int) -> "Truth":
        directions = np.random.RandomState(0).randn(x.shape[1], N_DIRECTIONS)
        directions /= np.linalg.norm(directions, axis=0)
        every = len(x) // n
        return cls(Moments.of(x), directions, np.sort(x @ directions, axis=0)[every // 2 :: every])

    def errors(self, x: Float[np.ndarray, "n dims"]) -> tuple[float, float, float]:
        """Of the mean, in standard deviations; of the covariance, relative; sliced Wasserstein-1.

        The last is the mean, over the directions, of the Wasserstein-1 distance between the
        projections of both (Bonneel et al. 2015).

        Raises:
            ValueError: samples that are not finite.
        """
        moments, theirs = Moments.of(x), self.moments
        mean = np.linalg.norm(moments.mean - theirs.mean) / np.sqrt(np.trace(theirs.covariance))
        covariance = np.linalg.norm(moments.covariance - theirs.covariance)
        distance = np.mean(np.abs(np.sort(x @ self.directions, axis=0) - self.quantiles))
        return float(mean), float(covariance / np.linalg.norm(theirs.covariance)), float(distance)


class Reference(NamedTuple):
    """What errors are measured from, and the least that can be measured.

    endpoints: where the flow takes the starts. endpoint_error: theirs. floors: the truth.errors of
    samples of the very distribution.
    """

    truth: Truth
    endpoints: Float[np.ndarray, "n dims"]
    endpoint_error: float
    floors: tuple[float, float, float]


def run(config: Config, workdir: Path) -> None:
    """Measures every sampler; prints the table and the best, and saves them with a plot."""
    problem = make_problem(config, workdir)
    print(f"samples of {problem.about}")
    reference = make_reference(problem)
    settings = [setting for name in samplers.SAMPLERS for setting in settings_of(name)]
    results = list(measure(problem, reference, tqdm(settings)))
    panels = curves(reference, results)
    print("\n".join([*table(reference, results), *best(panels)]))
    about = pictures.provenance(config=config.to_dict(), seed=config.seed, samples=problem.about)
    print(save_table(workdir / "solvers.csv", results))
    print(pictures.save_work_precision(workdir / "solvers.png", panels, about))


def make_problem(config: Config, workdir: Path) -> Problem:
    """The run's trained model, or the mixture.

    Raises:
        ValueError: there is no run, and the data set is not the mixture.
    """
    sde = build.make_sde(config)
    if config.data.dataset == "mixture" and not (workdir / "checkpoints").exists():
        about = f"eight Gaussians on a circle, by their exact score, under {sde}"
        key = jax.random.key(config.seed + 1)
        exact = lambda n: np.asarray(MIXTURE.sample(key, n), np.float64)  # noqa: E731
        return Problem(config, about, lambda _: MIXTURE.score_fn(sde), {}, exact)
    model, params, step = state.load(config, workdir)
    about = f"the model of {workdir} after {step} steps, under {sde}"
    score_fn = lambda params: models.score_fn(config, sde, model, params)  # noqa: E731
    return Problem(config, about, score_fn, params, None)


def make_reference(problem: Problem) -> Reference:
    """By a fine solution of the probability flow, and exact samples or those of another such."""
    n, seed = problem.config.eval.num_samples, problem.config.seed
    endpoints, looser = draw(problem, FINE, seed).x, draw(problem, LOOSER, seed).x
    if problem.exact is None:
        x, others = draw(problem, FINE, seed + 1).x, endpoints[None]
    else:
        x = problem.exact((EXACT_FACTOR + N_FLOORS) * n)
        x, others = x[: EXACT_FACTOR * n], x[EXACT_FACTOR * n :].reshape(N_FLOORS, n, -1)
    truth = Truth.of(x, n)
    floors = np.mean([truth.errors(other) for other in others], axis=0)
    return Reference(truth, endpoints, rms(looser - endpoints), tuple(floors.tolist()))


def settings_of(name: str) -> Iterator[tuple[str, Sampler]]:
    """The sampler with the steps that each budget allows; an adaptive one with each tolerance."""
    fields = {field.name for field in dataclasses.fields(samplers.SAMPLERS[name])}
    options = OPTIONS.get(name, {}) | ({"denoise": True} if "denoise" in fields else {})
    if "rtol" in fields:
        for tolerance in TOLERANCES:
            tolerances = {field: tolerance for field in ("rtol", "atol") if field in fields}
            yield name, samplers.create(name, **options, **tolerances)
        return
    count = "n_steps" if "n_steps" in fields else "n_levels"
    for budget in BUDGETS:
        for n in range(budget, 0, -1):
            with suppress(ValueError):  # fewer steps than the sampler's order
                sampler: Any = samplers.create(name, **options, **{count: n})
                if sampler.nfe <= budget:
                    yield name, sampler
                    break


def measure(
    problem: Problem, reference: Reference, settings: Iterable[tuple[str, Sampler]]
) -> Iterator[Result]:
    """The errors of each; what the SDE does not admit, or is not finite, is told and left out."""
    for name, sampler in settings:
        try:
            drawn = draw(problem, sampler, problem.config.seed)
            errors = reference.truth.errors(drawn.x)
        except ValueError as error:
            tqdm.write(f"left out: {sampler}: {error}")
            continue
        endpoint = None if drawn.noisy else rms(drawn.x - reference.endpoints)
        yield Result(name, drawn.nfe, endpoint, *errors)


def draw(problem: Problem, sampler: Sampler, seed: int) -> Drawn:
    """config.eval.num_samples samples, from the prior draws of a seed."""
    config, n = problem.config, problem.config.eval.num_samples
    sde, mesh = build.make_sde(config), sharding.make_mesh(config)
    size = sharding.round_up(mesh, min(config.sampling.batch_size, n))
    shape = (size, *build.image_shape(config))

    @jax.jit
    def batch(params, start_key, key, first):
        score_fn = problem.score_fn(sharding.gather(mesh, params))
        start = samplers.Start(sde.prior_sample(start_key, shape, first), sde.t_max)
        return sampler(key, sde, sharding.spread(mesh, score_fn), shape, first, start=start)

    key, other = jax.random.key(seed), jax.random.key(seed + 1)
    results = [batch(problem.params, key, key, first) for first in range(0, n, size)]
    x = np.concatenate([sharding.fetch(result.x).reshape(size, -1) for result in results])
    again = sharding.fetch(batch(problem.params, key, other, 0).x).reshape(size, -1)
    nfe = max(int(result.nfe) for result in results)
    return Drawn(x[:n].astype(np.float64), nfe, noisy=rms(again - x[:size]) > SAME)


def rms(difference: np.ndarray) -> float:
    """Root mean square over samples and coordinates."""
    return float(np.sqrt(np.mean(difference**2)))


def table(reference: Reference, results: Sequence[Result]) -> Iterator[str]:
    """A header, and a line for each result; first, for what none can be better than."""
    yield f"{'sampler':<20}{'NFE':>5}" + "".join(f"{name:>20}" for name in Result._fields[2:])
    exact = ("exact", "-", reference.endpoint_error, *reference.floors)
    for name, nfe, *errors in (exact, *results):
        figures = ("-" if error is None else f"{error:.2e}" for error in errors)
        yield f"{name:<20}{nfe:>5}" + "".join(f"{figure:>20}" for figure in figures)


def curves(reference: Reference, results: Sequence[Result]) -> list[pictures.Curves]:
    """Each sampler's error by which those of its kind compare, over the NFE."""
    deterministic: dict[str, list[tuple[int, float]]] = {}
    stochastic: dict[str, list[tuple[int, float]]] = {}
    for result in sorted(results, key=lambda result: result.nfe):
        if result.endpoint is None:
            point = result.nfe, result.sliced_wasserstein
            stochastic.setdefault(result.sampler, []).append(point)
        else:
            deterministic.setdefault(result.sampler, []).append((result.nfe, result.endpoint))
    return [
        pictures.Curves(
            "deterministic: RMS distance to the flow's endpoint",
            deterministic,
            reference.endpoint_error,
        ),
        pictures.Curves(
            "stochastic: sliced Wasserstein-1 distance", stochastic, reference.floors[-1]
        ),
    ]


def best(panels: Sequence[pictures.Curves]) -> Iterator[str]:
    """For each kind and budget, the sampler with the least error."""
    for panel in panels:
        yield f"best {panel.title} ({panel.floor:.1e}: exact)"
        for budget in BUDGETS:
            within = [
                (error, name, nfe)
                for name, points in panel.curves.items()
                for nfe, error in points
                if nfe <= budget
            ]
            if within:
                error, name, nfe = min(within)
                yield f"  within {budget:>3} evaluations: {name} ({nfe}), {error:.2e}"


def save_table(path: Path, results: Sequence[Result]) -> Path:
    """The results as comma-separated values."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([Result._fields, *results])
    path.parent.mkdir(parents=True, exist_ok=True)
    workdirs.write_text(path, text.getvalue())
    return path
