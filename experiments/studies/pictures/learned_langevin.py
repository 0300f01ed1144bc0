"""Mode study, config.study.name = "langevin": Langevin dynamics by a learned score.

    python -m experiments.main --config=configs/points.py:mixture --mode=study \\
        --config.study.name=langevin

A small network learns the scores of two distant modes at all noise levels by denoising. At the
least noise it has seen no points between the modes, and its score there is arbitrary (Song & Ermon
2019, Section 3.2.1). Plain Langevin dynamics at that level start uniformly and follow it. Annealed
dynamics come from noise, where the modes are joined and the score is known everywhere.
experiments/studies/langevin.py draws both by the exact score.
"""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.commands.request import Request
from experiments.runs import charts, files, pictures, progress
from experiments.studies.langevin import HALF_WIDTH, MIXTURE, N_FRAMES, N_PATHS
from experiments.studies.score_matching import BATCH, make_training
from experiments.studies.statistics import Mean, rms, save_table
from samplers import AnnealedLangevin, Start
from sde_lib import VE, ScoreFn
from sde_lib.checks import check_at_least

SECTION = "config.study.langevin"
SDE = VE(sigma_min=0.2, sigma_max=20.0)
# Both take 1500 steps; those at t_min have the size 0.1 in both.
PLAIN = AnnealedLangevin(n_levels=1, n_steps_each=1500, step_size=2.5, denoise=False)
ANNEALED = AnnealedLangevin(n_levels=30, n_steps_each=50, step_size=0.25)
LEVELS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # sigma, which the errors are measured at
MESH_SIDE, MAP_SIDE, N_TEST = 17, 60, 4096


class Result(NamedTuple):
    """The end of one dynamics.

    Attributes:
        dynamics: "plain" or "annealed".
        score: "exact" or "learned".
        upper_mode: share of the samples in the upper mode, with its binomial standard error.
        truth: weight of the upper mode.
        off: share of the samples that are farther than 4 standard deviations from both modes.
    """

    dynamics: str
    score: str
    upper_mode: Mean
    truth: float
    off: float


def run(request: Request) -> None:
    """Prints the errors of the score and the shares of the modes; saves both with two pictures.

    Raises:
        ValueError: an impossible number.
    """
    config, options = request.config, request.config.study.langevin
    check_at_least(1, **{f"{SECTION}.n_iters": options.n_iters})
    check_at_least(2, **{f"{SECTION}.n_samples": options.n_samples})
    key = jax.random.key(config.seed)
    sample = partial(MIXTURE.sample, n=BATCH)
    training = make_training("denoising", SDE, sample, options.n_iters)
    learned = jax.jit(training.score_of(training.run(key)[0]))
    exact = MIXTURE.score_fn(SDE)
    path = request.folder / f"langevin_seed{config.seed}.jsonl"
    about = pictures.provenance(config=config.to_dict(), mixture=str(MIXTURE), sde=str(SDE))
    curves = errors(learned, exact, key)
    for name, points in curves.items():
        print(
            f"relative error {name}: " + ", ".join(f"{e:.2g} at {sigma:g}" for sigma, e in points)
        )
    print(save_scores(path.with_name(f"{path.stem}_score.png"), learned, exact, curves, about))
    results, panels, fields = [], {}, []
    for result, frames in dynamics(learned, exact, key, options.n_samples):
        results.append(result)
        files.write_lines(path, (each._asdict() for each in results))
        if (result.dynamics, result.score) != ("annealed", "exact"):
            share, title = result.upper_mode.value, f"{result.dynamics}, {result.score} score"
            panels[f"{title}: {share:.0%} in the upper mode of {result.truth:.0%}"] = frames
            fields.append(arrows(learned if result.score == "learned" else exact))
    save_table(path, results)
    rest = fields[0][0], np.stack([field for _, field in fields]), HALF_WIDTH, about
    print(charts.save_point_paths(path.with_suffix(".png"), panels, N_PATHS, *rest))


def dynamics(
    learned: ScoreFn, exact: ScoreFn, key: jax.Array, n: int
) -> Iterator[tuple[Result, np.ndarray]]:
    """For each score and dynamics, the result and the frames [N_FRAMES + 1, n, 2]."""
    uniform = jax.random.uniform(key, (n, 2), minval=-HALF_WIDTH, maxval=HALF_WIDTH)
    starts = {"plain": (PLAIN, uniform), "annealed": (ANNEALED, SDE.prior_sample(key, (n, 2)))}
    settings = [(name, kind) for name in ("exact", "learned") for kind in starts]
    for name, kind in progress.track(settings, "Langevin dynamics", "setting"):
        sampler, x = starts[kind]
        score_fn = learned if name == "learned" else exact
        start = Start(x, SDE.t_max)
        made = sampler(key, SDE, score_fn, x.shape, n_frames=N_FRAMES, start=start)
        end = np.asarray(made.x, np.float64)
        share = float(np.mean(end.sum(axis=1) > 0))
        error = math.sqrt(share * (1 - share) / (n - 1))
        away = np.linalg.norm(end[:, None] - np.asarray(MIXTURE.means), axis=2).min(axis=1)
        off = float(np.mean(away > 4 * MIXTURE.std))
        result = Result(kind, name, Mean(share, error), MIXTURE.weights[1], off)
        yield result, np.concatenate([x[None], made.path])


def errors(
    learned: ScoreFn, exact: ScoreFn, key: jax.Array
) -> dict[str, list[tuple[float, float]]]:
    """RMS error over the RMS of the exact score, by noise level, at points of p_t and between."""
    middle = jax.random.uniform(key, (N_TEST, 2), minval=-2.0, maxval=2.0)
    curves: dict[str, list[tuple[float, float]]] = {"at the data": [], "between the modes": []}
    for sigma in LEVELS:
        t = jnp.full(N_TEST, SDE.inverse_noise_level(jnp.float32(sigma)))
        x0, z = MIXTURE.sample(key, N_TEST), jax.random.normal(key, (N_TEST, 2))
        for name, x in zip(curves, (SDE.noised(x0, t, z), middle), strict=True):
            truth = np.asarray(exact(x, t), np.float64)
            curves[name].append((sigma, rms(np.asarray(learned(x, t)) - truth) / rms(truth)))
    return curves


def arrows(score_fn: ScoreFn, side: int = MESH_SIDE) -> tuple[np.ndarray, np.ndarray]:
    """Points of a mesh [side^2, 2], and the score there at the least noise."""
    ticks = np.linspace(-HALF_WIDTH, HALF_WIDTH, side, dtype=np.float32)
    mesh = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
    return mesh, np.asarray(score_fn(jnp.asarray(mesh), jnp.full(len(mesh), SDE.t_min)))


def save_scores(
    path: Path,
    learned: ScoreFn,
    exact: ScoreFn,
    curves: dict[str, list[tuple[float, float]]],
    about: dict[str, str],
) -> Path:
    """Saves both scores at the least noise over maps of their errors, and the error curves."""
    sigma = float(SDE.noise_level(jnp.float32(SDE.t_min)))
    (mesh, _), (fine, truth) = arrows(exact), arrows(exact, MAP_SIDE)
    density = np.exp(np.asarray(MIXTURE.log_prob(jnp.asarray(fine)))).reshape(MAP_SIDE, MAP_SIDE)
    estimates = []
    for name, score_fn in (("exact", exact), ("learned", learned)):
        off = sigma * np.linalg.norm(arrows(score_fn, MAP_SIDE)[1] - truth, axis=1)
        title = f"{name} score at sigma = {sigma:.2g}"
        each = charts.Estimate(title, arrows(score_fn)[1], off.reshape(MAP_SIDE, MAP_SIDE))
        estimates.append(each)
    lines = [charts.Lines("RMS error / RMS of the exact score", "sigma", curves, {})]
    return charts.save_estimates(path, mesh, estimates, density, lines, HALF_WIDTH, about)
