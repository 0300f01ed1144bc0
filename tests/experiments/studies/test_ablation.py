"""Data are N(0, 0.7^2); the model's noise is 1.05 times that of N(0.3, 0.7^2)."""

import contextlib
import csv
import dataclasses
import io
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import Gaussian
from PIL import Image

from configs import points
from experiments.build.components import sampling
from experiments.commands.request import Request
from experiments.data.dataset import Dataset
from experiments.data.scaling import Scaling
from experiments.evaluation import reference
from experiments.evaluation.quality import Moments, frechet_distance
from experiments.pipeline import draw
from experiments.pipeline.guidance import Discriminator, EpsilonScaling
from experiments.runs import files
from experiments.studies import ablation, ablation_report, subject
from experiments.studies.discriminator.sets import Setting, make_draw
from experiments.studies.statistics import Mean
from experiments.studies.subject import Corrections
from models import NoiseModel, Preconditioning
from sde_lib import VP

DATA, MODEL, SDE = Gaussian(mean=0.0), Gaussian(), VP()
FACTOR = 1.05
NFE = 31
SETS = 1 + 3 + 2 + 6 + 4 * 2  # of a solver


class Network:
    def apply(self, variables, x, labels, **_):  # labels are sigma
        alpha2 = 1 - labels**2
        variance = (alpha2 * MODEL.std**2 + labels**2)[:, None]
        noise = labels[:, None] * (x - (jnp.sqrt(alpha2) * MODEL.mean)[:, None]) / variance
        return variables["params"] * noise


NETWORK: Any = Network()


def log_ratio(weight, x, t):
    """The logarithm of the ratio of DATA to MODEL."""

    def log_prob(gaussian):
        mean, std = gaussian.marginal(SDE, t)
        return -0.5 * jnp.sum((x - mean[:, None]) ** 2, axis=1) / std**2

    return weight * (log_prob(DATA) - log_prob(MODEL))


def make_config():
    config = points.get_config("mixture")
    config.sampling.batch_size = 640
    config.guidance.discriminator.run = "here"
    config.guidance.discriminator.weight_2nd_order = 1.0
    options = config.ablate
    options.nfe, options.n_samples, options.n_seeds = (NFE,), 1000, 2
    options.scales, options.weights = (1.02, 1.1, FACTOR), (0.5, 1.0)
    return config


POINTS = np.asarray(DATA.sample(jax.random.key(7), (2000, 2)))


def pipeline(solver="heun"):
    config = make_config()
    return subject.exact(config).model.replace(
        model=NoiseModel(NETWORK, Preconditioning(SDE, inputs="points")),
        params=jnp.float32(FACTOR),
        dataset=lambda: Dataset(POINTS, POINTS[:100], None),
        sampler=sampling.solver(config, solver, NFE),
        step=7,
    )


@pytest.fixture(scope="module", autouse=True)
def data_moments():
    """In place of a run, that model and the exact discriminator; the figures are cheap."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "unguided", lambda request: pipeline())
        discriminator = log_ratio, jnp.ones(())
        patch.setattr(subject.guidance, "load_discriminator", lambda *_: discriminator)
        patch.setattr(reference, "KERNEL_SUBSET", 50)
        yield Moments.of(POINTS)


class Study(NamedTuple):
    text: str
    rows: list[dict[str, str]]


def study(config, folder):
    with contextlib.redirect_stdout(io.StringIO()) as text:
        ablation.run(Request(config, folder))
    with next(folder.glob("ablation_*_seed*.csv")).open() as file:
        return Study(text.getvalue(), list(csv.DictReader(file)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return study(make_config(), tmp_path_factory.mktemp("whole"))


def by_arm(rows, solver, role="report"):
    arms = {}
    for row in rows:
        if row["solver"] == solver and row["role"] == role:
            arms.setdefault(row["arm"], []).append(row)
    return arms


def endpoints(solver, b, seed):
    """The points that the solver's steps take a set's own start to, without a discriminator."""
    high, low = (float(SDE.noise_level(t)) for t in (SDE.t_max, SDE.t_min))
    n = sampling.solver(make_config(), solver, NFE).n_levels
    levels = np.linspace(high ** (1 / 7), low ** (1 / 7), n) ** 7
    x = np.asarray(SDE.prior_sample(jax.random.key(seed), (1000, 2)), np.float64)
    y = x / float(SDE.alpha(SDE.t_max))

    def noise(y, level):
        return FACTOR / b * level * (y - MODEL.mean) / (MODEL.std**2 + level**2)

    for level, then in itertools.pairwise(levels):
        slope = noise(y, level)
        if solver == "heun":
            slope = (slope + noise(y + (then - level) * slope, then)) / 2
        y = y + (then - level) * slope
    return y - levels[-1] * noise(y, levels[-1])


@pytest.mark.thorough
def test_the_study_finds_what_is_wrong(whole, data_moments):
    text, rows = whole
    for solver in ("euler", "heun"):
        arms = by_arm(rows, solver)
        assert {float(row["b"]) for row in arms["EDM-ES"]} == {FACTOR}
        assert {float(row["b"]) for row in arms["SEDM-G++"]} == {FACTOR}
        for arm in ("EDM", "EDM-ES"):
            for row in arms[arm]:
                x = endpoints(solver, float(row["b"]), int(row["seed"]))
                expected = frechet_distance(Moments.of(x), data_moments)
                assert float(row["frechet"]) == pytest.approx(expected, rel=2e-3)
        means = {arm: np.mean([float(row["frechet"]) for row in arms[arm]]) for arm in arms}
        assert 10 * means["SEDM-G++"] < means["EDM-ES"] < means["EDM"]
        for arm, other in ablation_report.CLAIMS:
            pairs = zip(arms[arm], arms[other], strict=True)
            less = [float(a["frechet"]) - float(b["frechet"]) for a, b in pairs]
            assert f"  {arm} less {other}: {Mean.of(less)}, " in text
        seeds = {role: set() for role in ("choose", "report")}
        for row in rows:
            seeds[row["role"]].add(int(row["seed"]))
        assert seeds == {"choose": {42}, "report": {43, 44}}
        assert all(len(by_arm(rows, solver)[arm]) == 2 for arm in arms)
        choices = by_arm(rows, solver, "choose")
        assert [len(choices[arm]) for arm in arms] == [1, 3, 2, 6]
    assert {float(row["w"]) for row in by_arm(rows, "euler")["SEDM-G++"]} == {1.0}
    assert "euler 31: SEDM-G++ may be better with a larger w" in text
    assert "EDM-ES may be better" not in text
    with Image.open(text.splitlines()[-1]) as image:
        assert "Generated" in image.info["Description"]


@pytest.mark.thorough
def test_a_study_that_was_stopped_continues_and_measures_nothing_twice(
    whole, tmp_path, monkeypatch
):
    config = make_config()
    config.ablate.solvers = ("euler",)
    features, write, measured = reference.sampled_features, files.write_arrays, []

    def counted(*arguments, **options):
        measured.append(arguments)
        return features(*arguments, **options)

    def dying(path, **arrays):
        write(path, **arrays)
        if "ablation" in str(path) and len(measured) % 7 == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(reference, "sampled_features", counted)
    monkeypatch.setattr(files, "write_arrays", dying)
    for _ in range(SETS // 7):
        with pytest.raises(KeyboardInterrupt):
            study(config, tmp_path)
    rows = study(config, tmp_path).rows
    assert rows == [row for row in whole.rows if row["solver"] == "euler"]
    assert len(measured) == SETS
    monkeypatch.setattr(files, "write_arrays", write)
    config.ablate.n_seeds, config.ablate.scales = 3, (FACTOR,)
    study(config, tmp_path)
    assert len(measured) == SETS + 4
    config.guidance.discriminator.run = ""
    config.guidance.discriminator.weight_2nd_order = None
    text, rows = study(config, tmp_path)
    assert set(by_arm(rows, "euler")) == {"EDM", "EDM-ES"}
    assert "EDM-G++ and SEDM-G++ are left out" in text
    assert len(measured) == SETS + 4


@pytest.mark.thorough
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_without_weight_and_scale_samples_are_those_of_mode_sample(solver):
    model = pipeline(solver)
    x = make_draw(model, Corrections(), 64)(Setting(0.0, 1.0), model.seed, 64)
    plain = draw.make_draw(model, 64)(64)
    assert int(plain.nfe) == NFE
    np.testing.assert_array_equal(x, plain.x)


@pytest.mark.thorough
@pytest.mark.parametrize("scaled_last", [False, True])
def test_one_program_draws_the_samples_of_mode_sample_with_these_numbers(scaled_last):
    traced, model = [], pipeline()

    def counted(*arguments):
        traced.append(arguments)
        return log_ratio(*arguments)

    guide = Discriminator(counted, jnp.ones(()), weight=0.7, weight_2nd_order=1.0)
    corrections = Corrections(guide, scaled_last)
    drawn = make_draw(model, corrections, 64)
    others = [
        drawn(Setting(*numbers), model.seed, 0) for numbers in ((0.0, 1.0), (0.7, 1.0), (0.0, 1.02))
    ]
    n = len(traced)
    x = drawn(Setting(0.7, 1.02, 0.002, 0.05), model.seed, 0)
    assert len(traced) == n > 0
    assert all(np.abs(x - other).max() > 1e-3 for other in others)
    guides = (EpsilonScaling(1.02, slope=0.05, step_slope=0.002), guide)
    guided = model.replace(guides=guides[::-1] if scaled_last else guides)
    np.testing.assert_allclose(x, draw.make_draw(guided, 64)(0).x, atol=1e-5)


def distance_of(setting, seed, n):
    """A distance that is least at w = 2, b = 1.1 and a slope of 0.01; more samples change it."""
    away = abs(setting.w - 2) + abs(setting.b - 1.1) + abs(setting.step_slope - 0.01)
    return reference.Distances(away + 0.001 * seed + 1 / n, 0.1, 0.01, 20)


def test_settings_are_chosen_by_some_samples_and_reported_by_more():
    scales, weights = (1.02, 1.1, 1.2), (1.0, 2.0, 4.0)
    options = ablation.Options(("heun",), (31,), weights, scales, 100, 2, (0.01, -0.01), (), 500)
    arms, sizes = options.arms(guided=True), []
    assert {arm: len(tried) for arm, tried in arms.items()} == {
        **{"EDM": 1, "EDM-ES": 3, "EDM-ES-k": 8, "EDM-G++": 3, "SEDM-G++": 9}
    }

    def measure(name, solver, setting, seed, n):
        sizes.append((seed, n))
        return distance_of(setting, seed, n)

    solver = sampling.solver(make_config(), "heun", 31)
    runs = list(ablation.study(arms, [("heun", solver)], range(5, 8), measure, options.sizes))
    assert set(sizes) == {(5, 100), (6, 500), (7, 500)}
    chosen = {run.arm: (run.w, run.b, run.step_slope) for run in runs if run.role == "report"}
    assert chosen["EDM-ES-k"] == (0, 1.1, 0.01)
    assert chosen["SEDM-G++"] == (2, 1.1, 0)
    assert {run.n_samples for run in runs if run.role == "report"} == {500}
    header, *lines = ablation_report.table(runs)
    assert "slope in steps" in header
    assert "slope in t" not in header
    (line,) = (line for line in lines if " EDM-ES-k " in line)
    least = min(run.frechet for run in runs if run.arm == "EDM-ES-k" and run.role == "report")
    assert f"{least:.4g}  " in line
    assert any("EDM-ES-k less EDM-ES: " in line for line in ablation_report.verdicts(runs))
    ends = list(ablation_report.open_ends(runs))
    assert ends == ["heun 31: EDM-ES-k may be better with a larger slope in steps"]
    curves = ablation_report.grid_panels(runs)["heun, NFE 31"].curves
    assert "w = 0, slope in steps 0.01" in curves


@pytest.mark.thorough
def test_the_arm_of_the_time_shift_chooses_a_window_of_the_solver():
    options = ablation.Options(
        ("euler",), (31,), (1.0,), (1.02,), 100, 2, windows=(0.1, 0.2), cutoffs=(0.3, 0.5)
    )
    arms = options.arms(guided=False)
    pairs = [(setting.window, setting.cutoff) for setting in arms["EDM-TS"]]
    assert pairs == [(0.1, 0.3), (0.1, 0.5), (0.2, 0.3), (0.2, 0.5)]
    model, solver = pipeline("euler"), sampling.solver(make_config(), "euler", NFE)
    ablation.check_shift(options, [solver])
    with pytest.raises(ValueError, match="LMS has no time shift: leave it out, or take 'euler'"):
        ablation.check_shift(options, [sampling.solver(make_config(), "lms", NFE)])
    x = make_draw(model, Corrections(), 64)(Setting(0.0, 1.0, window=0.2, cutoff=0.3), 5, 0)
    shifting: Any = dataclasses.replace(solver, **{"shift_window": 0.2, "shift_cutoff": 0.3})
    shifted, plain = (
        draw.make_draw(model.replace(sampler=each, seed=5), 64)(0).x for each in (shifting, solver)
    )
    np.testing.assert_allclose(x, shifted, atol=1e-5)
    assert np.abs(x - plain).max() > 1e-3

    def measure(name, solver, setting, seed, n):
        return reference.Distances(1 + setting.window - setting.cutoff, 0.1, 0.01, 20)

    runs = list(ablation.study(arms, [("euler", solver)], range(3), measure, options.sizes))
    chosen = {run.arm: (run.window, run.cutoff) for run in runs if run.role == "report"}
    assert chosen["EDM-TS"] == (0.1, 0.5)
    assert any("EDM-TS less EDM: " in line for line in ablation_report.verdicts(runs))
    assert {"window", "cutoff"} <= set(next(ablation_report.table(runs)).split())


def test_the_arm_of_input_perturbation_is_the_model_of_another_run(tmp_path, monkeypatch):
    config, theirs = make_config(), make_config()
    config.ablate.input_perturbation = str(tmp_path)
    monkeypatch.setattr(ablation.related, "config", lambda *_: theirs)
    request = Request(config, tmp_path / "ours")
    with pytest.raises(ValueError, match="was trained without it: give a run with"):
        ablation.perturbed(request, tmp_path)
    theirs.objective.input_perturbation = 0.1
    asked = []
    monkeypatch.setattr(ablation.subjects, "unguided", asked.append)
    ablation.perturbed(request, tmp_path)
    assert (asked[0].folder, asked[0].config.objective.input_perturbation) == (tmp_path, 0.1)

    class Measured:
        def measure(self, name, solver, setting, seed, n):
            return setting

    options = ablation.Options(("euler",), (31,), (1.0,), (1.02,), 100, 2, input_perturbation="run")
    (setting,) = options.arms(guided=False)["EDM-IP"]
    about: Any = pipeline(), Corrections(), None, None, tmp_path
    sets, other = ablation.Sets(*about), Measured()
    sets.perturbed = other  # pyright: ignore[reportAttributeAccessIssue]
    solver = sampling.solver(make_config(), "euler", NFE)
    assert sets.measure("euler", solver, setting, 0, 9) == ablation.Setting(0.0, 1.0)


def test_arms_without_slopes_and_sets_of_one_size():
    plain = ablation.Options(("heun",), (31,), (1.0,), (1.02,), 100, 2)
    assert "EDM-ES-k" not in plain.arms(guided=True)
    assert plain.sizes == {"choose": 100, "report": 100}
    both = dataclasses.replace(plain, slopes=(0.1,), step_slopes=(0.2,)).arms(guided=False)
    slopes = [setting[1:4] for setting in both["EDM-ES-k"]]
    assert slopes == [(1.0, 0.2, 0.0), (1.0, 0.0, 0.1), (1.02, 0.2, 0.0), (1.02, 0.0, 0.1)]


@pytest.mark.parametrize("shape", [(8, 8, 1), (2,)])
def test_arms_are_shown_side_by_side_from_one_noise(tmp_path, shape):
    asked = []

    class Drawn:
        scaling, can_be_shown = Scaling(256 if len(shape) == 3 else None, True, False), True

        def samples(self, solver, setting, seed, n):
            asked.append((setting.w, seed, n))
            return np.zeros((n, *shape), "f4")

    def run(arm, w, seed):
        return ablation_report.Run("heun", 31, arm, w, 1.0, "report", seed, 1.0, 0.0, 0.0)

    runs = [run(arm, w, seed) for arm, w in (("EDM", 0.0), ("EDM-G++", 2.0)) for seed in (43, 44)]
    solvers = [("heun", sampling.solver(make_config(), "heun", 31))]
    about = {"Parameters": "{}"}
    sets: Any = Drawn()
    (path,) = ablation.show(sets, runs, solvers, 3, tmp_path / "ablation_7", about)
    assert path.name == "ablation_7_heun_31.png"
    assert asked == [(0.0, 43, 3), (2.0, 43, 3)]
    with Image.open(path) as image:
        assert image.width > 50
    assert not list(ablation.show(sets, runs, solvers, 0, tmp_path / "ablation_7", about))


def test_verdicts_name_the_best_and_the_doubt():
    def run(arm, seed, frechet):
        return ablation_report.Run("heun", 13, arm, 0.0, 1.0, "report", seed, frechet, 0.0, 0.0)

    plain = [run("EDM", 43, 1.0), run("EDM", 44, 3.0), run("EDM", 45, 2.0)]
    change = np.array([-0.2, -0.1, -0.1])  # its mean is 4 standard errors, of which t allows 4.3

    def verdicts(change):
        pairs = zip(plain, change, strict=True)
        return list(
            ablation_report.verdicts(
                [*plain, *(run("EDM-ES", p.seed, p.frechet + c) for p, c in pairs)]
            )
        )

    order, doubtful, test = verdicts(change)
    assert order == "heun 13: EDM-ES 1.867 < EDM 2"
    assert doubtful == "  EDM-ES less EDM: -0.133 +- 0.033, cannot be told"
    assert "a paired t test of 3 seeds at 5%" in test
    assert verdicts(change - 0.02)[1].endswith("EDM: -0.153 +- 0.033, better")
    assert verdicts(0.02 - change)[1].endswith("EDM: 0.153 +- 0.033, worse")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("ablate.solvers", ("eular",), "did you mean 'euler'"),
        ("ablate.solvers", ("probability_flow",), "solver 'probability_flow' is unknown"),
        ("ablate.nfe", (14,), "heun makes 13 network evaluations in 7 steps and 15 in one more"),
        ("ablate.nfe", (1,), "nfe is 1: it must be at least 2"),
        ("ablate.weights", (), "config.ablate.weights is empty"),
        ("ablate.weights", (1.0, -0.5), "config.ablate.weights is -0.5: it must be positive"),
        ("ablate.weights", (float("nan"),), "config.ablate.weights is nan"),
        ("ablate.scales", (), "config.ablate.scales is empty"),
        ("ablate.scales", (0.0,), "config.ablate.scales is 0.0: it must be positive"),
        ("ablate.n_samples", 10, "config.ablate.n_samples is 10: it must be at least 20"),
        ("ablate.n_report", 10, "config.ablate.n_report is 10: it must be at least 20"),
        ("ablate.n_shown", -1, "config.ablate.n_shown is -1: it must be at least 0"),
        ("ablate.slopes", (float("inf"),), "config.ablate.slopes is inf"),
        ("ablate.step_slopes", (float("nan"),), "config.ablate.step_slopes is nan"),
        ("ablate.step_slopes", (-0.1,), r"epsilon_scaling: scale \+ 31 step_slope is -2.1"),
        ("ablate.slopes", (-2.0,), r"epsilon_scaling: scale \+ 1 slope is -1"),
        ("guidance.epsilon_scaling.step_slope", 0.1, "no arm has config.guidance.epsilon_scaling"),
        ("ablate.n_seeds", 1, "config.ablate.n_seeds is 1: it must be at least 2"),
        ("guidance.time_shift.window", 0.1, "no arm has config.guidance.time_shift.window = 0.1"),
        ("sampling.eta", 1.0, "'euler' has no such option"),
        ("ablate.solvers", ("dpm_solver",), "dpm_solver does not tell the first evaluation"),
    ],
)
def test_impossible_studies_are_refused(tmp_path, field, value, message):
    config = make_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ValueError, match=message):
        ablation.run(Request(config, tmp_path))
