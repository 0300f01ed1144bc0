"""Mode exposure_bias: the difference between a network's inputs in sampling and in training.

    python -m experiments.main --config=configs/digits.py:edm --mode=exposure_bias

In training, a network sees data with noise. In sampling, it sees the results of its own predictions
and of the solver's steps. Ning et al. 2023 (arXiv 2308.15321) compare the two by the L2 norm of the
predicted noise, eps = -sigma score. This study prints its means at every noise level where a solver
evaluates the network, separately for each evaluation of a step, for training inputs and along
sampling by

- EDM: the solver alone;
- EDM-ES: with epsilon scaling, the predicted noise divided by b;
- EDM-G++: with discriminator guidance, if config.guidance.discriminator.run is given;
- SEDM-G++: with both.

Sample i starts from the noise of training input i and has its class: their difference varies less
than either. Without a run, the data set "mixture" is studied by its exact score: its gaps are those
of the solver alone.

b is config.guidance.epsilon_scaling.scale or, without one, fitted for each solver and NFE: the
logarithm of the norm over training's is then 0 on average over the evaluations. b is constant but
for config.guidance.epsilon_scaling.slope: one equation, one number. The norm is the network's own,
before scaling and guidance: a network whose noise is wrong by one factor c everywhere follows the
right trajectories with b = c, and along these its own norms equal those along training inputs. A
greater b removes less noise and makes these norms greater: b < 1 where they are above training's,
though Ning et al. take b > 1 for that. Other errors, the solver's too, are corrected by b on
average only; mode ablate finds the samples nearest to the data.
"""

import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from experiments.build.fields import sections
from experiments.commands.request import Request
from experiments.pipeline.draw import batch_size, check_finite
from experiments.pipeline.guidance import EpsilonScaling
from experiments.pipeline.pipeline import Pipeline
from experiments.runs import charts, files, parts, pictures, progress
from experiments.studies import subject as subjects
from experiments.studies.exposure_norms import (
    Data,
    evaluated_levels,
    make_training,
    make_walk,
    solver_of,
)
from experiments.studies.statistics import Mean, fit, standard_error
from experiments.studies.subject import Corrections, Subject
from models.config import Config
from samplers.solver import NoiseLevelSolver
from sde_lib.checks import check_at_least

LOG = logging.getLogger(__name__)
TRAINING = "training"
ARMS = {False: ("EDM", "EDM-ES"), True: ("EDM-G++", "SEDM-G++")}  # by whether one guides
NOT_HERE = (  # config fields that no arm has
    *("sampling.noise_removal", "sampling.label", "sampling.labels", "sampling.s_churn"),
    *("guidance.classifier_free.weight", "guidance.classifier_free.negative_label"),
    *("guidance.classifier.run", "guidance.time_shift.window"),
    "guidance.epsilon_scaling.step_slope",
)
CONFIDENT = 1.96  # standard errors: a band of 95%
WIDTH = 20
HEADER = (
    f"{'solver':<{WIDTH}}{'NFE':>5}  {'arm':<10}{'b':<22}{'gap, its mean':<20}{'RMS':>8}"
    "  most, and at which sigma / alpha"
)


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of the study, config.exposure_bias.

    Attributes:
        solvers: names of solvers.
        nfe: network evaluations a sample.
        n_samples: training inputs, and as many samples.
    """

    solvers: tuple[str, ...]
    nfe: tuple[int, ...]
    n_samples: int

    def __post_init__(self):
        subjects.check_not_empty("exposure_bias", solvers=self.solvers, nfe=self.nfe)
        check_at_least(2, **{"config.exposure_bias.n_samples": self.n_samples})


class Study(NamedTuple):
    """The model and the data, which are the same for all solvers.

    Attributes:
        model: without guides.
        data: training samples [n, ...], and their conditions.
        corrections: the discriminator, if there is one, and the order.
        given: the epsilon scaling that the config gives.
    """

    model: Pipeline
    data: Data
    corrections: Corrections = Corrections()
    given: EpsilonScaling = EpsilonScaling()


class Scale(NamedTuple):
    """The scale b, and its standard error if it was fitted."""

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
    """Training inputs, or one way of sampling. The gap is the mean of log(norm / training's)."""

    solver: str
    nfe: int
    name: str
    scale: Scale
    gap: Mean
    points: list[Point]


def run(request: Request) -> None:
    """Measures every solver and NFE; prints a line for each arm, saves all points and their plot.

    Raises:
        ValueError: an unknown solver, an NFE that it cannot make, an option without effect here,
            no run, or a discriminator that does not know this model.
        FloatingPointError: samples are not finite.
    """
    config, folder = request.config, request.folder
    options, given = Options(**config.exposure_bias.to_dict()), check(config)
    solvers = subjects.solvers(config, options.solvers, options.nfe)
    subject = subjects.subject(request)
    data = training_data(subject, options.n_samples)
    study = Study(subject.model, data, subjects.corrections(config, subject.model), given)
    print(f"noise predicted by {subject.about}; {options.n_samples} samples\n{HEADER}")
    panels: list[list[Arm]] = []
    for name, solver in progress.track(solvers, "exposure bias", "solver"):
        panels.append([])
        for arm in measure(study, name, solver, folder / "exposure_bias"):
            panels[-1].append(arm)
            if arm.name != TRAINING:
                tqdm.write(line(arm))
    rows = [
        (arm.solver, arm.nfe, arm.name, *arm.scale, *point)
        for arm in itertools.chain.from_iterable(panels)
        for point in arm.points
    ]
    header = ["solver", "nfe", "arm", "b", "b_error", *Point._fields]
    stem = f"exposure_bias_{subject.model.step}_seed{config.seed}"
    print(files.write_table(folder / f"{stem}.csv", header, rows))
    about = pictures.provenance(config=config.to_dict(), seed=config.seed, samples=subject.about)
    norms = [*map(norm_panel, panels)]
    drawn = charts.save_lines(folder / f"{stem}_norms.png", norms, len(options.nfe), about)
    LOG.info("norms of the predicted noise: %s", drawn)
    path = folder / f"{stem}.png"
    print(charts.save_ratios(path, [*map(panel, panels)], len(options.nfe), about))


def check(config: Config) -> EpsilonScaling:
    """The epsilon scaling that the config gives. Raises ValueError for what no arm has."""
    if config.model.text:
        raise ValueError("config.model.text is set, but this study knows of no texts")
    for field in subjects.set_fields(config, NOT_HERE):
        raise ValueError(
            f"config.{field} is {sections.get(config, field)!r}: this study knows scaling and a "
            f"discriminator's guidance alone, leave it at {sections.get(sections.DEFAULT, field)!r}"
        )
    fields = {name: f"guidance.epsilon_scaling.{name}" for name in ("scale", "slope")}
    return EpsilonScaling(**sections.given(config, fields))


def training_data(subject: Subject, n: int) -> Data:
    """n samples spread over the training data, with the conditions of samples of their classes."""
    if subject.exact is not None:
        return subject.exact(n).astype(np.float32), {}
    subject.model.check_complete("mode exposure_bias")
    dataset = subject.model.dataset()
    rows = np.linspace(0, len(dataset.train) - 1, n).astype(int)
    labels = dataset.train_labels
    classes = np.zeros(n, int) if labels is None else labels[rows]
    return dataset.train[rows], subject.model.sample_conditions(classes)


def measure(study: Study, name: str, solver: NoiseLevelSolver, folder: Path) -> Iterator[Arm]:
    """Training inputs, and every arm, of one solver."""
    model, data = study.model.replace(sampler=solver), study.data
    study = study._replace(model=model)
    over = partial(parts.over, model.mesh, data, batch_size(model, len(data[0])))
    inputs = [model.identity(), model.sde, model.seed, data]
    over = partial(over, part=parts.Parts(folder, f"{name}-{solver.nfe}", inputs))
    training = over(make_training(model), name=TRAINING)
    arm = partial(make_arm, model, name, training)
    yield arm(TRAINING, Scale(1.0), training)
    yield from measure_arms(study, Corrections(), training, over, arm)
    if study.corrections.discriminator is not None:
        own = model, EpsilonScaling(), study.corrections.params
        inputs.append(study.corrections.applied(*own).identity())
        over = partial(over, part=parts.Parts(folder, f"{name}-{solver.nfe}", inputs))
        yield from measure_arms(study, study.corrections, training, over, arm)


def measure_arms(
    study: Study,
    corrections: Corrections,
    training: parts.Arrays,
    over: Callable[..., parts.Arrays],
    arm: Callable[..., Arm],
) -> Iterator[Arm]:
    """Without guidance or with it: b = 1, and the b that is given or fitted."""
    given, walk = study.given, make_walk(study.model, corrections)

    def along(b: float, slope: float = given.slope) -> parts.Arrays:
        def norms(batch: Data, first: int) -> dict[str, jax.Array]:
            return walk(b, slope, batch, first)[1]

        found = over(norms, name=f"b_{b!r}_{slope!r}")
        check_finite(found["solver"])
        return found

    plain, scaled = ARMS[corrections.discriminator is not None]
    yield arm(plain, Scale(1.0), along(1.0, 0.0))
    scale = Scale(given.scale)
    if given.scale == 1:
        fitted = fit(lambda b: gap(along(b), training))
        if fitted is None:
            solver = solver_of(study.model)
            about = f"{type(solver).__name__}, NFE {solver.nfe}"
            tqdm.write(f"{about}: no b near 1 closes the gap of {scaled}")
            return
        scale = Scale(*fitted)
    yield arm(scaled, scale, along(scale.b))


def gap(norms: parts.Arrays, training: parts.Arrays) -> Mean:
    """The gap of the network's norms; its error is that of the linear part (the delta method)."""
    ratio, relative = compare(norms, training)
    return Mean(float(np.mean(np.log(ratio))), float(standard_error(relative.mean(axis=1))))


def compare(norms: parts.Arrays, training: parts.Arrays) -> tuple[np.ndarray, np.ndarray]:
    """The ratio of the network's mean norms, [evaluations], and each sample's part in its log."""
    own, theirs = (np.asarray(each["network"], np.float64) for each in (norms, training))
    relative = own / own.mean(axis=0) - theirs / theirs.mean(axis=0)
    return own.mean(axis=0) / theirs.mean(axis=0), relative


def make_arm(
    model: Pipeline,
    solver_name: str,
    training: parts.Arrays,
    name: str,
    scale: Scale,
    norms: parts.Arrays,
) -> Arm:
    """The means of the norms, with their errors."""
    network, given = (np.asarray(norms[key], np.float64) for key in ("network", "solver"))
    ratio, relative = compare(norms, training)
    columns = [evaluated_levels(model), network.mean(axis=0), standard_error(network)]
    columns += [ratio, ratio * standard_error(relative)]
    columns += [given.mean(axis=0), standard_error(given)]
    solver = solver_of(model)
    points = [
        Point(k // solver.evaluations, k % solver.evaluations + 1, *row)
        for k, row in enumerate(np.column_stack(columns).tolist())
    ]
    return Arm(solver_name, solver.nfe, name, scale, gap(norms, training), points)


def line(arm: Arm) -> str:
    """A line of the table: b, the gap's mean and root mean square, and where it is largest."""
    b, error = arm.scale
    logs = np.log([point.ratio for point in arm.points])
    scale = f"{b:.5f}" + (f" +- {error:.5f}" if error else "")
    most = arm.points[np.abs(logs).argmax()]
    mean = "0, by the fit" if error else percent(arm.gap)
    rms, largest = np.sqrt(np.mean(logs**2)), percent(Mean(most.ratio - 1, most.ratio_error))
    names = f"{arm.solver:<{WIDTH}}{arm.nfe:>5}  {arm.name:<10}"
    return f"{names}{scale:<22}{mean:<20}{rms:>8.2%}  {largest} at {most.noise_level:.3g}"


def percent(mean: Mean) -> str:
    """The mean and its error in percent."""
    return f"{100 * mean.value:+.3f} +- {100 * mean.error:.3f}%"


def norm_panel(arms: Sequence[Arm]) -> charts.Lines:
    """The norms that the solver is given over the noise levels; those before guidance too.

    The later evaluations of a step are dotted.
    """
    curves, dotted = {}, {}
    for arm in arms:
        named = {arm.name: "solver_norm"}
        if arm.name in ARMS[True]:
            named = {f"{arm.name}, before guidance": "norm"} | named
        for name, field in named.items():
            for lines, first in ((curves, True), (dotted, False)):
                lines[name] = [
                    (point.noise_level, getattr(point, field))
                    for point in arm.points
                    if (point.evaluation == 1) == first
                ]
    about = f"{arms[0].solver}, NFE {arms[0].nfe}: norm of the predicted noise"
    return charts.Lines(about, "noise level", curves, {k: v for k, v in dotted.items() if v})


def panel(arms: Sequence[Arm]) -> charts.Ratios:
    """The ratios of each arm over the noise levels, by evaluation of a step."""
    curves = {}
    for arm in arms[1:]:
        for point in arm.points:
            band = point.noise_level, point.ratio, CONFIDENT * point.ratio_error
            curves.setdefault((arm.name, point.evaluation), []).append(band)
    return charts.Ratios(f"{arms[0].solver}, NFE {arms[0].nfe}", curves)
