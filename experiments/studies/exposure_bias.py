"""Mode exposure_bias: whether sampling leads a network to inputs other than those of training.

    python -m experiments.main --config=configs/digits.py:edm --mode=exposure_bias

In training a network sees data with noise; in sampling, what its own predictions and the solver's
steps have made of noise. Ning et al. 2023 (arXiv 2308.15321) compare the two by the L2 norm of the
noise that it predicts, eps = -sigma score. Here are its means at every noise level where a solver
evaluates the network, each evaluation of a step apart, for training inputs and along sampling by

- EDM: the solver alone;
- EDM-ES: with epsilon scaling, the predicted noise divided by b;
- EDM-G++: with discriminator guidance, if config.sampling.discriminator is given;
- SEDM-G++: with both.

Sample i starts from the noise that training input i has, and has its class: their difference varies
less than either. Without a run, the data set "mixture" is studied by its exact score: its gaps are
the solver's alone.

b is config.sampling.eps_scale or, where that is 1, fitted for each solver and NFE: it makes the
logarithm of the norm over training's vanish, on average over the evaluations. The norm is the
network's own, before it is scaled and guided. For of a network whose noise is wrong by one factor
c everywhere, b = c gives the very trajectories of the right one; along these its own norms are
those along training inputs, both c times the right ones, and the scaled norms are not. The greater
b, the less noise is removed and the greater these norms: b < 1 where they are above training's,
though Ning et al. take b > 1 for that; mode ablate tells what samples are nearest to the data.
Other errors, the solver's too, b makes up for only on average. It is constant but for the slope
that config.sampling.eps_scale_slope may give: one equation, one number.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import samplers
from configs import default
from experiments import build
from experiments.commands import train
from experiments.data import data
from experiments.pipeline import guides, sample
from experiments.runs import parts, pictures, sharding
from experiments.runs import workdir as workdirs
from experiments.studies import benchmark_solvers
from experiments.studies.benchmark_solvers import Problem
from models.config import Config
from samplers import guidance
from samplers.noise_levels import Levels
from samplers.solver import NoiseLevelSolver, enter, model_at
from sde_lib import SDE, ScoreFn
from sde_lib.batch import Batch, PerSample, expand, sample_keys
from sde_lib.checks import check_at_least

TRAINING = "training"
ARMS = {False: ("EDM", "EDM-ES"), True: ("EDM-G++", "SEDM-G++")}  # by whether one guides
NOT_HERE = (  # fields of config.sampling that no arm has
    *("noise_removal", "label", "cfg_weight", "negative_label", "classifier"),
    *("time_shift_window", "s_churn"),
)
SECOND = 1.005  # b of a fit's second run; the first is 1
N_RUNS = 12
CLOSE = 0.05  # of a fitted b's error: how far it may still be off
CONFIDENT = 1.96  # standard errors: a band of 95%
WIDTH = 20
HEADER = (
    f"{'solver':<{WIDTH}}{'NFE':>5}  {'arm':<10}{'b':<22}{'gap, its mean':<20}{'RMS':>8}"
    "  most, and at which sigma / alpha"
)


class Study(NamedTuple):
    """values: ([n, ...] training samples, [n] labels); levels of grey, or None for points.

    log_ratio(discriminator_params, x, t): [B], the discriminator's; or None.
    """

    problem: Problem
    values: tuple[np.ndarray, np.ndarray]
    levels: int | None = None
    log_ratio: guides.LogRatio | None = None
    discriminator_params: Any = None


class Gap(NamedTuple):
    """The mean over evaluations of log(norm / training's), and its standard error."""

    value: float
    error: float


class Scale(NamedTuple):
    """b, and its standard error if it was fitted."""

    b: float
    error: float | None = None


class Point(NamedTuple):
    """An evaluation of a solver's step: means over the samples, with standard errors.

    norm is the network's, ratio that over training's; solver_norm is after scaling and guidance.
    """

    step: int
    evaluation: int
    noise_level: float
    norm: float
    norm_error: float
    ratio: float
    ratio_error: float
    solver_norm: float
    solver_norm_error: float


class Arm(NamedTuple):
    """Training inputs, or a way of sampling."""

    solver: str
    nfe: int
    name: str
    scale: Scale
    gap: Gap
    points: list[Point]


def run(config: Config, workdir: Path) -> None:
    """Measures every solver and NFE; prints a line for each arm, saves all points and their plot.

    Raises:
        ValueError: an unknown solver, an NFE that it cannot make, an option without effect here.
        FloatingPointError: samples are not finite.
    """
    options = config.exposure_bias
    check(config)
    settings = [(name, nfe) for name in options.solvers for nfe in options.nfe]
    solvers = [build.make_solver(config, *setting) for setting in settings]
    study = make_study(config, workdir)
    about = study.problem.about
    print(f"noise predicted by {about}; {options.n_samples} samples\n{HEADER}")
    panels: list[list[Arm]] = []
    for (name, _), solver in zip(settings, solvers, strict=True):
        panels.append([])
        for arm in measure(study, name, solver, workdir / "exposure_bias"):
            panels[-1].append(arm)
            if arm.name != TRAINING:
                print(line(arm), flush=True)
    about = pictures.provenance(config=config.to_dict(), seed=config.seed, samples=about)
    rows = [
        (arm.solver, arm.nfe, arm.name, *arm.scale, *point)
        for arm in itertools.chain.from_iterable(panels)
        for point in arm.points
    ]
    header = ["solver", "nfe", "arm", "b", "b_error", *Point._fields]
    print(workdirs.write_table(workdir / "exposure_bias.csv", header, rows))
    path = workdir / "exposure_bias.png"
    print(pictures.save_ratios(path, [*map(panel, panels)], len(options.nfe), about))


def check(config: Config) -> None:
    """Raises ValueError for numbers that cannot be, and for what no arm has a place for."""
    options, defaults = config.sampling, default.get_config().sampling
    check_at_least(2, **{"config.exposure_bias.n_samples": config.exposure_bias.n_samples})
    if config.model.text:
        raise ValueError("config.model.text is set, but this study knows of no texts")
    for name in NOT_HERE:
        if options[name] != defaults[name]:
            raise ValueError(
                f"config.sampling.{name} is {options[name]!r}: this study knows scaling and a "
                f"discriminator's guidance alone, leave it at {defaults[name]!r}"
            )


def make_study(config: Config, workdir: Path) -> Study:
    """Of the run's trained model, or of the mixture by its exact score.

    Raises:
        ValueError: there is no run, and the data set is not the mixture; a discriminator that does
            not know this model.
    """
    problem, n = benchmark_solvers.make_problem(config, workdir), config.exposure_bias.n_samples
    values = levels = log_ratio = params = None
    if problem.exact is not None:
        values = problem.exact(n).astype(np.float32), np.zeros(n, int)
    else:
        dataset = train.load_data(config)
        rows = np.linspace(0, len(dataset.train) - 1, n).astype(int)
        labels, levels = dataset.train_labels, dataset.levels
        values = dataset.train[rows], np.zeros(n, int) if labels is None else labels[rows]
    if config.sampling.discriminator:
        log_ratio, params = guides.load_discriminator(config, problem.sde, problem.params)
    return Study(problem, values, levels, log_ratio, params)


def measure(study: Study, name: str, solver: NoiseLevelSolver, folder: Path) -> Iterator[Arm]:
    """Training inputs, and every arm."""
    config, values = study.problem.config, study.values
    inputs = [study.problem.sde, config.seed, solver, config.sampling.confidence]
    inputs += [study.problem.params, values]
    over = partial(parts.over, sharding.make_mesh(config), values, config.sampling.batch_size)
    over = partial(over, part=parts.Parts(folder, f"{name}-{solver.nfe}", inputs))
    training = over(make_training(study, solver), name=TRAINING)
    arm = partial(make_arm, study, name, solver, training)
    yield arm(TRAINING, Scale(1.0), training)
    yield from measure_arms(study, solver, False, training, over, arm)
    if study.log_ratio is not None:
        own = ("dg_", "eps_scale_guided")
        options = {k: v for k, v in config.sampling.items() if k.startswith(own)}
        inputs += [options, study.discriminator_params]
        over = partial(over, part=parts.Parts(folder, f"{name}-{solver.nfe}", inputs))
        yield from measure_arms(study, solver, True, training, over, arm)


def measure_arms(
    study: Study,
    solver: NoiseLevelSolver,
    guided: bool,
    training: parts.Arrays,
    over: Callable[..., parts.Arrays],
    arm: Callable[..., Arm],
) -> Iterator[Arm]:
    """Without guidance or with it: b = 1, and the b that is given or fitted."""
    options, walk = study.problem.config.sampling, make_walk(study, solver, guided)

    def along(b: float, slope: float = options.eps_scale_slope) -> parts.Arrays:
        norms = over(lambda batch, n: walk(b, slope, batch[1], n)[1], name=f"b_{b!r}_{slope!r}")
        sample.check_finite(norms["solver"])
        return norms

    plain, scaled = ARMS[guided]
    yield arm(plain, Scale(1.0), along(1.0, 0.0))
    given = Scale(options.eps_scale)
    scale = fit(lambda b: gap(along(b), training)) if given.b == 1 else given
    if scale is None:
        print(f"{type(solver).__name__}, NFE {solver.nfe}: no b near 1 closes the gap of {scaled}")
    else:
        yield arm(scaled, scale, along(scale.b))


def loop_levels(config: Config, sde: SDE, solver: NoiseLevelSolver) -> Levels:
    """The noise levels that the solver's steps go through, from the prior's on."""
    _, high, low = _enter(config, sde, solver, 1, 0)
    return solver.levels(sde, high, low)


def evaluated_levels(solver: NoiseLevelSolver, levels: Levels) -> Levels:
    """Those of all evaluations that it makes of the network, in their order."""
    return np.append(solver.plan(levels[:-1], levels[1:]).evaluations, levels[-1])


def make_walk(
    study: Study, solver: NoiseLevelSolver, guided: bool
) -> Callable[..., tuple[jax.Array, dict[str, jax.Array]]]:
    """walk(b, slope, classes, first index): the solver's own samples, and the norms on its way.

    The norms are of the noise that the "network" predicts and of that which the "solver" is given,
    [B, evaluations]. A step is compiled once, whatever b, and called from Python: a loop inside
    the program would keep the norms to itself.
    """
    problem = study.problem
    config, sde = problem.config, problem.sde
    levels = loop_levels(config, sde, solver)

    def mover(scores: samplers.Scores, y: Batch, first: jax.Array):
        keys = sample_keys(jax.random.key(config.seed), len(y), first)
        return solver.mover(sde, scores, keys, levels, y.shape)

    @partial(jax.jit, static_argnums=0)
    def begin(n, first):
        y, *_ = _enter(config, sde, solver, n, first)
        _, w = mover(lambda x, t: x, y, first)
        return y, jnp.zeros((solver.n_past, *y.shape)), w

    @jax.jit
    def step(inputs, classes, first, k, state):
        scores, norms = recorded(study, guided, inputs, classes)
        move, _ = mover(scores, state[0], first)
        return move(k, *state), norms()

    @jax.jit
    def end(inputs, classes, y):
        scores, norms = recorded(study, guided, inputs, classes)
        return model_at(sde, scores, levels[-1:]).denoised(y), norms()

    def walk(b: float, slope: float, classes: jax.Array, first: int):
        inputs = problem.params, study.discriminator_params, b, slope
        state, norms = begin(len(classes), first), []
        for k in range(solver.n_moves):
            state, new = step(inputs, classes, first, k, state)
            norms.append(new)
        x, new = end(inputs, classes, state[0])
        return x, jax.tree.map(lambda *each: jnp.concatenate(each, axis=1), *norms, new)

    return walk


def recorded(
    study: Study,
    guided: bool,
    inputs: tuple[Any, Any, jax.Array, jax.Array],
    classes: jax.Array,
) -> tuple[samplers.Scores, Callable[[], dict[str, jax.Array]]]:
    """Inside jit: an arm's scores, and what gives the norms of all evaluations made of them.

    inputs: parameters of the model and of the discriminator, b, and its slope.
    """
    params, discriminator_params, b, slope = inputs
    problem = study.problem
    config, mesh = problem.config, sharding.make_mesh(problem.config)
    norms: dict[str, list[PerSample]] = {"network": [], "solver": []}

    def record(name: str, score_fn: ScoreFn) -> ScoreFn:
        def recording(x, t):
            score = score_fn(x, t)
            norms[name].append(noise_norm(problem.sde, score, t))
            return score

        return recording

    score_fn = record("network", problem.score_fn(params, classes))  # whose sample i is of class i
    log_ratio = None
    if guided:
        assert study.log_ratio is not None
        log_ratio = partial(study.log_ratio, sharding.gather(mesh, discriminator_params))
    weight, b = config.sampling.dg_weight_1st_order, guidance.linear(slope, b)
    scores = guides.corrected(config, problem.sde, score_fn, log_ratio, weight, b)
    scores = jax.tree.map(lambda fn: record("solver", sharding.spread(mesh, fn)), scores)
    return scores, lambda: {name: jnp.stack(each, axis=1) for name, each in norms.items()}


def make_training(
    study: Study, solver: NoiseLevelSolver
) -> Callable[[Any, int], dict[str, jax.Array]]:
    """training((values, classes), first index): as walk, of the values with noise.

    Of a sample, that is the noise that it starts from in walk.
    """
    problem = study.problem
    config, sde = problem.config, problem.sde
    key, dequantize = jax.random.key(config.seed), config.data.uniform_dequantization
    evaluated = evaluated_levels(solver, loop_levels(config, sde, solver))
    levels, which = np.unique(evaluated, return_inverse=True)

    @jax.jit
    def norms(params, batch, first):
        x, classes = batch
        x = data.to_model_space_each(config, study.levels, key, x, first, dequantize)
        z = sde.prior_sample(key, x.shape, first) / sde.prior_std
        score_fn = problem.score_fn(params, classes)

        def at(t):
            t = jnp.full(len(x), t)
            mean, std = sde.marginal(x, t)
            return noise_norm(sde, score_fn(mean + expand(std, x) * z, t), t)

        t = sde.inverse_noise_level(jnp.asarray(levels, jnp.float32))
        network = jax.lax.map(at, t).T[:, which]
        return {"network": network, "solver": network}

    return partial(norms, problem.params)


def noise_norm(sde: SDE, score: Batch, t: PerSample) -> PerSample:
    """The L2 norm of -sigma score, [B]."""
    return sde.sigma(t) * jnp.linalg.norm(score.reshape(len(score), -1), axis=1)


def gap(norms: parts.Arrays, training: parts.Arrays) -> Gap:
    """Of the network's norms; its error is that of the linear part (the delta method)."""
    ratio, relative = compare(norms, training)
    return Gap(float(np.mean(np.log(ratio))), float(standard_error(relative.mean(axis=1))))


def compare(norms: parts.Arrays, training: parts.Arrays) -> tuple[np.ndarray, np.ndarray]:
    """The ratio of the network's mean norms, [evaluations], and each sample's part in its log."""
    own, theirs = (np.asarray(each["network"], np.float64) for each in (norms, training))
    relative = own / own.mean(axis=0) - theirs / theirs.mean(axis=0)
    return own.mean(axis=0) / theirs.mean(axis=0), relative


def standard_error(values: np.ndarray) -> np.ndarray:
    """Of the mean over the first axis."""
    return values.std(axis=0, ddof=1) / np.sqrt(len(values))


def fit(gap_at: Callable[[float], Gap]) -> Scale | None:
    """The b near 1 where the gap is 0, by the secant method; None if that finds none."""
    b, last, then = 1.0, gap_at(1.0), SECOND
    for _ in range(N_RUNS):
        here = gap_at(then)
        slope = (here.value - last.value) / (then - b)
        b, last = then, here
        then = b - here.value / slope if slope else np.inf
        if not 0.5 < then < 2:
            return None
        if abs(then - b) < CLOSE * (error := here.error / abs(slope)):
            return Scale(then, error)
    return None


def make_arm(
    study: Study,
    name: str,
    solver: NoiseLevelSolver,
    training: parts.Arrays,
    arm: str,
    scale: Scale,
    norms: parts.Arrays,
) -> Arm:
    """The means of the norms, with their errors."""
    problem = study.problem
    levels = evaluated_levels(solver, loop_levels(problem.config, problem.sde, solver))
    network, given = (np.asarray(norms[key], np.float64) for key in ("network", "solver"))
    ratio, relative = compare(norms, training)
    columns = [levels, network.mean(axis=0), standard_error(network)]
    columns += [ratio, ratio * standard_error(relative)]
    columns += [given.mean(axis=0), standard_error(given)]
    points = [
        Point(k // solver.evaluations, k % solver.evaluations + 1, *row)
        for k, row in enumerate(np.column_stack(columns).tolist())
    ]
    return Arm(name, solver.nfe, arm, scale, gap(norms, training), points)


def line(arm: Arm) -> str:
    """Of the table: b, the gap's mean and root mean square, and where it is largest."""
    b, error = arm.scale
    logs = np.log([point.ratio for point in arm.points])
    scale = f"{b:.5f}" + (f" +- {error:.5f}" if error else "")
    most = arm.points[np.abs(logs).argmax()]
    mean = "0, by the fit" if error else percent(arm.gap.value, arm.gap.error)
    rms, largest = np.sqrt(np.mean(logs**2)), percent(most.ratio - 1, most.ratio_error)
    names = f"{arm.solver:<{WIDTH}}{arm.nfe:>5}  {arm.name:<10}"
    return f"{names}{scale:<22}{mean:<20}{rms:>8.2%}  {largest} at {most.noise_level:.3g}"


def percent(value: float, error: float) -> str:
    return f"{100 * value:+.3f} +- {100 * error:.3f}%"


def panel(arms: Sequence[Arm]) -> pictures.Ratios:
    """Of one solver and NFE: each arm's ratios over the noise levels, by evaluation of a step."""
    curves = {}
    for arm in arms[1:]:
        for point in arm.points:
            band = point.noise_level, point.ratio, CONFIDENT * point.ratio_error
            curves.setdefault((arm.name, point.evaluation), []).append(band)
    return pictures.Ratios(f"{arms[0].solver}, NFE {arms[0].nfe}", curves)


def _enter(
    config: Config, sde: SDE, solver: NoiseLevelSolver, n: int, first: int | jax.Array
) -> tuple[Batch, float, float]:
    key, shape = jax.random.key(config.seed), (n, *build.image_shape(config))
    ends = solver.grid, solver.sigma_max, solver.sigma_min
    return enter(key, sde, shape, first, None, *ends)
