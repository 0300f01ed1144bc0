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

import samplers
from configs import points
from experiments.build.components import sampling
from experiments.commands.request import Request
from experiments.pipeline import draw
from experiments.runs import files
from experiments.studies import solvers, subject
from experiments.studies.statistics import Truth
from models import NoiseModel, Preconditioning
from sde_lib import VP, GaussianMixture

SDE = VP()
GAUSSIAN = GaussianMixture((1.0,), ((0.3, -0.2),), 0.7)
N = 4000
ENDINGS = ("", "_seconds", "_distances", "_images")


def make_config(names=(), budgets=(16, 32)):
    config = points.get_config("mixture")
    config.benchmark_solvers.update(solvers=names, nfe=budgets)
    config.eval.num_samples = N
    config.sampling.method = "euler"
    return config


@dataclasses.dataclass(frozen=True)
class Jump:
    """eta times the model's estimate of x_0 at t_max: a sampler that is not ours."""

    n_steps: int = 1
    eta: float = 1.0

    def __call__(self, key, sde, score_fn, shape, first_index=0, n_frames=0, start=None):
        x = sde.prior_sample(key, shape, first_index) if start is None else start.x
        t = jnp.full(shape[0], sde.t_max)
        x0 = (x + sde.sigma(sde.t_max) ** 2 * score_fn(x, t)) / sde.alpha(sde.t_max)
        return samplers.Samples(self.eta * x0, self.n_steps, jnp.zeros((0, *shape)))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The study of four samplers on a Gaussian: the rows of its table, its folder."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(samplers.SAMPLERS, "jump", Jump)
        names = ("euler", "euler_ancestral", "heun", "jump")
        patch.setattr(subject, "MIXTURE", GAUSSIAN)
        solvers.run(Request(make_config(names), folder))
    with (folder / "solvers_0_seed42.csv").open() as file:
        rows = {(row["sampler"], int(row["nfe"])): row for row in csv.DictReader(file)}
    return rows, folder


def grid(n):
    high, low = (float(SDE.noise_level(t)) for t in (SDE.t_max, SDE.t_min))
    return np.linspace(high ** (1 / 7), low ** (1 / 7), n) ** 7


def shrink(level, then):
    """What a step of Euler's multiplies y less its mean by."""
    return 1 + (then - level) * level / (GAUSSIAN.std**2 + level**2)


@pytest.mark.thorough
@pytest.mark.parametrize("n", [16, 32])
def test_endpoint_error_is_the_closed_form(study, n):
    levels = np.append(grid(n), 0.0)
    euler = np.prod(shrink(levels[:-1], levels[1:]))
    first, last = levels[0], levels[-2]
    exact = np.sqrt((GAUSSIAN.std**2 + last**2) / (GAUSSIAN.std**2 + first**2)) * shrink(last, 0)
    x = np.asarray(SDE.prior_sample(jax.random.key(make_config().seed), (N, 2)), np.float64)
    centred = x / float(SDE.alpha(SDE.t_max)) - GAUSSIAN.mean
    error = np.sqrt(np.mean(((euler - exact) * centred) ** 2))
    assert float(study[0]["euler", n]["endpoint"]) == pytest.approx(error, rel=2e-3)


@pytest.mark.thorough
def test_errors_fall_by_the_orders_of_the_samplers(study):
    rows = {key: row for key, row in study[0].items() if key[0] != "jump"}
    error = {key: float(row["endpoint"]) for key, row in rows.items() if row["endpoint"]}
    assert set(error) == {("euler", 16), ("euler", 32), ("heun", 15), ("heun", 31)}
    assert 1.8 < error["euler", 16] / error["euler", 32] < 2.4
    assert error["heun", 15] / error["heun", 31] > 4  # not yet 2^2


@pytest.mark.thorough
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


def test_the_plot_says_what_was_sampled(study):
    with Image.open(study[1] / "solvers_0_seed42.png") as image:
        assert "by their exact score, under VP" in image.info["Parameters"]


def test_errors_of_known_distributions():
    x = np.random.RandomState(1).randn(2000, 3) * [1, 2, 3]
    truth = Truth.of(np.concatenate([x, x, x]), 2000)
    np.testing.assert_allclose(truth.errors(x)[::2], 0, atol=1e-12)
    shift = np.array([0.3, 0.0, 0.4])
    mean, covariance, distance = truth.errors(x + shift)
    assert mean == pytest.approx(0.5 / np.sqrt(np.sum(np.var(x, axis=0))), rel=1e-3)
    assert covariance < 1e-3  # 6,000 samples are counted as such
    assert distance == pytest.approx(np.mean(np.abs(shift @ truth.directions)))
    centred = x - x.mean(axis=0)
    truth = Truth.of(centred, 2000)
    mean, covariance, distance = truth.errors(1.1 * centred)
    assert mean < 1e-12
    assert covariance == pytest.approx(0.21)
    assert distance == pytest.approx(0.1 * np.mean(np.abs(centred @ truth.directions)))


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "least", "budgets"),
    [
        ("dpm_fast", 5, (11, 15)),
        ("euler_maruyama", 5, (11, 15)),
        ("heun", 5, (11, 15)),
        ("predictor_corrector", 22, (45, 50)),  # VP's chain takes more than 20 steps
    ],
)
def test_samplers_get_the_steps_that_a_budget_allows(name, least, budgets):
    create = lambda n: samplers.create(name, n_steps=n)  # noqa: E731
    counts = [subject.evaluations(create(n), SDE) for n in range(least, least + 12)]
    for budget in budgets:
        chosen: Any = solvers.longest(create, SDE, budget)
        assert subject.evaluations(chosen, SDE) == max(n for n in counts if n <= budget)


@pytest.mark.thorough
def test_every_sampler_has_settings_and_those_without_any_are_named(capsys):
    left_out = {"annealed_langevin", "predictor_corrector", "symmetric_splitting"}
    for name in samplers.SAMPLERS.keys() - set(samplers.FEW_STEPS):
        settings = list(solvers.settings_of(name, SDE, (9,)))
        assert all(isinstance(sampler, samplers.SAMPLERS[name]) for _, sampler in settings)
        assert bool(settings) == (name not in left_out)
    told = capsys.readouterr().out.splitlines()
    assert sorted(line.split()[1] for line in told) == sorted(left_out)


def test_best_is_the_least_error_within_a_budget():
    result = solvers.Result
    truth = Truth.of(np.random.RandomState(0).randn(10, 2), 10)
    reference = solvers.Reference(truth, {}, 1e-6, (0.1, 0.1, 0.01))
    results = [
        result("a", 5, 0.3, 0.0, 0.0, 0.0),
        result("b", 9, 0.4, 0.0, 0.0, 0.0),
        result("b", 20, 0.1, 0.0, 0.0, 0.0),
        result("c", 6, None, 0.0, 0.0, 0.2),
    ]
    lines = list(solvers.best(solvers.curves(reference, results), (5, 10, 20, 50)))
    assert [line.split(": ")[1] for line in lines if "within" in line] == [
        *("a (5), 3.00e-01", "a (5), 3.00e-01", "b (20), 1.00e-01", "b (20), 1.00e-01"),
        *("c (6), 2.00e-01",) * 3,
    ]


def test_a_run_is_studied_by_its_model(tmp_path, monkeypatch):
    class Network:
        def apply(self, variables, x, labels, **_):
            return variables["params"] * x  # the noise

    network: Any = Network()
    model = NoiseModel(network, Preconditioning(SDE, inputs="points"))
    trained = subject.exact(make_config()).model.replace(model=model, params=2.0, step=7)
    (tmp_path / "checkpoints").mkdir()
    monkeypatch.setattr(subject, "unguided", lambda request: trained)
    made = subject.subject(Request(make_config(), tmp_path))
    assert "after 7 steps" in made.about
    assert made.exact is None
    one_step = samplers.create("euler", n_steps=1)
    drawn = solvers.draw(made.model, one_step, 4, 42)
    z = SDE.prior_sample(jax.random.key(42), (4, 2))
    x0 = z * (1 - 2 * SDE.sigma(1.0)) / SDE.alpha(1.0)
    np.testing.assert_allclose(drawn.x, x0, rtol=1e-5)


@pytest.mark.thorough
def test_a_sampler_that_fails_takes_no_other_along(tmp_path, monkeypatch, capsys):
    """The table has the others; the message at the end names it, and it is tried once."""
    tried = []

    def draw(model, sampler, n, seed):
        tried.append(sampler)
        if isinstance(sampler, Jump):
            raise RuntimeError("no room\nHLO")
        return solvers.Drawn(np.random.RandomState(len(tried)).randn(n, 2), 16, False)

    monkeypatch.setattr(subject, "MIXTURE", GAUSSIAN)
    monkeypatch.setitem(samplers.SAMPLERS, "jump", Jump)
    monkeypatch.setattr(solvers, "draw", draw)
    with pytest.raises(ValueError, match=r"1 samplers have failed.*: jump: RuntimeError: no room$"):
        solvers.run(Request(make_config(("jump", "euler")), tmp_path))
    assert sum(isinstance(sampler, Jump) for sampler in tried) == 1
    with (tmp_path / "solvers_0_seed42.csv").open() as file:
        assert {row["sampler"] for row in csv.DictReader(file)} == {"euler"}
    assert str(tmp_path / "solvers_0_seed42.csv") in capsys.readouterr().out


@pytest.mark.thorough
def test_a_run_s_samplers_have_speed_quality_diversity_and_images(digits_run, monkeypatch, capsys):
    loose = samplers.ProbabilityFlow(rtol=0.1, atol=0.1)
    monkeypatch.setattr(solvers, "FINE", loose)
    monkeypatch.setattr(solvers, "LOOSER", loose)
    config = digits_run.config.copy_and_resolve_references()
    config.benchmark_solvers.update(solvers=("euler", "heun"), nfe=(5, 3))
    solvers.run(Request(config, digits_run.folder))
    path = digits_run.folder / "solvers_4_seed42.csv"
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["sampler"], row["nfe"]) for row in rows] == [
        *(("euler", "3"), ("euler", "5"), ("heun", "3"), ("heun", "5")),
    ]
    assert all(float(row["seconds"]) > 0 and float(row["frechet"]) > 0 for row in rows)
    assert all(0 <= float(row["recall"]) <= 1 for row in rows)
    saved = files.read_lines(path.with_suffix(".jsonl"))
    assert [{name: str(value) for name, value in row.items()} for row in saved] == rows
    lines = capsys.readouterr().out.splitlines()
    made = "solvers_4_seed42.jsonl", *(f"solvers_4_seed42{k}.png" for k in ENDINGS)
    assert [Path(line).name for line in lines[-len(made) :]] == list(made)
    at = lines.index("samples from the same starts: the nearest sampler, RMS distance")
    assert lines[at + 1].startswith("  euler (5): heun, ")
    with Image.open(lines[-1]) as image:
        assert image.size[0] / image.size[1] == pytest.approx(1, rel=0.2)


def test_the_nearest_sampler_is_the_one_with_the_same_samples():
    x = np.random.RandomState(0).randn(4, 2)
    noisy, early = solvers.Drawn(x, 9, noisy=True), solvers.Drawn(x + 9, 5, noisy=False)
    drawn = {name: solvers.Drawn(x + k, 9, noisy=False) for k, name in enumerate("abd")}
    found = {(name, 9): each for name, each in drawn.items()} | {("a", 5): early, ("n", 9): noisy}
    last = solvers.final(found)
    assert list(last) == ["a", "b", "d", "n"]
    matrix = solvers.distances(last)
    np.testing.assert_allclose(matrix, abs(np.subtract.outer([0, 1, 2, 0], [0, 1, 2, 0])))
    assert list(solvers.agreement(last, matrix))[1:] == [
        *("  a (9): b, 1.00e+00", "  b (9): a, 1.00e+00", "  d (9): b, 1.00e+00"),
    ]


def test_quality_and_diversity_are_plotted_over_the_seconds():
    errors = 0.3, 0.0, 0.0, 0.0
    results = [
        solvers.Result("a", 9, *errors, seconds=0.2, frechet=0.1, recall=0.8),
        solvers.Result("a", 5, *errors, seconds=0.1, frechet=0.4, recall=0.5),
        solvers.Result("b", 5, *errors, seconds=0.3, frechet=0.3, recall=0.6),
    ]
    distance, recall = solvers.trilemma(results)
    assert distance.curves == {"a": [(0.1, 0.4), (0.2, 0.1)], "b": [(0.3, 0.3)]}
    assert recall.curves == {"a": [(0.1, 0.5), (0.2, 0.8)], "b": [(0.3, 0.6)]}


def test_without_a_run_or_a_mixture_the_error_says_so(tmp_path):
    with pytest.raises(ValueError, match="train first"):
        solvers.run(Request(points.get_config("moons"), tmp_path))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("eval.num_samples", 1, "config.eval.num_samples is 1: it must be at least 2"),
        ("benchmark_solvers.solvers", ("hean",), "solvers 'hean' is unknown: did you mean 'heun'"),
        ("benchmark_solvers.nfe", (), "config.benchmark_solvers.nfe is empty: give one or more"),
        ("benchmark_solvers.nfe", (0, 5), "config.benchmark_solvers.nfe is 0: it must be at least"),
        ("guidance.epsilon_scaling.scale", 1.1, "scale guides samples: leave it out of mode bench"),
        ("guidance.discriminator.run", "x", "run guides samples: leave it out of mode bench"),
    ],
)
def test_impossible_studies_are_refused(tmp_path, field, value, message):
    config = make_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ValueError, match=message):
        solvers.run(Request(config, tmp_path))


def test_a_sampler_is_added_by_one_line(study, monkeypatch):
    """Modes sample and benchmark_solvers know it, with its options; other samplers lack these."""
    row = study[0]["jump", 16]
    assert float(row["endpoint"]) == pytest.approx(GAUSSIAN.std, rel=0.05)  # all at the mean
    monkeypatch.setitem(samplers.SAMPLERS, "jump", Jump)
    config = make_config()
    config.sampling.update(method="jump", n_steps=3, eta=0.5)
    assert sampling.sampler(config) == Jump(3, 0.5)
    x = draw.make_draw(subject.exact(config).model, 4)(0).x
    whole = subject.exact(config).model.replace(sampler=Jump(3))
    np.testing.assert_allclose(draw.make_draw(whole, 4)(0).x, 2 * x)
    config.sampling.method = "euler"
    with pytest.raises(ValueError, match=r"sampling.eta is 0.5.* choose one with it .*'jump'"):
        sampling.sampler(config)
