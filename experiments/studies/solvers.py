"""Mode benchmark_solvers: the error of every sampler against its network evaluations (NFE).

    python -m experiments.main --config=configs/points.py:mixture --mode=benchmark_solvers

It samples the run's trained model or, for the data set "mixture" without a run, that mixture by its
exact score. A sampler without noise of its own is judged by the distance of its samples to the
points that the probability flow takes the same starts to. A sampler with noise is judged by the
sliced Wasserstein-1 distance between its samples and the model's distribution. Samplers have their
default options.

Of a run the table also has each sampler's seconds, its Fréchet distance and its recall: quality,
speed and diversity, with a plot of the latter two over the seconds. Images of one start, by all
samplers, and the distances between samplers show which of them agree.

config.benchmark_solvers chooses samplers and numbers of evaluations.
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from tqdm import tqdm

import samplers
from experiments.commands.request import Request
from experiments.evaluation import quality
from experiments.evaluation.reference import PAIRED, features_of
from experiments.pipeline.draw import batch_size
from experiments.pipeline.pipeline import Pipeline
from experiments.runs import charts, devices, files, pictures, progress
from experiments.studies import subject as subjects
from experiments.studies.statistics import Truth, rms
from experiments.studies.subject import Subject, evaluations
from models.config import Config
from samplers.registry import Sampler
from sde_lib import SDE
from sde_lib.checks import check_at_least, check_name

LOG = logging.getLogger(__name__)
TOLERANCES = (0.3, 0.1, 0.03, 0.01, 1e-3, 1e-4, 1e-5)  # of adaptive samplers, within the budgets
OPTIONS: dict[str, dict[str, Any]] = {  # without churn it is Heun's method
    "edm": {"s_churn": 10.0, "s_tmin": 0.05, "s_tmax": 50.0}
}
FINE = samplers.ProbabilityFlow(rtol=1e-5, atol=1e-6)
LOOSER = samplers.ProbabilityFlow(rtol=1e-4, atol=1e-5)
EXACT_FACTOR = 10  # times as many exact samples, where they cost nothing
N_FLOORS = 5  # sets of exact samples whose errors are averaged
N_KEPT = 64  # samples of each sampler by which they are compared with each other
LETTER = 7  # pixels of a title's letter
SAME = 1e-4  # RMS between samples that differ by rounding alone


class Drawn(NamedTuple):
    """Samples of one sampler.

    Attributes:
        x: [n, D].
        nfe: network evaluations of each.
        noisy: more than the start is random.
        seconds: of the compiled program, a sample.
    """

    x: Float[np.ndarray, "n dims"]
    nfe: int
    noisy: bool
    seconds: float = 0.0


Quality = Callable[[Float[np.ndarray, "n dims"]], tuple[float, float]]
"""Fréchet distance and recall of samples."""


class Result(NamedTuple):
    """A sampler's errors. The endpoint's is in units of the data; None for samplers with noise.

    Fréchet distance and recall compare with the training data of a run; without a run, None.
    """

    sampler: str
    nfe: int
    endpoint: float | None
    mean: float
    covariance: float
    sliced_wasserstein: float
    seconds: float | None = None
    frechet: float | None = None
    recall: float | None = None


class Reference(NamedTuple):
    """The points and the distribution that errors are measured from, and the least errors.

    Attributes:
        truth: the distribution.
        endpoints: the points that the flow takes the starts to; at the key True, denoised.
        endpoint_error: their error.
        floors: the errors of exact samples (Truth.errors).
    """

    truth: Truth
    endpoints: dict[bool, Float[np.ndarray, "n dims"]]
    endpoint_error: float
    floors: tuple[float, float, float]


def run(request: Request) -> None:
    """Measures every sampler; prints the table and the best, and saves them with a plot.

    The table is saved anew with each sampler. One that fails is named, and the others go on.

    Raises:
        ValueError: there is no run and the data set is not the mixture; the config guides samples;
            or, at the end, samplers that have failed.
    """
    config, folder = request.config, request.folder
    names, budgets = chosen(config)
    check_at_least(2, **{"config.eval.num_samples": config.eval.num_samples})
    for field in subjects.set_fields(config, subjects.guide_fields()):
        raise ValueError(f"config.{field} guides samples: leave it out of mode benchmark_solvers")
    subject, n = subjects.subject(request), config.eval.num_samples
    print(f"samples of {subject.about}")
    reference = make_reference(subject, n)
    sde = subject.model.sde
    settings = [setting for name in names for setting in settings_of(name, sde, budgets)]
    tracked = progress.track(settings, "samplers", "sampler")
    stem = f"solvers_{subject.model.step}_seed{config.seed}"
    path, results, failed = folder / f"{stem}.csv", [], {}
    compare = None if subject.exact else quality_of(request, subject.model)
    drawn: dict[tuple[str, int], Drawn] = {}
    for result, samples in measure(
        subject.model, reference, tracked, n, budgets[-1], failed, compare
    ):
        results.append(result)
        drawn[result.sampler, result.nfe] = samples._replace(x=samples.x[:N_KEPT])
        files.write_table(path, Result._fields, results)
        files.write_lines(path.with_suffix(".jsonl"), [each._asdict() for each in results])
    panels, last = curves(reference, results), final(drawn)
    matrix = distances(last)
    print("\n".join([*table(reference, results), *best(panels, budgets), *agreement(last, matrix)]))
    about = pictures.provenance(config=config.to_dict(), seed=config.seed, samples=subject.about)
    print(path)
    print(path.with_suffix(".jsonl"))
    print(charts.save_work_precision(folder / f"{stem}.png", panels, about))
    if compare:
        print(charts.save_work_precision(folder / f"{stem}_seconds.png", trilemma(results), about))
    titles = [f"{name} ({each.nfe})" for name, each in last.items()]
    print(charts.save_distances(folder / f"{stem}_distances.png", titles, matrix, about))
    if len(subject.model.image_shape) == 3:
        model, rows = subject.model, len(budgets)
        print(save_images(folder / f"{stem}_images.png", model, drawn, rows, about))
    if failed:
        names = "; ".join(f"{name}: {error}" for name, error in failed.items())
        raise ValueError(f"{len(failed)} samplers have failed, all others are in {path}: {names}")


def chosen(config: Config) -> tuple[list[str], list[int]]:
    """The names of the samplers and, in their order, the numbers of evaluations.

    Raises:
        ValueError: an unknown name, or an impossible number.
    """
    options = config.benchmark_solvers
    known = [name for name in samplers.SAMPLERS if name not in samplers.FEW_STEPS]
    for name in options.solvers:
        check_name("config.benchmark_solvers.solvers", name, known)
    subjects.check_not_empty("benchmark_solvers", nfe=options.nfe)
    check_at_least(1, **{"config.benchmark_solvers.nfe": min(options.nfe)})
    return list(options.solvers) or known, sorted(options.nfe)


def make_reference(subject: Subject, n: int) -> Reference:
    """The reference for n samples: a fine solution of the probability flow, and a distribution.

    The distribution is that of exact samples or, without them, of another fine solution.
    """
    model, seed = subject.model, subject.model.seed
    x, looser = draw(model, FINE, n, seed).x, draw(model, LOOSER, n, seed).x
    denoised = draw(model, dataclasses.replace(FINE, denoise=True), n, seed).x
    if subject.exact is None:
        true, others = draw(model, FINE, n, seed + 1).x, x[None]
    else:
        true = subject.exact((EXACT_FACTOR + N_FLOORS) * n)
        true, others = np.split(true, [EXACT_FACTOR * n])
        others = others.reshape(N_FLOORS, n, -1)
    truth = Truth.of(true, n)
    mean, covariance, distance = np.mean([truth.errors(other) for other in others], axis=0).tolist()
    endpoints = {False: x, True: denoised}
    return Reference(truth, endpoints, rms(looser - x), (mean, covariance, distance))


def settings_of(name: str, sde: SDE, budgets: Sequence[int]) -> Iterator[tuple[str, Sampler]]:
    """The sampler with the steps that each budget allows; an adaptive one with each tolerance."""
    fields = {field.name for field in dataclasses.fields(samplers.SAMPLERS[name])}
    options = OPTIONS.get(name, {})
    if "rtol" in fields:
        for tolerance in TOLERANCES:
            tolerances = {field: tolerance for field in ("rtol", "atol") if field in fields}
            yield name, samplers.create(name, **options, **tolerances)
        return
    count = "n_steps" if "n_steps" in fields else "n_levels"
    for budget in budgets:
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


def measure(
    model: Pipeline,
    reference: Reference,
    settings: Iterable[tuple[str, Sampler]],
    n: int,
    most: int,
    failed: dict[str, str],
    compare: Quality | None = None,
) -> Iterator[tuple[Result, Drawn]]:
    """The errors of n samples of each sampler; those that are not finite are named and skipped.

    A sampler that fails is skipped from then on, and its error is put into `failed`. So is one
    after its first result of more than `most` evaluations.
    """
    beyond = set()
    for name, sampler in settings:
        if name in beyond or name in failed:
            continue
        try:
            drawn = draw(model, sampler, n, model.seed)
        except Exception as error:  # whatever it is, the others can be measured
            failed[name] = f"{type(error).__name__}: {error}".partition("\n")[0]
            LOG.warning("%s has failed: %s", name, failed[name])
            continue
        if drawn.nfe > most:
            beyond.add(name)
        if not np.isfinite(drawn.x).all():
            tqdm.write(f"samples of {sampler} are not finite")
            continue
        endpoints = reference.endpoints[getattr(sampler, "denoise", False)]
        endpoint = None if drawn.noisy else rms(drawn.x - endpoints)
        errors = reference.truth.errors(drawn.x)
        found = compare(drawn.x) if compare else ()
        yield Result(name, drawn.nfe, endpoint, *errors, drawn.seconds, *found), drawn


def draw(model: Pipeline, sampler: Sampler, n: int, seed: int) -> Drawn:
    """n samples, from the prior draws of a seed."""
    sde = model.sde
    size = batch_size(model, n)
    shape = sde.state_shape((size, *model.shape))

    @jax.jit
    def batch(params, conditions, start_key, key, first):
        score_fn = model.conditional_score(params, conditions)
        start = samplers.Start(sde.prior_sample(start_key, shape, first), sde.t_max)
        states = sampler(key, sde, score_fn, shape, first, start=start)
        return sde.data_of(states.x), states.nfe

    def rows(first: int, key: jax.Array) -> tuple[np.ndarray, int]:
        conditions = model.sample_conditions(first + np.arange(size))
        x, nfe = batch(model.params, conditions, start_key, key, first)
        return devices.fetch(x).reshape(size, -1), int(nfe)

    start_key, other = jax.random.key(seed), jax.random.key(seed + 1)
    results = [rows(first, start_key) for first in range(0, n, size)]
    before = time.perf_counter()
    x, (again, _) = np.concatenate([x for x, _ in results]), rows(0, other)
    seconds = (time.perf_counter() - before) / size
    nfe = max(nfe for _, nfe in results)
    return Drawn(x[:n].astype(np.float64), nfe, not rms(again - x[:size]) <= SAME, seconds)


def quality_of(request: Request, model: Pipeline) -> Quality:
    """The function of samples [n, D] that gives Fréchet distance and recall to the data."""
    fn, truth = subjects.features(request, model)
    scaling = model.image_scaling

    def compare(x: np.ndarray) -> tuple[float, float]:
        grey = scaling.to_grey(model.to_pixels(x.reshape(-1, *model.shape).astype(np.float32)))
        rows = features_of(grey, scaling.levels, fn, model.mesh)
        distance = quality.frechet_distance(quality.Moments.of(rows), truth.moments)
        return distance, quality.precision_recall(truth.features, rows[:PAIRED]).recall

    return compare


def final(drawn: Mapping[tuple[str, int], Drawn]) -> dict[str, Drawn]:
    """Each sampler's samples with most evaluations; samplers with noise of their own come last."""
    last = {name: each for (name, _), each in sorted(drawn.items(), key=lambda item: item[0][1])}
    return dict(sorted(last.items(), key=lambda item: item[1].noisy))


def distances(last: Mapping[str, Drawn]) -> Float[np.ndarray, "samplers samplers"]:
    """RMS distances between the samplers' samples from the same starts."""
    x = [each.x for each in last.values()]
    return np.array([[rms(own - other) for other in x] for own in x])


def agreement(last: Mapping[str, Drawn], matrix: np.ndarray) -> Iterator[str]:
    """For each sampler without noise of its own, the nearest one, and their distance."""
    flows = [name for name, each in last.items() if not each.noisy]
    if len(flows) < 2:
        return
    yield "samples from the same starts: the nearest sampler, RMS distance"
    for name, row in zip(flows, matrix, strict=False):
        gaps = zip(row, flows, strict=False)
        distance, nearest = min(gap for gap in gaps if gap[1] != name)
        yield f"  {name} ({last[name].nfe}): {nearest}, {distance:.2e}"


def save_images(
    path: Path,
    model: Pipeline,
    drawn: Mapping[tuple[str, int], Drawn],
    rows: int,
    about: dict[str, str],
) -> Path:
    """Saves one sample by each sampler: a column of `rows` each, the evaluations grow downwards.

    Samples with the most evaluations are in the last row. Rows of adaptive samplers, whose numbers
    of evaluations are others, are not those of the budgets.
    """
    names = list(dict.fromkeys(name for name, _ in drawn))
    columns = []
    for name in names:
        own = [each for (other, _), each in drawn.items() if other == name][-rows:]
        x = np.stack([each.x[0] for each in own]).reshape(-1, *model.shape)
        images = model.to_images(x.astype(np.float32))
        blank = np.zeros((rows - len(images), *images.shape[1:]), np.uint8)
        columns.append(np.concatenate([blank, images]))
    grid = np.stack(columns, axis=1)
    larger = -(-LETTER * max(map(len, names)) // grid.shape[3])  # the names fit above the columns
    images = grid.reshape(-1, *grid.shape[2:]).repeat(larger, axis=1).repeat(larger, axis=2)
    return pictures.save_grid(path, images, len(names), about, names)


def table(reference: Reference, results: Sequence[Result]) -> Iterator[str]:
    """A header, a line for the least errors that can be measured, and a line for each result."""
    yield f"{'sampler':<24}{'NFE':>5}" + "".join(f"{name:>20}" for name in Result._fields[2:])
    exact = ("exact", "-", reference.endpoint_error, *reference.floors, None, None, None)
    for name, nfe, *errors in (exact, *results):
        figures = ("-" if error is None else f"{error:.2e}" for error in errors)
        yield f"{name:<24}{nfe:>5}" + "".join(f"{figure:>20}" for figure in figures)


def curves(reference: Reference, results: Sequence[Result]) -> list[charts.Curves]:
    """Each sampler's error over the NFE, in a panel of the samplers that are judged alike."""
    deterministic: dict[str, list[tuple[float, float]]] = {}
    stochastic: dict[str, list[tuple[float, float]]] = {}
    for result in sorted(results, key=lambda result: result.nfe):
        if result.endpoint is None:
            point = result.nfe, result.sliced_wasserstein
            stochastic.setdefault(result.sampler, []).append(point)
        else:
            deterministic.setdefault(result.sampler, []).append((result.nfe, result.endpoint))
    flow, sliced = (
        "deterministic: RMS distance to the flow's endpoint",
        "stochastic: sliced Wasserstein-1 distance",
    )
    return [
        charts.Curves(flow, deterministic, reference.endpoint_error),
        charts.Curves(sliced, stochastic, reference.floors[-1]),
    ]


def trilemma(results: Sequence[Result]) -> list[charts.Curves]:
    """Each sampler's Fréchet distance, and its recall, over the seconds of a sample."""

    def panel(title: str, field: str, log: bool) -> charts.Curves:
        points: dict[str, list[tuple[float, float]]] = {}
        for result in sorted(results, key=lambda result: result.nfe):
            if result.seconds is not None:
                point = result.seconds, getattr(result, field)
                points.setdefault(result.sampler, []).append(point)
        return charts.Curves(title, points, cost="seconds a sample", log=log)

    return [panel("Fréchet distance", "frechet", True), panel("recall", "recall", False)]


def best(panels: Sequence[charts.Curves], budgets: Sequence[int]) -> Iterator[str]:
    """For each panel and budget, the sampler with the least error."""
    for panel in panels:
        yield f"best {panel.title} ({panel.floor:.1e}: exact)"
        for budget in budgets:
            within = [
                (error, name, nfe)
                for name, points in panel.curves.items()
                for nfe, error in points
                if nfe <= budget
            ]
            if within:
                error, name, nfe = min(within)
                yield f"  within {budget:>3} evaluations: {name} ({nfe}), {error:.2e}"
