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

from configs import digits, points
from experiments import build
from experiments.studies import benchmark_solvers, exposure_bias
from experiments.studies.exposure_bias import Gap, Scale, Study
from samplers import guidance
from sde_lib import EDM, GaussianMixture

STD, WRONG = 0.7, 1.03
GAUSSIAN = GaussianMixture((1.0,), ((0.0, 0.0),), STD)
RAYLEIGH = np.sqrt(np.pi / 2)  # mean length of a standard normal draw in the plane
N = 1000


def make_config(**sampling):
    config = points.get_config("mixture")
    config.training.sde = "edm"
    config.sampling.batch_size = 600  # two batches, the last filled up
    config.exposure_bias.n_samples = N
    config.exposure_bias.nfe = (13,)
    config.sampling.update(sampling)
    return config


def make_study(score_fn=None, **sampling):
    """Of Gaussian data, and a model with this score in place of theirs."""
    score_fn, config = score_fn or GAUSSIAN.score_fn(EDM()), make_config(**sampling)
    exact = np.asarray(GAUSSIAN.sample(jax.random.key(1), N))
    problem = benchmark_solvers.Problem(config, EDM(), "it", lambda *_: score_fn, {}, None)
    return Study(problem, (exact, np.zeros(N, int)))


def wrong(x, t):
    return WRONG * GAUSSIAN.score_fn(EDM())(x, t)


def arms_of(study, name, nfe, folder):
    solver = build.make_solver(study.problem.config, name, nfe)
    return {arm.name: arm for arm in exposure_bias.measure(study, name, solver, folder)}


def grid(n):
    return np.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), n) ** 7


def rate(level):
    """eps / y."""
    return level / (STD**2 + level**2)


def euler_norms(n, c=1.0, b=1.0):
    """Of the noise that a model wrong by c predicts along Euler's steps, over |y| at first."""
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


@pytest.mark.parametrize(("name", "norms_of"), [("euler", euler_norms), ("heun", heun_norms)])
def test_norms_of_gaussian_data_are_the_closed_form(tmp_path, name, norms_of):
    n = build.make_solver(make_config(), name, 13).n_steps
    levels, factors = norms_of(n)
    arms = arms_of(make_study(eps_scale=1.1), name, 13, tmp_path)
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


def test_the_fit_is_that_of_the_closed_form(tmp_path):
    def exact_gap(b):
        levels, norms = euler_norms(13, WRONG, b)
        return np.mean(np.log(80 * norms / (WRONG * np.sqrt(rate(levels) * levels))))

    scale: Any = arms_of(make_study(wrong), "euler", 13, tmp_path)["EDM-ES"].scale
    exact: Any = brentq(exact_gap, 0.9, 1.1)
    assert abs(scale.b - exact) < 3 * scale.error < 0.02
    right = arms_of(make_study(), "euler", 13, tmp_path / "right")["EDM-ES"].scale
    assert scale.b == pytest.approx(WRONG * right.b, abs=0.1 * scale.error)


def test_of_a_fine_solver_the_fit_finds_by_how_much_the_model_is_wrong(tmp_path):
    arms = arms_of(make_study(wrong), "heun", 35, tmp_path)
    scale: Any = arms["EDM-ES"].scale
    assert abs(scale.b - WRONG) < 3 * scale.error < 0.02
    assert abs(arms["EDM"].gap.value) > 5 * arms["EDM"].gap.error
    assert abs(arms["EDM-ES"].gap.value) < 0.1 * arms["EDM-ES"].gap.error


@pytest.mark.parametrize(
    "name", ["dpmpp_2m", pytest.param("euler_ancestral", marks=pytest.mark.slow)]
)
def test_the_endpoint_is_the_samplers(name):
    """Of solvers with a past, and with noise of their own; of Heun's, see below."""
    study, first = make_study(wrong), 5
    config = study.problem.config
    solver = build.make_solver(config, name, 9)
    x, _ = exposure_bias.make_walk(study, solver, False)(1.01, 0.1, jnp.zeros(20, int), first)
    scaled = guidance.epsilon_scaling(wrong, lambda t: 0.1 * t + 1.01)
    exact = solver(jax.random.key(config.seed), EDM(), scaled, (20, 2), first).x
    np.testing.assert_allclose(x, exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("eps_scale_guided", [False, True])
def test_a_perfect_discriminator_makes_the_trajectory_that_of_the_data(eps_scale_guided):
    model, b = dataclasses.replace(GAUSSIAN, std=1.1), 1.1

    def log_ratio(params, x, t):
        logs = []
        for each in (GAUSSIAN, model):
            variance = each.std**2 + t**2
            logs.append(-0.5 * jnp.sum(x**2, axis=1) / variance - jnp.log(variance))
        return params * (logs[0] - logs[1])

    study = make_study(
        model.score_fn(EDM()),
        eps_scale_guided=eps_scale_guided,
        dg_weight_2nd_order=1.0,
        dg_sigma_min=1e-9,
        dg_sigma_max=1e9,
    )
    study = study._replace(log_ratio=log_ratio, discriminator_params=1.0)
    solver = build.make_solver(study.problem.config, "heun", 9)
    x, norms = exposure_bias.make_walk(study, solver, True)(b, 0.0, jnp.zeros(20, int), 0)

    def guided(x, t):
        exact, theirs = GAUSSIAN.score_fn(EDM())(x, t), model.score_fn(EDM())(x, t)
        return exact / b if eps_scale_guided else theirs / b + exact - theirs

    key = jax.random.key(study.problem.config.seed)
    np.testing.assert_allclose(x, solver(key, EDM(), guided, (20, 2)).x, rtol=1e-4, atol=1e-5)
    length = jnp.linalg.norm(EDM().prior_sample(key, (20, 2)), axis=1)
    np.testing.assert_allclose(norms["network"][:, 0], length * 80 / (1.1**2 + 80**2), rtol=1e-5)


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
    scale: Any = exposure_bias.fit(lambda b: Gap(2 * (b - 1.02) + 3 * (b - 1.02) ** 2, 1e-4))
    assert scale == pytest.approx(Scale(1.02, 5e-5), rel=1e-2)
    assert abs(scale.b - 1.02) < 0.05 * scale.error
    assert exposure_bias.fit(lambda b: Gap(0.1, 1e-4)) is None
    assert exposure_bias.fit(lambda b: Gap(1 + 0.1 * b, 1e-4)) is None
    assert exposure_bias.fit(lambda b: Gap(np.nan, 1e-4)) is None


def test_a_study_that_is_stopped_goes_on(tmp_path, capsys, monkeypatch):
    config = make_config(batch_size=N)
    config.exposure_bias.solvers = ("euler",)
    monkeypatch.setattr(benchmark_solvers, "MIXTURE", GAUSSIAN)
    make_walk, left = exposure_bias.make_walk, 2

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
        exposure_bias.run(config, tmp_path)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("exposure_bias/*/*.npz")}
    assert len(kept) == 3  # of training inputs, of b = 1 and of another
    left = 10
    exposure_bias.run(config, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    printed, left = capsys.readouterr().out.splitlines()[-6:], 0
    exposure_bias.run(config, tmp_path)
    assert capsys.readouterr().out.splitlines() == printed

    about, _, plain, scaled, table, picture = printed
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
        ({"sampling.classifier": "x"}, "sampling.classifier is 'x'.* leave it at ''"),
        ({"sampling.noise_removal": False}, "leave it at True"),
    ],
)
def test_what_the_study_cannot_do_is_said_before_it_begins(tmp_path, options, message):
    config = make_config()
    config.update_from_flattened_dict(options)
    with pytest.raises(ValueError, match=message):
        exposure_bias.run(config, tmp_path)


def test_without_a_run_or_a_mixture_it_says_so(tmp_path):
    with pytest.raises(ValueError, match="train first"):
        exposure_bias.run(digits.get_config(), tmp_path)
