"""Explicit, sliced and denoising score matching on points: their errors, costs and requirements.

    python -m experiments.studies.score_matching --output=score_matching.png

A small network learns the known score of a noisy mixture by each objective, in equally many steps.
The upper row shows each estimate and its error. The lower row shows the errors over the noise, the
cost of a step in more dimensions, and data on a line in the plane (the manifold hypothesis, Song &
Ermon 2019, Section 3.1). With a little noise, every objective finds the slope of the score across
the line. Without noise there is no such slope, and training drifts to any value.
"""

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import sde_lib
from experiments.runs import charts, pictures, progress
from experiments.studies import picture
from models import NoiseModel, Preconditioning
from models.mlp import MLP

MIXTURE = sde_lib.GaussianMixture(
    (0.2, 0.3, 0.5), ((-1.2, -0.8), (1.2, -0.6), (0.0, 1.1)), std=0.35
)
SDE = sde_lib.VP()
LOSSES: dict[str, Callable[..., Any]] = {
    "denoising": sde_lib.denoising_score_matching,
    "explicit": sde_lib.explicit_score_matching,
    "sliced": sde_lib.sliced_score_matching,
    "sliced_vr": partial(sde_lib.sliced_score_matching, variance_reduction=True),
}
DERIVATIVES = {"denoising": "none", "explicit": "D", "sliced": "1", "sliced_vr": "1"}
TIMES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)  # of the errors
SHOWN = 0.1  # the time of the pictures
HALF_WIDTH, MESH_SIDE, MAP_SIDE = 2.4, 15, 60
WIDTH, BATCH, RATE = 64, 512, 3e-3
N_STEPS, N_TEST = 1500, 4096
LINE_STEPS, N_FRAMES = 600, 30
LINE_NOISE, NO_NOISE = 0.1, 1e-6
DIMENSIONS, TIMED_BATCH, TIMED_STEPS, ROUNDS = (2, 8, 32), 128, 5, 3


class Training(NamedTuple):
    """A compiled training.

    Attributes:
        run: run(key) gives the parameters, and the measurements along the way.
        score_of: score_of(parameters) gives the score function.
    """

    run: Callable[[jax.Array], tuple[Any, jax.Array]]
    score_of: Callable[[Any], sde_lib.ScoreFn]


def make_training(
    objective: str,
    sde: sde_lib.SDE,
    sample: Callable[[jax.Array], jax.Array],
    n_steps: int,
    parametrization: str = "epsilon",
    n_frames: int = 1,
    measure: Callable[[sde_lib.ScoreFn], Any] = lambda score_fn: 0.0,
    **options: Any,
) -> Training:
    """A network's training on batches sample(key), [B, D].

    Args:
        objective: a name in LOSSES.
        sde: the forward SDE.
        sample: draws a batch of data.
        n_steps: a multiple of n_frames.
        parametrization: a name of models.Preconditioning.
        n_frames: how often the score is measured.
        measure: the measurement, a function of the score function.
        options: of the objective.
    """
    network = MLP(nf=WIDTH)
    model = NoiseModel(network, Preconditioning(sde, parametrization, inputs="points"))
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, n_steps))
    loss, score_of = partial(LOSSES[objective], stratified=True, n_strata=BATCH), model.score_fn

    def step(state, key):
        data_key, loss_key = jax.random.split(key)

        def mean_loss(params):
            return loss(loss_key, sde, score_of(params), sample(data_key), **options)[0].mean()

        params, moments = state
        updates, moments = optimizer.update(jax.grad(mean_loss)(params), moments)
        return (optax.apply_updates(params, updates), moments), None

    def frame(state, keys):
        state, _ = jax.lax.scan(step, state, keys)
        return state, measure(score_of(state[0]))

    def run(key):
        params = network.init(key, sample(key)[:1], jnp.ones(1))["params"]
        keys = jax.random.split(key, (n_frames, n_steps // n_frames))
        (params, _), frames = jax.lax.scan(frame, (params, optimizer.init(params)), keys)
        return params, frames

    return Training(jax.jit(run).lower(jax.random.key(0)).compile(), score_of)


def learn_mixture() -> dict[str, sde_lib.ScoreFn]:
    """The score of the mixture as each objective learns it."""
    scores = {}
    for name in progress.track(DERIVATIVES, "training on a mixture", "objective"):
        run, score_of = make_training(name, SDE, partial(MIXTURE.sample, n=BATCH), N_STEPS)
        scores[name] = score_of(run(jax.random.key(0))[0])
    return scores


def error(score_fn: sde_lib.ScoreFn, t: float) -> float:
    """The mean square of sigma (score - the mixture's) at t."""
    key, times = jax.random.key(1), jnp.full(N_TEST, t)
    mean, std = SDE.marginal(MIXTURE.sample(key, N_TEST), times)
    x = mean + std[:, None] * jax.random.normal(jax.random.fold_in(key, 1), mean.shape)
    off = std[:, None] * (score_fn(x, times) - MIXTURE.score_fn(SDE)(x, times))
    return float(jnp.mean(off**2))


def step_costs() -> dict[str, list[float]]:
    """Processor time of a step over denoising's, by objective, in each of DIMENSIONS.

    The objectives take turns. Other work on the machine hardly changes processor time.
    """
    costs = {name: [] for name in DERIVATIVES}
    for dims in progress.track(DIMENSIONS, "costs of steps", "dimension"):
        sample = partial(jax.random.normal, shape=(TIMED_BATCH, dims))
        runs = {name: make_training(name, SDE, sample, TIMED_STEPS).run for name in DERIVATIVES}
        seconds = {name: [] for name in runs}
        for _ in range(ROUNDS):
            for name, run in runs.items():
                start = time.process_time()
                jax.block_until_ready(run(jax.random.key(0)))
                seconds[name].append(time.process_time() - start)
        for name in costs:
            costs[name].append(min(seconds[name]) / min(seconds["denoising"]))
    return costs


def line_slopes() -> dict[tuple[str, float], np.ndarray]:
    """The slope of the score across a line of data, during training, by objective and noise.

    The data are N(0, 1) on the first axis, and the noise is a standard deviation: 1 / noise^2 is
    the right slope. Denoising needs noise.
    """

    def sample(key):
        return jax.random.normal(key, (BATCH, 1)) * jnp.array([1.0, 0.0])

    slopes = {}
    for noise in progress.track((LINE_NOISE, NO_NOISE), "training on a line", "noise"):
        sde = sde_lib.EDM(t_max=noise, t_min=0.99 * noise, train_t_min=0.99 * noise)

        def slope(score_fn, noise=noise):
            x, across = sample(jax.random.key(1)), jnp.tile(jnp.array([0.0, 1.0]), (BATCH, 1))
            t = jnp.full(BATCH, noise)
            return -jnp.mean(jax.jvp(lambda x: score_fn(x, t), (x,), (across,))[1][:, 1])

        # The network is the score, and its error is not in units of a noise that is nearly 0.
        options = {"parametrization": "score", "weighting": jnp.exp}
        options |= {"n_frames": N_FRAMES, "measure": slope}
        for name in DERIVATIVES:
            if name == "denoising" and noise == NO_NOISE:
                continue
            run, _ = make_training(name, sde, sample, LINE_STEPS, **options)
            slopes[name, noise] = np.asarray(run(jax.random.key(0))[1])
    return slopes


def mesh(side: int) -> np.ndarray:
    """Points of a square mesh, [side^2, 2]."""
    ticks = np.linspace(-HALF_WIDTH, HALF_WIDTH, side, dtype=np.float32)
    return np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)


def panels(
    scores: dict[str, sde_lib.ScoreFn], titles: dict[str, str]
) -> tuple[list[charts.Estimate], np.ndarray]:
    """The estimates at the time SHOWN, and the density of x_t then."""
    exact, fine = MIXTURE.score_fn(SDE), jnp.asarray(mesh(MAP_SIDE))
    alpha, std = float(SDE.alpha(SHOWN)), float(SDE.sigma(SHOWN))
    means = tuple(tuple(alpha * value for value in mean) for mean in MIXTURE.means)
    noisy = sde_lib.GaussianMixture(MIXTURE.weights, means, math.hypot(alpha * MIXTURE.std, std))

    def at(score_fn, x):
        return np.asarray(score_fn(x, jnp.full(len(x), SHOWN)))

    estimates = []
    for name, score_fn in scores.items():
        off = std * np.linalg.norm(at(score_fn, fine) - at(exact, fine), axis=1)
        arrows = at(score_fn, jnp.asarray(mesh(MESH_SIDE)))
        estimates.append(charts.Estimate(titles[name], arrows, off.reshape(MAP_SIDE, MAP_SIDE)))
    return estimates, np.exp(noisy.log_prob(fine)).reshape(MAP_SIDE, MAP_SIDE)


def run(output: Path) -> Path:
    """Trains, prints the errors and the costs as a table, and draws the figure."""
    scores, costs, slopes = learn_mixture(), step_costs(), line_slopes()
    errors = {name: [error(score_fn, t) for t in TIMES] for name, score_fn in scores.items()}
    cells = ["objective", *(f"t = {t:g}" for t in TIMES), "derivatives"]
    print(" | ".join([*cells, *(f"time at D = {dims}" for dims in DIMENSIONS)]))
    for name in scores:
        cells = [name, *(f"{value:.4f}" for value in errors[name]), DERIVATIVES[name]]
        print(" | ".join([*cells, *(f"{cost:.2f}" for cost in costs[name])]))
    for (name, noise), values in slopes.items():
        most = f"{values[-1]:.0f} at last, {max(values):.0f} at most"
        print(f"slope across a line with noise {noise:g}, by {name}: {most}")
    return draw(output, scores, errors, costs, slopes)


def draw(
    output: Path,
    scores: dict[str, sde_lib.ScoreFn],
    errors: dict[str, list[float]],
    costs: dict[str, list[float]],
    slopes: dict[tuple[str, float], np.ndarray],
) -> Path:
    """Draws the figure of all results."""
    titles = {
        name: f"{name}: error {errors[name][TIMES.index(SHOWN)]:.3f}, step x {costs[name][0]:.1f}"
        for name in scores
    }
    titles["exact"] = f"the known score at t = {SHOWN:g}"
    estimates, density = panels({"exact": MIXTURE.score_fn(SDE)} | scores, titles)
    steps = range(LINE_STEPS // N_FRAMES, LINE_STEPS + 1, LINE_STEPS // N_FRAMES)

    def curves(values, x) -> dict[str, list[tuple[float, float]]]:
        return {name: list(zip(x, map(float, y), strict=True)) for name, y in values.items()}

    def across(wanted: float) -> dict[str, list[tuple[float, float]]]:
        chosen = {name: values for (name, noise), values in slopes.items() if noise == wanted}
        return curves(chosen, steps)

    lines = [
        charts.Lines("mean square of sigma (score - exact)", "t", curves(errors, TIMES), {}),
        charts.Lines(
            "processor time of a step / denoising's", "dimensions", curves(costs, DIMENSIONS), {}
        ),
        charts.Lines(
            f"data on a line: slope of the score across it\n(noise {LINE_NOISE:g}; dotted: none)",
            "step",
            across(LINE_NOISE),
            across(NO_NOISE),
            LINE_NOISE**-2,
        ),
    ]
    about = pictures.provenance(mixture=str(MIXTURE), steps=N_STEPS, batch=BATCH)
    return charts.save_estimates(
        output, mesh(MESH_SIDE), estimates, density, lines, HALF_WIDTH, about
    )


def main() -> None:
    """Runs the command."""
    picture.command("Compares the objectives of score matching.", "score_matching.png", run)


if __name__ == "__main__":
    main()
