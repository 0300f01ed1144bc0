"""Mixtures of Gaussians with linear measurements: the posterior is known, and errors are exact."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.studies.posterior.methods import Options, noise_for, variants
from experiments.studies.statistics import Truth
from samplers.posterior import PosteriorMethod
from samplers.solver import NoiseLevelSolver
from sde_lib import SDE, GaussianMixture
from sde_lib.mixture import Posterior

WEIGHTS = (0.1, 0.2, 0.3, 0.4)
DISTANCE = 2.0  # of the components' means from the origin, in any dimension
STD = 0.5  # of a component
EXACT_FACTOR = 10  # times as many exact samples as of a method
EXACT = "exact"

Solvers = list[tuple[str, NoiseLevelSolver]]


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A mixture, and measurements y = matrix x_0 + noise of it.

    Attributes:
        name: of the operator.
        mixture: the distribution of x_0.
        matrix: the operator.
        y: the measurements.
        noise_std: standard deviation of their noise.
    """

    name: str
    mixture: GaussianMixture
    matrix: Float[np.ndarray, "rows dims"]
    y: Float[np.ndarray, "measurements rows"]
    noise_std: float

    @property
    def dims(self) -> int:
        """Dimensions of x_0."""
        return self.matrix.shape[1]

    @property
    def data_std(self) -> float:
        """Root mean square deviation of a coordinate of x_0."""
        return float(np.sqrt(np.trace(self.mixture.covariance) / self.dims))

    def operator(self, x: Array) -> Array:
        """The measurement without noise."""
        return jnp.dot(x, jnp.asarray(self.matrix, x.dtype).T, precision="highest")

    def posteriors(self) -> list[Posterior]:
        """The distribution of x_0 given each measurement."""
        return [self.mixture.given(self.matrix, y, self.noise_std) for y in self.y]


class Result(NamedTuple):
    """A method's errors, averaged over the measurements; None for samples that are not finite.

    Attributes:
        dims: dimensions of x_0.
        measurement: name of the operator.
        method: the method, with its options.
        solver: name of the solver.
        nfe: network evaluations of each sample.
        evaluations: nfe, and as many again for each product with the network's Jacobian.
        mean: error of the mean, in standard deviations of the posterior.
        covariance: relative error of the covariance.
        weights: half the sum of the errors of the components' weights.
        sliced_wasserstein: sliced Wasserstein-1 distance.
    """

    dims: int
    measurement: str
    method: str
    solver: str
    nfe: int
    evaluations: int
    mean: float | None
    covariance: float | None
    weights: float | None
    sliced_wasserstein: float | None


def problems(options: Options, seed: int) -> Iterator[Problem]:
    """Half of the coordinates of x_0, and random projections, in each of the dimensions."""
    for dims in options.dims:
        random = np.random.RandomState(seed + dims)
        means = _unit(random.randn(len(WEIGHTS), dims))
        mixture = GaussianMixture(WEIGHTS, tuple(map(tuple, (DISTANCE * means).tolist())), STD)
        matrices = {
            "half of the coordinates": np.eye(dims)[: dims // 2],
            "random projections": _unit(random.randn(max(1, dims // 4), dims)),
        }
        for name, matrix in matrices.items():
            parts = random.choice(len(WEIGHTS), options.n_measurements, p=WEIGHTS)
            x0 = DISTANCE * means[parts] + STD * random.randn(len(parts), dims)
            noise = options.noise_std * random.randn(len(parts), len(matrix))
            yield Problem(name, mixture, matrix, x0 @ matrix.T + noise, options.noise_std)


def settings(options: Options, solvers: Solvers, problem: Problem) -> list[tuple]:
    """(label, method, name of the solver, solver) of all that are measured on a problem."""
    return [
        (label, method, name, solver)
        for label, method in variants(options.methods, problem.data_std)
        for name, solver in solvers
        if problem.name != "random projections" or method.products  # replacement needs a mask
    ]


def measure(
    sde: SDE,
    problem: Problem,
    about: list[tuple],
    n: int,
    seed: int,
    track: Callable[[Any], Any] = iter,
) -> Iterator[Result]:
    """The errors of n exact samples for each measurement, then those of each method."""
    random, posteriors = np.random.RandomState(seed), problem.posteriors()
    truths = [Truth.of(p.sample(random, EXACT_FACTOR * n), n) for p in posteriors]
    exact = np.stack([p.sample(random, n) for p in posteriors])
    yield Result(problem.dims, problem.name, EXACT, "", 0, 0, *errors(posteriors, truths, exact))
    for label, method, name, solver in track(about):
        x, nfe = draw(sde, problem, method, solver, n, seed)
        found = errors(posteriors, truths, x) if np.isfinite(x).all() else (None,) * 4
        cost = nfe * (1 + method.products)
        yield Result(problem.dims, problem.name, label, name, nfe, cost, *found)


def draw(
    sde: SDE,
    problem: Problem,
    method: PosteriorMethod,
    solver: NoiseLevelSolver,
    n: int,
    seed: int,
) -> tuple[Float[np.ndarray, "measurements n dims"], int]:
    """(n samples for each measurement, network evaluations of each)."""
    y = jnp.asarray(np.repeat(problem.y, n, axis=0), jnp.float32)
    noise_std = noise_for(method, problem.noise_std)

    @jax.jit
    def run(key: Array) -> tuple[Array, Any]:
        score_fn = problem.mixture.score_fn(sde)
        shape = (len(y), problem.dims)
        made = method(key, solver, sde, score_fn, problem.operator, y, shape, noise_std)
        return made.x, made.nfe

    x, nfe = run(jax.random.key(seed))
    return np.asarray(x, np.float64).reshape(len(problem.y), n, -1), int(nfe)


def errors(
    posteriors: list[Posterior], truths: list[Truth], x: Float[np.ndarray, "measurements n dims"]
) -> tuple[float, float, float, float]:
    """Errors of mean, covariance, weights, and the distance, averaged over the measurements."""
    found = []
    for known, truth, samples in zip(posteriors, truths, x, strict=True):
        mean, covariance, distance = truth.errors(samples)
        shares = known.component_shares(samples).mean(axis=0)
        found.append((mean, covariance, 0.5 * np.abs(shares - known.weights).sum(), distance))
    mean, covariance, weights, distance = np.mean(found, axis=0).tolist()
    return mean, covariance, weights, distance


def _unit(rows: Float[np.ndarray, "n dims"]) -> Float[np.ndarray, "n dims"]:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
