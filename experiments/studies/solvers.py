"""Mode benchmark_solvers: the error of every sampler against its network evaluations (NFE).

    python -m experiments.main --config=configs/points.py:mixture --mode=benchmark_solvers

What is sampled is the run's trained model or, for the data set "mixture" without a run, that
mixture by its exact score. A sampler that draws no noise on its way is judged by the distance of
its samples to where the probability flow takes the same starts; one that does, by the sliced
Wasserstein-1 distance of its samples to the distribution that they should have. Each has its own
default options.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from tqdm import tqdm

import samplers
from experiments import build
from experiments.data.sources.points import MIXTURE
from experiments.evaluation.quality import Moments
from experiments.pipeline import guides, scores
from experiments.runs import pictures, sharding
from experiments.runs import workdir as workdirs
from experiments.training import state
from models.config import Config
from samplers.registry import Sampler
from sde_lib import SDE, ScoreFn

BUDGETS = (5, 10, 20, 50, 100)  # evaluations
TOLERANCES = (0.3, 0.1, 0.03, 0.01, 1e-3, 1e-4, 1e-5)  # of adaptive samplers, within the budgets
OPTIONS: dict[str, dict[str, Any]] = {  # without churn it is Heun's method
    "edm": {"s_churn": 10.0, "s_tmin": 0.05, "s_tmax": 50.0}
}
FINE = samplers.ProbabilityFlow(rtol=1e-5, atol=1e-6)
LOOSER = samplers.ProbabilityFlow(rtol=1e-4, atol=1e-5)
EXACT_FACTOR = 10  # times as many exact samples, where they cost nothing
N_FLOORS = 5  # sets of exact samples whose errors are averaged
N_DIRECTIONS = 64
SAME = 1e-4  # RMS between samples that differ by rounding alone


class Problem(NamedTuple):
    """What is sampled.

    about: says it. score_fn(params, indices): inside jit, the score of the samples of these
    indices. exact(n): as many exact samples, [n, D]; or None.
    """

    config: Config
    sde: SDE
    about: str
    score_fn: Callable[[Any, jax.Array], ScoreFn]
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

    endpoints: where the flow takes the starts, and as its key denoise=True what the model makes of
    that. endpoint_error: theirs. floors: the truth.errors of samples of the very distribution.
    """

    truth: Truth
    endpoints: dict[bool, Float[np.ndarray, "n dims"]]
    endpoint_error: float
    floors: tuple[float, float, float]


def run(config: Config, workdir: Path) -> None:
    """Measures every sampler; prints the table and the best, and saves them with a plot."""
    guides.refuse(config, "benchmark_solvers")
    problem = make_problem(config, workdir)
    print(f"samples of {problem.about}")
    reference = make_reference(problem)
    settings = [setting for name in samplers.SAMPLERS for setting in settings_of(name, problem.sde)]
    results = list(measure(problem, reference, tqdm(settings)))
    panels = curves(reference, results)
    print("\n".join([*table(reference, results), *best(panels)]))
    about = pictures.provenance(config=config.to_dict(), seed=config.seed, samples=problem.about)
    print(workdirs.write_table(workdir / "solvers.csv", Result._fields, results))
    print(pictures.save_work_precision(workdir / "solvers.png", panels, about))


def make_problem(config: Config, workdir: Path) -> Problem:
    """The run's trained model, or the mixture.

    Raises:
        ValueError: there is no run, and the data set is not the mixture.
    """
    sde, mesh = build.make_sde(config), sharding.make_mesh(config)
    if config.data.dataset == "mixture" and not (workdir / "checkpoints").exists():
        about = f"eight Gaussians on a circle, by their exact score, under {sde}"
        exact_score_fn, key = MIXTURE.score_fn(sde), jax.random.key(config.seed + 1)
        return Problem(
            config,
            sde,
            about,
            score_fn=lambda *_: sharding.spread(mesh, exact_score_fn),
            params={},
            exact=lambda n: np.asarray(MIXTURE.sample(key, n), np.float64),
        )
    model, params, step = state.load(config, workdir)
    about = f"the model of {workdir} after {step} steps, under {sde}"

    def score_fn(params, indices):
        return scores.sampling_score_fn(config, sde, model, mesh, params, indices)

    return Problem(config, sde, about, score_fn, params, exact=None)


def make_reference(problem: Problem) -> Reference:
    """By a fine solution of the probability flow, and exact samples or those of another such."""
    n, seed = problem.config.eval.num_samples, problem.config.seed
    x, looser = draw(problem, FINE, seed).x, draw(problem, LOOSER, seed).x
    denoised = draw(problem, dataclasses.replace(FINE, denoise=True), seed).x
    if problem.exact is None:
        true, others = draw(problem, FINE, seed + 1).x, x[None]
    else:
        true = problem.exact((EXACT_FACTOR + N_FLOORS) * n)
        true, others = np.split(true, [EXACT_FACTOR * n])
        others = others.reshape(N_FLOORS, n, -1)
    truth = Truth.of(true, n)
    mean, covariance, distance = np.mean([truth.errors(other) for other in others], axis=0).tolist()
    endpoints = {False: x, True: denoised}
    return Reference(truth, endpoints, rms(looser - x), (mean, covariance, distance))


def settings_of(name: str, sde: SDE) -> Iterator[tuple[str, Sampler]]:
    """The sampler with the steps that each budget allows; an adaptive one with each tolerance."""
    fields = {field.name for field in dataclasses.fields(samplers.SAMPLERS[name])}
    options = OPTIONS.get(name, {})
    if "rtol" in fields:
        for tolerance in TOLERANCES:
            tolerances = {field: tolerance for field in ("rtol", "atol") if field in fields}
            yield name, samplers.create(name, **options, **tolerances)
        return
    count = "n_steps" if "n_steps" in fields else "n_levels"
    for budget in BUDGETS:
        try:
            create = lambda n: samplers.create(name, **options, **{count: n})  # noqa: E731
            yield name, longest(create, sde, budget)
        except ValueError as error:
            print(f"no {name} of {budget} evaluations: {error}")


def longest(create: Callable[[int], Sampler], sde: SDE, budget: int) -> Sampler:
    """create(n) with the greatest n that stays within the budget.

    Raises:
        ValueError: there is no such n.
    """
    n = budget
    while (nfe := evaluations(create(n), sde)) > budget:
        n = min(n - 1, n * budget // nfe + 1)  # no further than evaluations in proportion to n
    return create(n)


def evaluations(sampler: Sampler, sde: SDE) -> int:
    """What a sampler of fixed steps says of itself when it is traced.

    Raises:
        ValueError: the SDE does not admit it.
    """
    said: list[Any] = []

    def trace(key):
        said.append(sampler(key, sde, lambda x, t: x, (1, 2)).nfe)

    jax.eval_shape(trace, jax.random.key(0))
    return said[0]


def measure(
    problem: Problem, reference: Reference, settings: Iterable[tuple[str, Sampler]]
) -> Iterator[Result]:
    """The errors of each; samples that are not finite are told of and left out."""
    beyond = set()  # those that cost more than the last budget already
    for name, sampler in settings:
        if name in beyond:
            continue
        drawn = draw(problem, sampler, problem.config.seed)
        if drawn.nfe > BUDGETS[-1]:
            beyond.add(name)
        if not np.isfinite(drawn.x).all():
            tqdm.write(f"samples of {sampler} are not finite")
            continue
        endpoints = reference.endpoints[getattr(sampler, "denoise", False)]
        endpoint = None if drawn.noisy else rms(drawn.x - endpoints)
        yield Result(name, drawn.nfe, endpoint, *reference.truth.errors(drawn.x))


def draw(problem: Problem, sampler: Sampler, seed: int) -> Drawn:
    """config.eval.num_samples samples, from the prior draws of a seed."""
    config, n = problem.config, problem.config.eval.num_samples
    size = min(config.sampling.batch_size, n)
    size = sharding.round_up(sharding.make_mesh(config), size)
    shape = (size, *build.image_shape(config))

    @jax.jit
    def batch(params, start_key, key, first):
        score_fn = problem.score_fn(params, first + jnp.arange(size))
        start = samplers.Start(problem.sde.prior_sample(start_key, shape, first), problem.sde.t_max)
        return sampler(key, problem.sde, score_fn, shape, first, start=start)

    key, other = jax.random.key(seed), jax.random.key(seed + 1)
    results = [batch(problem.params, key, key, first) for first in range(0, n, size)]
    x = np.concatenate([sharding.fetch(result.x).reshape(size, -1) for result in results])
    again = sharding.fetch(batch(problem.params, key, other, 0).x).reshape(size, -1)
    nfe = max(int(result.nfe) for result in results)
    return Drawn(x[:n].astype(np.float64), nfe, noisy=not rms(again - x[:size]) <= SAME)


def rms(difference: np.ndarray) -> float:
    """Root mean square over samples and coordinates."""
    return float(np.sqrt(np.mean(difference**2)))


def table(reference: Reference, results: Sequence[Result]) -> Iterator[str]:
    """A header, and a line for each result; first, for what none can be better than."""
    yield f"{'sampler':<24}{'NFE':>5}" + "".join(f"{name:>20}" for name in Result._fields[2:])
    exact = ("exact", "-", reference.endpoint_error, *reference.floors)
    for name, nfe, *errors in (exact, *results):
        figures = ("-" if error is None else f"{error:.2e}" for error in errors)
        yield f"{name:<24}{nfe:>5}" + "".join(f"{figure:>20}" for figure in figures)


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
