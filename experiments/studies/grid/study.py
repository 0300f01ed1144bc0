"""Mode study, config.study.name = "grid": noise levels optimised for a trained model.

    python -m experiments.main --mode=study --config.study.name=grid --workdir=runs/digits

It follows the model's probability flow in fine steps, finds the grids of few levels with the least
sum of local errors (dynamic.py), and writes them to grid_STEP_seedN.json. Give that file as
config.sampling.grid to any sampler of noise levels. The table has the RMS distance from the flow's
endpoint, at other starts than those that the grids are made of, beside that of the named grids.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import samplers
from experiments.build.components import diffusion, grids
from experiments.commands.request import Request
from experiments.pipeline import draw as drawing
from experiments.pipeline.pipeline import Pipeline
from experiments.runs import devices, progress
from experiments.studies import subject as subjects
from experiments.studies.grid import dynamic
from experiments.studies.statistics import rms, save_results
from models.config import Config
from samplers.solver import NoiseLevelSolver
from sde_lib.batch import expand
from sde_lib.checks import check_at_least, check_name

SECTION = "config.study.grid"
NAMED = ("karras", "exponential")
OWN = "optimised"
SOLVERS = (  # of noise levels, without noise of their own
    *(
        "ddim",
        "deis",
        "dpm_2",
        "dpm_solver",
        "dpmpp_2m",
        "dpmpp_2s",
        "euler",
        "heun",
        "lms",
        "unipc",
    ),
)


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of the study, config.study.grid.

    Attributes:
        solvers: names of solvers without noise, whose errors are measured.
        nfe: network evaluations a sample.
        order: of the local errors: 1, or 2 (dynamic.local_errors).
        n_fine: steps of the fine solution, between whose levels the grids choose.
        n_samples: trajectories; as many others measure the errors.

    Raises:
        ValueError: an impossible number, or nothing to measure.
    """

    solvers: tuple[str, ...]
    nfe: tuple[int, ...]
    order: int
    n_fine: int
    n_samples: int

    def __post_init__(self):
        subjects.check_not_empty("study.grid", solvers=self.solvers, nfe=self.nfe)
        for nfe in self.nfe:
            check_at_least(2, **{f"{SECTION}.nfe": nfe})
        check_at_least(1, 2, **{f"{SECTION}.order": self.order})
        check_at_least(2, **{f"{SECTION}.n_samples": self.n_samples})
        check_at_least(max(self.nfe) + 1, **{f"{SECTION}.n_fine": self.n_fine})


class Result(NamedTuple):
    """The errors of one solver: RMS distances from the flow's endpoint, in model space."""

    solver: str
    nfe: int
    grid: str
    error: float


class Trajectories(NamedTuple):
    """A fine solution of the flow: levels [N], states and noise [N, n, D], ends [n, D]."""

    levels: np.ndarray
    y: np.ndarray
    noise: np.ndarray
    end: np.ndarray


def run(request: Request) -> None:
    """Writes the file of the grids; prints the table of errors, and saves it.

    Raises:
        ValueError: an impossible option, or a solver with noise of its own.
    """
    config, folder = request.config, request.folder
    options = Options(**config.study.grid.to_dict())
    solvers = made_solvers(config, options)
    model = subjects.subject(request).model
    with progress.working("trajectories"):
        found = trajectories(model, options.n_fine, options.n_samples)
    errors = dynamic.local_errors(*found, options.order)
    counts = sorted({solver.n_levels for _, _, solver in solvers})
    made = {n: found.levels[dynamic.best(errors, n)].tolist() for n in counts}
    path = folder / f"grid_{model.step}_seed{config.seed}.json"
    about = {"step": model.step, "order": options.order, "n_samples": options.n_samples}
    grids.save(path, model.sde, made, about)
    other = model.replace(seed=model.seed + 1)
    results = list(measure(other, solvers, made, options))
    save_results(path.with_suffix(".jsonl"), results, digits=".5f")
    print("\n".join(gains(results)))
    print(path)


def made_solvers(config: Config, options: Options) -> list[tuple[str, int, NoiseLevelSolver]]:
    """The solvers with each number of evaluations that they can make.

    Raises:
        ValueError: an unknown solver, or one that can make none of them.
    """
    made = []
    for name in options.solvers:
        check_name(f"{SECTION}.solvers", name, SOLVERS)
        create: Any = partial(samplers.create, name)
        for nfe in options.nfe:
            steps = (create(n_steps=n) for n in range(nfe, 0, -1))
            solver = next(solver for solver in steps if solver.nfe <= nfe)
            made.append((name, solver.nfe, solver))
    for _, _, solver in made:
        subjects.evaluations(solver, diffusion.sde(config))
    return list(dict.fromkeys(made))


def trajectories(model: Pipeline, n_fine: int, n: int) -> Trajectories:
    """A fine solution by Heun's method, with even steps in log noise level."""
    size = devices.round_up(model.mesh, n)
    conditions = model.sample_conditions(np.arange(size))
    levels, program = fine(n_fine).own_levels(model.sde)[:-1], model.program(_follow, n_fine, size)
    parts = devices.fetch(program(model.weights, model.key, conditions))
    y, noise, end = (part.reshape(*part.shape[: part.ndim - len(model.diffused_shape)], -1)
                     for part in parts)  # fmt: skip
    return Trajectories(levels, *(p[..., :n, :].astype(np.float64) for p in (y, noise, end)))


def fine(n_fine: int) -> samplers.Heun:
    """The solver of the fine solution."""
    return samplers.Heun(n_steps=n_fine, grid="exponential")


def _follow(model: Pipeline, n_fine: int, size: int) -> Any:
    """The function of weights, key and conditions that gives states, noise and ends."""
    sde, solver, shape = model.sde, fine(n_fine), (size, *model.diffused_shape)
    t = sde.inverse_noise_level(jnp.asarray(solver.own_levels(sde)[:-1], float))

    def follow(weights: Any, key: jax.Array, conditions: Any) -> Any:
        score_fn = model.conditional_score(weights, conditions)
        made = solver(key, sde, score_fn, shape, n_frames=solver.n_moves)
        x = jnp.concatenate([sde.prior_sample(key, shape)[None], made.path])
        score = jax.lax.map(lambda at: score_fn(at[0], jnp.full(size, at[1])), (x, t))
        return x / expand(sde.alpha(t), x), -expand(sde.sigma(t), x) * score, made.x

    return follow


def measure(
    model: Pipeline,
    solvers: Sequence[tuple[str, int, NoiseLevelSolver]],
    made: dict[int, list[float]],
    options: Options,
) -> Iterator[Result]:
    """The errors of each solver with the named grids and with the optimised one."""
    n = options.n_samples
    truth = drawing.draw_all(model.replace(sampler=fine(options.n_fine)), n)[0]
    for name, nfe, solver in solvers:
        for grid in (*NAMED, OWN):
            levels = tuple(made[solver.n_levels]) if grid == OWN else grid
            sampler = dataclasses.replace(solver, grid=levels)
            x = drawing.draw_all(model.replace(sampler=sampler), n)[0]
            yield Result(name, nfe, grid, rms(np.asarray(x, np.float64) - truth))


def gains(results: Sequence[Result]) -> Iterator[str]:
    """For each solver and number of evaluations: the error over that of the best named grid."""
    for setting in dict.fromkeys(result[:2] for result in results):
        *named, own = (result.error for result in results if result[:2] == setting)
        yield f"{setting[0]} {setting[1]}: {own / min(named):.2f} of the best named grid's error"
