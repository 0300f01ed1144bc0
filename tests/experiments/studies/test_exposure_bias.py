import csv
import dataclasses
import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.optimize import brentq

from configs import points
from experiments.build.components import sampling
from experiments.commands.request import Request
from experiments.pipeline.guidance import Discriminator, EpsilonScaling
from experiments.studies import exposure_bias, subject
from experiments.studies.exposure_bias import Study
from experiments.studies.exposure_norms import make_walk
from experiments.studies.statistics import Mean, fit
from experiments.studies.subject import Corrections
from samplers import guidance
from sde_lib import EDM, GaussianMixture

STD, WRONG = 0.7, 1.03
GAUSSIAN = GaussianMixture((1.0,), ((0.0, 0.0),), STD)
RAYLEIGH = np.sqrt(np.pi / 2)  # mean length of a standard normal draw in the plane
N = 1000


def make_config(**exposure_bias):
    config = points.get_config("mixture")
    config.training.sde = "edm"
    config.sampling.batch_size = 600  # two batches, the last filled up
    config.exposure_bias.update({"n_samples": N, "nfe": (13,), **exposure_bias})
    return config


class Model:
    """A model with a known score."""

    gives = "score"

    def __init__(self, score_fn):
        self.sde, self.score_fn = EDM(), lambda params, **conditions: score_fn


def make_study(score_fn, *about):
    """The study of Gaussian data by a model with this score, with further fields of Study."""
    exact = np.asarray(GAUSSIAN.sample(jax.random.key(1), N))
    model: Any = Model(score_fn)
    return Study(subject.exact(make_config()).model.replace(model=model), (exact, {}), *about)


def right(x, t):
    return GAUSSIAN.score_fn(EDM())(x, t)


def wrong(x, t):
    return WRONG * right(x, t)


def arms_of(study, name, nfe, folder):
    solver = sampling.solver(make_config(), name, nfe)
    return {arm.name: arm for arm in exposure_bias.measure(study, name, solver, folder)}


def grid(n):
    return np.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), n) ** 7


def rate(level):
    """eps / y."""
    return level / (STD**2 + level**2)


def euler_norms(n, c=1.0, b=1.0):
    """Norms of the noise of a model wrong by c along Euler's steps, over the first |y|."""
    levels, y, norms = grid(n), 1.0, []
    for level, then in zip(levels, [*levels[1:], 0.0], strict=True):
        norms.append(c * rate(level) * y)
        y += (then - level) * norms[-1] / b
    return levels, np.array(norms)


def heun_norms(n):
    levels, y, norms = grid(n), 1.0, []
    for level, then in itertools.pairwise(levels):
        first = rate(level) * y
        second = rate(then) * (y + (then - level) * first)
        norms += [first, second]
        y += (then - level) * (first + second) / 2
    return np.append(levels[:-1].repeat(2)[1:], levels[-1:].repeat(2)), [*norms, rate(0.002) * y]


def first_length():
    """The mean length of the states that sampling starts from."""
    y = EDM().prior_sample(jax.random.key(make_config().seed), (N, 2))
    return np.mean(np.linalg.norm(np.asarray(y), axis=1))


@pytest.mark.thorough
@pytest.mark.parametrize(("name", "norms_of"), [("euler", euler_norms), ("heun", heun_norms)])
def test_norms_of_gaussian_data_are_the_closed_form(tmp_path, name, norms_of):
    n = sampling.solver(make_config(), name, 13).n_steps
    levels, factors = norms_of(n)
    arms = arms_of(make_study(right, Corrections(), EpsilonScaling(1.1)), name, 13, tmp_path)
    for point, level, factor in zip(arms["EDM"].points, levels, factors, strict=True):
        assert point.noise_level == pytest.approx(level)
        assert point.norm == point.solver_norm == pytest.approx(factor * first_length(), rel=1e-4)
        true = np.sqrt(rate(level) * level)  # std of eps
        exact = factor * 80 / true
        assert abs(point.ratio - exact) < 4 * point.ratio_error + 1e-4 * exact
    assert arms["training"].gap == (0, 0)
    for point, level in zip(arms["training"].points, levels, strict=True):
        true = np.sqrt(rate(level) * level)
        assert abs(point.norm - true * RAYLEIGH) < 4 * point.norm_error
        assert point.norm_error == pytest.approx(true * np.sqrt((2 - np.pi / 2) / N), rel=0.1)
    scaled = arms["EDM-ES"]
    assert scaled.scale == (1.1, None)
    for point in scaled.points:
        assert point.solver_norm == pytest.approx(point.norm / 1.1)
    stages = [(point.step, point.evaluation) for point in scaled.points]
    assert stages[:3] == ([(0, 1), (0, 2), (1, 1)] if name == "heun" else [(0, 1), (1, 1), (2, 1)])
    assert stages[-1] == (n - 1, 1)


@pytest.mark.thorough
def test_the_fit_is_that_of_the_closed_form(tmp_path):
    def exact_gap(b):
        levels, norms = euler_norms(13, WRONG, b)
        return np.mean(np.log(80 * norms / (WRONG * np.sqrt(rate(levels) * levels))))

    scale: Any = arms_of(make_study(wrong), "euler", 13, tmp_path)["EDM-ES"].scale
    exact: Any = brentq(exact_gap, 0.9, 1.1)
    assert abs(scale.b - exact) < 3 * scale.error < 0.02
    plain = arms_of(make_study(right), "euler", 13, tmp_path / "right")["EDM-ES"].scale
    assert scale.b == pytest.approx(WRONG * plain.b, abs=0.1 * scale.error)


@pytest.mark.thorough
def test_the_fit_for_a_fine_solver_is_the_error_of_the_model(tmp_path):
    arms = arms_of(make_study(wrong), "heun", 35, tmp_path)
    scale: Any = arms["EDM-ES"].scale
    assert abs(scale.b - WRONG) < 3 * scale.error < 0.02
    assert abs(arms["EDM"].gap.value) > 5 * arms["EDM"].gap.error
    assert abs(arms["EDM-ES"].gap.value) < 0.1 * arms["EDM-ES"].gap.error


@pytest.mark.parametrize(
    "name", ["dpmpp_2m", pytest.param("euler_ancestral", marks=pytest.mark.slow)]
)
def test_the_endpoint_is_the_samplers(name):
    """The walk of solvers with a past, and with noise of their own; Heun's is below."""
    solver, first = sampling.solver(make_config(), name, 9), 5
    model = make_study(wrong).model.replace(sampler=solver)
    x, _ = make_walk(model, Corrections())(1.01, 0.1, (np.zeros((20, 2)), {}), first)
    scaled = guidance.epsilon_scaling(wrong, lambda t: 0.1 * t + 1.01)
    exact = solver(jax.random.key(model.seed), EDM(), scaled, (20, 2), first).x
    np.testing.assert_allclose(x, exact, rtol=1e-5, atol=1e-6)


@pytest.mark.thorough
@pytest.mark.parametrize("scaled_last", [False, True])
def test_a_perfect_discriminator_makes_the_trajectory_that_of_the_data(scaled_last):
    other, b = dataclasses.replace(GAUSSIAN, std=1.1), 1.1

    def log_ratio(params, x, t):
        logs = []
        for each in (GAUSSIAN, other):
            variance = each.std**2 + t**2
            logs.append(-0.5 * jnp.sum(x**2, axis=1) / variance - jnp.log(variance))
        return params * (logs[0] - logs[1])

    options: Any = {"weight_2nd_order": 1.0, "sigma_min": 1e-9, "sigma_max": 1e9}
    corrections = Corrections(Discriminator(log_ratio, 1.0, **options), scaled_last)
    solver = sampling.solver(make_config(), "heun", 9)
    model = make_study(other.score_fn(EDM())).model.replace(sampler=solver)
    x, norms = make_walk(model, corrections)(b, 0.0, (np.zeros((20, 2)), {}), 0)

    def guided(x, t):
        exact, theirs = right(x, t), other.score_fn(EDM())(x, t)
        return exact / b if scaled_last else theirs / b + exact - theirs

    key = jax.random.key(model.seed)
    np.testing.assert_allclose(x, solver(key, EDM(), guided, (20, 2)).x, rtol=1e-4, atol=1e-5)
    length = jnp.linalg.norm(EDM().prior_sample(key, (20, 2)), axis=1)
    np.testing.assert_allclose(norms["network"][:, 0], length * 80 / (1.1**2 + 80**2), rtol=1e-5)


def test_norms_are_drawn_before_and_after_guidance():
    def arm(name, norm):
        points = [
            exposure_bias.Point(0, number, 3.0 - number, norm, 0, 1, 0, norm / 2, 0)
            for number in (1, 2)
        ]
        return exposure_bias.Arm("heun", 3, name, exposure_bias.Scale(1.0), Mean(0, 0), points)

    drawn = exposure_bias.norm_panel([arm("training", 4.0), arm("EDM", 6.0), arm("EDM-G++", 8.0)])
    plain, both = {"training": [(2.0, 2.0)], "EDM": [(2.0, 3.0)]}, "EDM-G++, before guidance"
    assert drawn.curves == plain | {both: [(2.0, 8.0)], "EDM-G++": [(2.0, 4.0)]}
    assert drawn.dotted[both] == [(1.0, 8.0)]


def test_the_error_of_a_gap_is_its_spread():
    random = np.random.RandomState(0)
    own = random.chisquare(5, (400, 100, 3)) * [1, 2, 3]
    theirs = 0.5 * own + random.chisquare(3, (400, 100, 3))
    gaps = [
        exposure_bias.gap({"network": a}, {"network": b}) for a, b in zip(own, theirs, strict=True)
    ]
    values, errors = np.transpose(gaps)
    assert np.mean(values) == pytest.approx(np.mean(np.log([5 / 5.5, 10 / 8, 15 / 10.5])), abs=0.01)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.1)


def test_the_fit_of_a_known_gap():
    scale: Any = fit(lambda b: Mean(2 * (b - 1.02) + 3 * (b - 1.02) ** 2, 1e-4))
    assert scale == pytest.approx(Mean(1.02, 5e-5), rel=1e-2)
    assert abs(scale.value - 1.02) < 0.05 * scale.error
    assert fit(lambda b: Mean(0.1, 1e-4)) is None
    assert fit(lambda b: Mean(1 + 0.1 * b, 1e-4)) is None
    assert fit(lambda b: Mean(np.nan, 1e-4)) is None


@pytest.mark.thorough
def test_a_study_that_was_stopped_continues(tmp_path, capsys, monkeypatch):
    config = make_config(solvers=("euler",))
    config.sampling.batch_size = N
    request = Request(config, tmp_path)
    monkeypatch.setattr(subject, "MIXTURE", GAUSSIAN)
    left = 2

    def limited(*arguments):
        walk = make_walk(*arguments)

        def limited_walk(*arguments):
            nonlocal left
            if not left:
                raise KeyboardInterrupt
            left -= 1
            return walk(*arguments)

        return limited_walk

    monkeypatch.setattr(exposure_bias, "make_walk", limited)
    with pytest.raises(KeyboardInterrupt):
        exposure_bias.run(request)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("exposure_bias/*/*.npz")}
    assert len(kept) == 3  # of training inputs, of b = 1 and of another
    left = 10
    exposure_bias.run(request)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    printed, left = capsys.readouterr().out.splitlines()[-6:], 0
    exposure_bias.run(request)
    assert capsys.readouterr().out.splitlines() == printed

    about, _, plain, scaled, table, picture = printed
    assert Path(picture.replace(".png", "_norms.png")).exists()
    assert "their exact score, under EDM" in about
    assert plain.split()[:4] == ["euler", "13", "EDM", "1.00000"]
    rows = list(csv.DictReader(Path(table).read_text().splitlines()))
    assert [row["arm"] for row in rows[::13]] == ["training", "EDM", "EDM-ES"]
    assert scaled.split()[3] == f"{float(rows[-1]['b']):.5f}"
    with Image.open(picture) as image:
        assert "their exact score, under EDM" in image.info["Parameters"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exposure_bias.solvers": ("huen",)}, "did you mean 'heun'"),
        ({"exposure_bias.solvers": ("probability_flow",)}, "solver 'probability_flow'"),
        ({"exposure_bias.solvers": ("heun",), "exposure_bias.nfe": (12,)}, "11 .* 6 steps and 13"),
        ({"exposure_bias.nfe": (1,)}, "nfe is 1: it must be at least 2"),
        ({"exposure_bias.n_samples": 1}, "n_samples is 1: it must be at least 2"),
        ({"exposure_bias.solvers": ()}, "config.exposure_bias.solvers is empty"),
        ({"guidance.classifier.run": "x"}, "guidance.classifier.run is 'x'.* leave it at ''"),
        ({"guidance.epsilon_scaling.scale": 0.0}, "epsilon_scaling.scale is 0.0: it must be posi"),
        ({"sampling.noise_removal": False}, "leave it at None"),
    ],
)
def test_impossible_studies_are_refused_before_they_begin(tmp_path, options, message):
    config = make_config()
    config.update_from_flattened_dict(options)
    with pytest.raises(ValueError, match=message):
        exposure_bias.run(Request(config, tmp_path))


@pytest.mark.thorough
def test_without_a_run_or_a_mixture_the_error_says_so(tmp_path):
    with pytest.raises(ValueError, match="train first"):
        exposure_bias.run(Request(points.get_config("moons"), tmp_path))
