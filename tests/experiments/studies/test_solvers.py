import csv
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import samplers
from configs import points
from experiments import build
from experiments.studies import benchmark_solvers
from sde_lib import GaussianMixture

GAUSSIAN = GaussianMixture((1.0,), ((0.3, -0.2),), 0.7)
N = 4000


def make_config():
    config = points.get_config("mixture")
    config.eval.num_samples = N
    return config


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The study of three samplers on a Gaussian: the rows of its table, its folder."""
    workdir = tmp_path_factory.mktemp("study")
    chosen = {name: samplers.SAMPLERS[name] for name in ("euler", "euler_ancestral", "heun")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark_solvers, "MIXTURE", GAUSSIAN)
        patch.setattr(benchmark_solvers, "BUDGETS", (16, 32))
        patch.setattr(samplers, "SAMPLERS", chosen)
        benchmark_solvers.run(make_config(), workdir)
    with (workdir / "solvers.csv").open() as file:
        rows = {(row["sampler"], int(row["nfe"])): row for row in csv.DictReader(file)}
    return rows, workdir


def grid(n):
    sde = build.make_sde(make_config())
    high, low = (float(sde.noise_level(t)) for t in (sde.t_max, sde.t_min))
    return np.linspace(high ** (1 / 7), low ** (1 / 7), n) ** 7


def shrink(level, then):
    """What a step of Euler's multiplies y less its mean by."""
    return 1 + (then - level) * level / (GAUSSIAN.std**2 + level**2)


@pytest.mark.parametrize("n", [16, 32])
def test_endpoint_error_is_the_closed_form(study, n):
    levels = np.append(grid(n), 0.0)
    euler = np.prod(shrink(levels[:-1], levels[1:]))
    first, last = levels[0], levels[-2]
    exact = np.sqrt((GAUSSIAN.std**2 + last**2) / (GAUSSIAN.std**2 + first**2)) * shrink(last, 0)
    sde = build.make_sde(make_config())
    x = np.asarray(sde.prior_sample(jax.random.key(make_config().seed), (N, 2)), np.float64)
    centred = x / float(sde.alpha(sde.t_max)) - GAUSSIAN.mean
    error = np.sqrt(np.mean(((euler - exact) * centred) ** 2))
    assert float(study[0]["euler", n]["endpoint"]) == pytest.approx(error, rel=2e-3)


def test_errors_fall_by_the_orders_of_the_samplers(study):
    error = {key: float(row["endpoint"]) for key, row in study[0].items() if row["endpoint"]}
    assert set(error) == {("euler", 16), ("euler", 32), ("heun", 15), ("heun", 31)}
    assert 1.8 < error["euler", 16] / error["euler", 32] < 2.4
    assert error["heun", 15] / error["heun", 31] > 4  # not yet 2^2


def test_covariance_error_of_a_sampler_with_noise_is_the_closed_form(study):
    for n in (16, 32):
        levels = grid(n)
        variance = levels[0] ** 2
        for level, then in itertools.pairwise(levels):
            up = then * np.sqrt(1 - (then / level) ** 2)
            variance = shrink(level, np.sqrt(then**2 - up**2)) ** 2 * variance + up**2
        variance *= shrink(levels[-1], 0) ** 2
        row = study[0]["euler_ancestral", n]
        assert row["endpoint"] == ""
        exact = abs(variance / GAUSSIAN.std**2 - 1)
        assert float(row["covariance"]) == pytest.approx(exact, abs=4 * np.sqrt(2 / N))


def test_the_plot_tells_what_it_is_of(study):
    with Image.open(study[1] / "solvers.png") as image:
        assert "by their exact score, under VP" in image.info["Parameters"]


def test_errors_of_known_distributions():
    x = np.random.RandomState(1).randn(2000, 3) * [1, 2, 3]
    truth = benchmark_solvers.Truth.of(np.concatenate([x, x, x]), 2000)
    np.testing.assert_allclose(truth.errors(x)[::2], 0, atol=1e-12)
    shift = np.array([0.3, 0.0, 0.4])
    mean, covariance, distance = truth.errors(x + shift)
    assert mean == pytest.approx(0.5 / np.sqrt(np.sum(np.var(x, axis=0))), rel=1e-3)
    assert covariance < 1e-3  # 6,000 samples are counted as such
    assert distance == pytest.approx(np.mean(np.abs(shift @ truth.directions)))
    centred = x - x.mean(axis=0)
    truth = benchmark_solvers.Truth.of(centred, 2000)
    mean, covariance, distance = truth.errors(1.1 * centred)
    assert mean < 1e-12
    assert covariance == pytest.approx(0.21)
    assert distance == pytest.approx(0.1 * np.mean(np.abs(centred @ truth.directions)))


@pytest.mark.parametrize("name", ["dpm_fast", "euler_maruyama", "heun", "predictor_corrector"])
def test_samplers_get_the_steps_that_a_budget_allows(name):
    sde = build.make_sde(make_config())
    create = lambda n: samplers.create(name, n_steps=n)  # noqa: E731
    for budget in (45, 50):
        chosen: Any = benchmark_solvers.longest(create, sde, budget)
        counts = [benchmark_solvers.evaluations(create(n), sde) for n in range(22, 52)]
        assert benchmark_solvers.evaluations(chosen, sde) == max(n for n in counts if n <= budget)


def test_every_sampler_has_settings_and_what_has_none_is_told(monkeypatch, capsys):
    monkeypatch.setattr(benchmark_solvers, "BUDGETS", (9,))
    left_out = {"annealed_langevin", "predictor_corrector", "symmetric_splitting"}
    sde = build.make_sde(make_config())
    for name in samplers.SAMPLERS:
        settings = list(benchmark_solvers.settings_of(name, sde))
        assert all(isinstance(sampler, samplers.SAMPLERS[name]) for _, sampler in settings)
        assert bool(settings) == (name not in left_out)
    told = capsys.readouterr().out.splitlines()
    assert sorted(line.split()[1] for line in told) == sorted(left_out)


def test_best_is_the_least_error_within_a_budget():
    result = benchmark_solvers.Result
    truth = benchmark_solvers.Truth.of(np.random.RandomState(0).randn(10, 2), 10)
    reference = benchmark_solvers.Reference(truth, {}, 1e-6, (0.1, 0.1, 0.01))
    results = [
        result("a", 5, 0.3, 0.0, 0.0, 0.0),
        result("b", 9, 0.4, 0.0, 0.0, 0.0),
        result("b", 20, 0.1, 0.0, 0.0, 0.0),
        result("c", 6, None, 0.0, 0.0, 0.2),
    ]
    lines = list(benchmark_solvers.best(benchmark_solvers.curves(reference, results)))
    assert [line.split(": ")[1] for line in lines if "within" in line] == [
        *("a (5), 3.00e-01", "a (5), 3.00e-01", "b (20), 1.00e-01"),
        *("b (20), 1.00e-01",) * 2,
        *("c (6), 2.00e-01",) * 4,
    ]


def test_a_run_is_studied_by_its_model(tmp_path, monkeypatch):
    class Network:
        def apply(self, variables, x, labels, **_):
            return variables["params"] * x  # the noise

    (tmp_path / "checkpoints").mkdir()
    monkeypatch.setattr(benchmark_solvers.state, "load", lambda *_: (Network(), 2.0, 7))
    problem = benchmark_solvers.make_problem(make_config(), tmp_path)
    assert "after 7 steps" in problem.about
    assert problem.exact is None
    sde, x, t = build.make_sde(make_config()), np.ones((4, 2)), np.full(4, 0.5)
    score = jax.jit(lambda x, t: problem.score_fn(problem.params, jnp.arange(4))(x, t))(x, t)
    np.testing.assert_allclose(score, -2.0 * x / sde.sigma(0.5), rtol=1e-6)


def test_without_a_run_or_a_mixture_it_says_so(tmp_path):
    with pytest.raises(ValueError, match="train first"):
        benchmark_solvers.run(points.get_config("moons"), tmp_path)
