"""Guidance of points in the plane: classes whose scores are known, so that all errors are exact.

Three classes overlap; each is a mixture of two Gaussians. Guidance of weight w follows the score
s_u + w (s_c - s_u) of each noise level, where s_c is the score of the class. s_u is the score of
all classes (classifier-free and classifier guidance), or of the class learned badly (autoguidance:
Karras et al. 2024, arXiv 2406.02507), here with wider Gaussians. At the data this is the score of
the tilted density p_c(x)^w p_u(x)^(1 - w). At other noise levels it is not the score of that
density with noise, so the samples have another distribution (Bradley & Nakkiran 2024, arXiv
2408.09000). The study measures how far it is.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.evaluation.quality import Moments
from experiments.studies.guidance.options import Options
from experiments.studies.statistics import Mean, Truth
from samplers import guidance
from samplers.solver import NoiseLevelSolver
from sde_lib import SDE, GaussianMixture, ScoreFn

N_CLASSES = 3
RADIUS, STD = 1.5, 0.45  # of the components' circle, of a component
BAD_STD = 1.5 * STD  # of a class that was learned badly
HALF_WIDTH, SIDE = 6.0, 1200  # of the grid on which densities are computed
TRUTH_FACTOR = 10  # times as many exact samples as guided ones
EXACT = "exact"
EXACT_SEED = 10_000
Points = Float[np.ndarray, "n 2"]


class Guided(NamedTuple):
    """One kind of guidance.

    Attributes:
        score: (sde, w) -> the guided score.
        other: the distribution with the score s_u.
    """

    score: Callable[[SDE, Any], ScoreFn]
    other: GaussianMixture


class Result(NamedTuple):
    """Samples of one kind and weight; means over seeds, with standard errors.

    Attributes:
        guidance: the kind, or "exact" for exact samples of the tilted density.
        solver: name of the solver; "" for exact samples.
        weight: w.
        to_class: sliced Wasserstein-1 distance to the class itself.
        to_tilted: the same to the tilted density.
        share: the mean probability of the class given a sample.
        spread: root mean square distance from the mean, over that of the class.
    """

    guidance: str
    solver: str
    weight: float
    to_class: Mean
    to_tilted: Mean
    share: Mean
    spread: Mean


def mixture(labels: Sequence[int], std: float = STD) -> GaussianMixture:
    """The components of these classes, which take turns on the circle."""
    turns = [k for k in range(2 * N_CLASSES) if k % N_CLASSES in labels]
    angles = [math.pi * k / N_CLASSES for k in turns]
    means = tuple((RADIUS * math.cos(angle), RADIUS * math.sin(angle)) for angle in angles)
    return GaussianMixture((1 / len(means),) * len(means), means, std)


ALL, CLASS, BAD = mixture(range(N_CLASSES)), mixture([0]), mixture([0], BAD_STD)


def classifier(sde: SDE, weight: Any) -> ScoreFn:
    """Classifier guidance by the exact classifier of noisy points."""
    of_class, of_all = CLASS.noisy_log_prob(sde), ALL.noisy_log_prob(sde)

    def log_prob(x: Array, t: Array) -> Array:
        return of_class(x, t) - of_all(x, t) - math.log(N_CLASSES)

    return guidance.gradient(ALL.score_fn(sde), log_prob, weight)


def against(other: GaussianMixture) -> Guided:
    """Classifier-free guidance with the score of `other` in place of the unconditional one."""

    def score(sde: SDE, weight: Any) -> ScoreFn:
        of_class, of_other = CLASS.score_fn(sde), other.score_fn(sde)

        def conditional(x: Array, t: Array, label: Array) -> Array:
            return jnp.where(label[:, None] == 0, of_class(x, t), of_other(x, t))

        def guided(x: Array, t: Array) -> Array:
            labels = jnp.zeros(len(x), jnp.int32)
            return guidance.classifier_free(conditional, labels, weight)(x, t)

        return guided

    return Guided(score, other)


KINDS = {
    "classifier": Guided(classifier, ALL),
    "classifier_free": against(ALL),
    "autoguidance": against(BAD),
}


def tilted(weight: float, other: GaussianMixture) -> Float[np.ndarray, "side side"]:
    """Probabilities of the cells of the grid under p_c(x)^w p_u(x)^(1 - w); rows are y."""
    cells = _centres()
    x = jnp.asarray(np.stack(np.meshgrid(cells, cells), axis=-1).reshape(-1, 2), jnp.float32)
    log_prob = weight * CLASS.log_prob(x) + (1 - weight) * other.log_prob(x)
    density = np.exp(np.asarray(log_prob - log_prob.max(), np.float64))
    return (density / density.sum()).reshape(SIDE, SIDE)


def measure(
    sde: SDE,
    solvers: Sequence[tuple[str, NoiseLevelSolver]],
    options: Options,
    seed: int,
    track: Callable[[Any], Any] = iter,
) -> Iterator[tuple[Result, Points]]:
    """For each kind and weight the exact samples, then those of each solver; with one set each."""
    n, seeds = options.n_samples, range(seed, seed + options.n_seeds)
    truth = Truth.of(_of_grid(tilted(1.0, ALL), TRUTH_FACTOR * n, seed), n)
    width = math.sqrt(np.trace(truth.moments.covariance))
    programs = {
        (kind, name): jax.jit(partial(draw, sde, solver, KINDS[kind], n))
        for kind, (name, solver) in itertools.product(KINDS, solvers)
    }
    for kind, weight in track(list(itertools.product(KINDS, options.weights))):
        density = tilted(weight, KINDS[kind].other)
        target = Truth.of(_of_grid(density, TRUTH_FACTOR * n, seed), n)
        sets = {(f"{EXACT}, {kind}", ""): [_of_grid(density, n, EXACT_SEED + k) for k in seeds]}
        for name, _ in solvers:
            drawn = [programs[kind, name](jax.random.key(k), weight) for k in seeds]
            sets[kind, name] = [np.asarray(x, np.float64) for x in drawn]
        for (label, name), drawn in sets.items():
            yield _result(label, name, weight, drawn, truth, target, width), drawn[0]


def draw(
    sde: SDE, solver: NoiseLevelSolver, kind: Guided, n: int, key: Array, weight: Any
) -> Array:
    """n guided samples."""
    return solver(key, sde, kind.score(sde, weight), (n, 2)).x


def _result(
    label: str,
    solver: str,
    weight: float,
    sets: Sequence[Points],
    truth: Truth,
    target: Truth,
    width: float,
) -> Result:
    """The statistics of sets of samples."""
    moments = [Moments.of(x) for x in sets]
    return Result(
        label,
        solver,
        weight,
        Mean.of([truth.errors(x)[2] for x in sets]),
        Mean.of([target.errors(x)[2] for x in sets]),
        Mean.of([float(np.mean(share_of_class(x))) for x in sets]),
        Mean.of([math.sqrt(np.trace(each.covariance)) / width for each in moments]),
    )


def share_of_class(x: Points) -> Float[np.ndarray, " n"]:
    """The probability of the class given each point."""
    points = jnp.asarray(x, jnp.float32)
    return np.exp(np.asarray(CLASS.log_prob(points) - ALL.log_prob(points))) / N_CLASSES


def _of_grid(density: Float[np.ndarray, "side side"], n: int, seed: int) -> Points:
    """n samples by the probabilities of the cells, uniform within a cell."""
    random, cells = np.random.RandomState(seed), _centres()
    row, column = np.divmod(random.choice(density.size, n, p=density.ravel()), SIDE)
    step = 2 * HALF_WIDTH / SIDE
    return np.stack([cells[column], cells[row]], axis=1) + step * (random.rand(n, 2) - 0.5)


def _centres() -> Float[np.ndarray, " side"]:
    """Centres of the grid's cells along a side."""
    return HALF_WIDTH * ((2 * np.arange(SIDE) + 1) / SIDE - 1)
