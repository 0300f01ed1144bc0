"""Mode study, config.study.name = "trajectories": ways of points under the SDE and under its flow.

    python -m experiments.main --config=configs/points.py:mixture --mode=study \\
        --config.study.name=trajectories

The data are numbers, a mixture of two Gaussians with its exact score, under the config's SDE. The
forward SDE, the reverse SDE and the probability flow have the same density at each time, which the
picture shows in grey, but other ways. The flow's ways never cross: a start of rank r among the
starts ends with rank r among the samples, so the exact way is the curve of one quantile. Ways of
the SDEs cross, and their ends forget the starts.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from experiments.build.components import diffusion
from experiments.commands.request import Request
from experiments.runs import charts, pictures
from experiments.studies.statistics import save_results
from samplers import EulerMaruyama, ProbabilityFlow
from sde_lib import SDE, GaussianMixture
from sde_lib.checks import check_at_least

SECTION = "config.study.trajectories"
MIXTURE = GaussianMixture((0.4, 0.6), ((-1.0,), (1.0,)), std=0.25)
WIDTH = 3.2  # half the height of the picture, in standard deviations of the widest x_t
SIDE = 100  # points of the densities
N_FRAMES = 100  # times of the ways
Ways = Float[np.ndarray, "frames n"]


class Result(NamedTuple):
    """Ways of one process.

    Attributes:
        process: "forward SDE", "reverse SDE" or "flow".
        rank_correlation: Spearman's, of the ways' starts and ends.
        distance: Wasserstein-1 distance of the ends to the exact distribution there.
        by_chance: the same of as many exact samples, on average.
        off_quantile: RMS distance of the ends to the exact ends of the flow from the same starts.
    """

    process: str
    rank_correlation: float
    distance: float
    by_chance: float
    off_quantile: float


def run(request: Request) -> None:
    """Prints the table of the ways, and saves it with the picture.

    Raises:
        ValueError: an impossible number, or an SDE with more than one alpha and sigma.
    """
    config, options = request.config, request.config.study.trajectories
    check_at_least(N_FRAMES, **{f"{SECTION}.steps": options.steps})
    check_at_least(100, **{f"{SECTION}.n_samples": options.n_samples})
    check_at_least(1, **{f"{SECTION}.n_paths": options.n_paths})
    sde = diffusion.sde(config)
    if not sde.is_scalar:
        raise ValueError(
            f"config.training.sde is {config.training.sde!r}, whose points have velocities too: "
            "take another SDE for the study 'trajectories'"
        )
    key, times = jax.random.key(config.seed), np.linspace(sde.t_min, sde.t_max, N_FRAMES + 1)
    ways = draw(key, sde, options.n_samples, options.steps)
    path = request.folder / f"trajectories_seed{config.seed}.jsonl"
    save_results(path, [measure(name, sde, each) for name, each in ways.items()])
    widest = max(MIXTURE.marginal(sde, t).covariance[0, 0] for t in times)
    half_width = WIDTH * math.sqrt(widest)
    x = jnp.linspace(-half_width, half_width, SIDE)[:, None]
    density = [np.exp(np.asarray(MIXTURE.marginal(sde, t).log_prob(x))) for t in times]
    panels = [
        charts.Ways(name, np.stack(density, axis=1), each[:, : options.n_paths].T)
        for name, each in ways.items()
    ]
    about = pictures.provenance(config=config.to_dict(), mixture=str(MIXTURE), sde=str(sde))
    print(charts.save_ways(path.with_suffix(".png"), panels, times, half_width, about))


def draw(key: jax.Array, sde: SDE, n: int, n_steps: int) -> dict[str, Ways]:
    """The ways of n points under each process, in rising order of t, from t_min to t_max."""
    forward_key, prior_key, reverse_key = jax.random.split(key, 3)
    score_fn, shape = MIXTURE.score_fn(sde), (n, 1)
    start = sde.prior_sample(prior_key, shape)
    reverse = {"reverse SDE": EulerMaruyama(n_steps), "flow": ProbabilityFlow()}
    ways = {"forward SDE": forward(forward_key, sde, n)}
    for name, sampler in reverse.items():
        made = jax.jit(lambda key, sampler=sampler: sampler(key, sde, score_fn, shape, 0, N_FRAMES))
        path = np.concatenate(
            [start[None], made(prior_key if name == "flow" else reverse_key).path]
        )
        ways[name] = path[::-1, :, 0]
    return ways


def forward(key: jax.Array, sde: SDE, n: int) -> Ways:
    """Exact ways of n samples of the data: each step draws from the transition's Gaussian."""
    data_key, start_key, key = jax.random.split(key, 3)
    x0 = MIXTURE.sample(data_key, n)[:, 0]
    times = jnp.linspace(sde.t_min, sde.t_max, N_FRAMES + 1)
    alpha, variance = sde.alpha(times), sde.sigma(times) ** 2
    x = alpha[0] * x0 + jnp.sqrt(variance[0]) * jax.random.normal(start_key, (n,))
    factor = alpha[1:] / alpha[:-1]
    added = jnp.sqrt(jnp.maximum(variance[1:] - factor**2 * variance[:-1], 0))

    def step(x, about):
        factor, std, key = about
        x = factor * x + std * jax.random.normal(key, (n,))
        return x, x

    _, path = jax.lax.scan(step, x, (factor, added, jax.random.split(key, N_FRAMES)))
    return np.concatenate([x[None], path])


def quantiles(mixture: GaussianMixture, shares: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The x below which a mixture of numbers has these shares, by bisection in float64."""
    from scipy.special import ndtr

    means, weights = np.asarray(mixture.means)[:, 0], np.asarray(mixture.weights)
    low = np.full(len(shares), means.min() - 40 * mixture.std)
    high = np.full(len(shares), means.max() + 40 * mixture.std)
    for _ in range(100):
        middle = 0.5 * (low + high)
        below = ndtr((middle[:, None] - means) / mixture.std) @ weights < shares
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return 0.5 * (low + high)


def cumulative(mixture: GaussianMixture, x: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The share of a mixture of numbers below each x."""
    from scipy.special import ndtr

    gaps = np.asarray(x, np.float64)[:, None] - np.asarray(mixture.means)[:, 0]
    return ndtr(gaps / mixture.std) @ np.asarray(mixture.weights)


def measure(name: str, sde: SDE, ways: Ways) -> Result:
    """The numbers of a process; the forward SDE starts at t_min, and others at t_max."""
    from scipy.stats import spearmanr

    ends = [MIXTURE.marginal(sde, t) for t in (sde.t_min, sde.t_max)]
    x = ways[[0, -1]].astype(np.float64)
    if name != "forward SDE":
        ends, x = ends[::-1], x[::-1]
    (first, last), (start, end) = ends, x
    n = len(end)
    places = quantiles(last, (np.arange(n) + 0.5) / n)
    random = np.random.RandomState(0)
    chance = [
        np.mean(np.abs(np.sort(quantiles(last, random.uniform(size=n))) - places))
        for _ in range(10)
    ]
    exact = quantiles(last, cumulative(first, start))
    return Result(
        name,
        float(np.asarray(spearmanr(start, end))[0]),
        float(np.mean(np.abs(np.sort(end) - places))),
        float(np.mean(chance)),
        float(np.sqrt(np.mean((end - exact) ** 2))),
    )
