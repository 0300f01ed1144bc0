import dataclasses
import json
import re
import time

import jax
import pytest

from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import measure
from experiments.benchmark.presets import PRESETS, Preset
from experiments.benchmark.subject import Subject
from experiments.runs import progress
from experiments.training.options import Training

TINY = {
    "model.nf": 16,
    "model.num_res_blocks": 1,
    "training.batch_size": 8,
    "training.log_freq": 2,
    "training.snapshot_freq_for_preemption": 3,
    "eval.rtol": 0.1,
    "eval.atol": 0.1,
}
MOONS = Subject("points", "moons", tuple(TINY.items()))
PRESET = Preset(
    subjects=(MOONS,),
    sampled=((MOONS, ("heun",)),),
    networks=(MOONS,),
    guided=MOONS,
    critic=MOONS,
    started=MOONS,
    peer=MOONS,
    train_steps=4,
    save_every=2,
    n_samples=8,
    n_steps=25,
    matrix=64,
    convolution=(2, 8, 4),
)


def make_report(folder, only):
    path = folder / "report.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "cpu", PRESET)
        benchmark.main([f"--output={path}", "--repeats=1", f"--only={only}"])
    return json.loads(path.read_text())


def by_name(report):
    return {(figure["kind"], figure["name"]): figure for figure in report["figures"]}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return make_report(tmp_path_factory.mktemp("benchmark"), "train,data,sample,likelihood,network")


@pytest.fixture(scope="module")
def figures(report):
    return by_name(report)


@pytest.fixture(scope="module")
def figures_of_programs(tmp_path_factory):
    return by_name(make_report(tmp_path_factory.mktemp("programs"), "memory,profile"))


@pytest.mark.thorough
def test_the_report_says_what_was_measured(report, figures):
    assert report["preset"] == "cpu"
    assert set(report["versions"]) == {"jax", "jaxlib", "flax"}
    assert list(figures) == [
        ("train", "trainer"),
        ("train", "checkpoints"),
        ("data", "pipeline"),
        ("sample", "heun"),
        ("likelihood", "log_likelihood"),
        ("network", "call"),
        ("network", "gradient step"),
    ]
    assert {figure["subject"] for figure in report["figures"]} == {str(MOONS)}


@pytest.mark.thorough
def test_the_ratio_of_one_round_is_that_of_its_seconds(figures):
    for kind, name in figures:
        seconds = list(figures[kind, name]["seconds"].values())
        if kind != "network":
            assert figures[kind, name]["ratio"] == pytest.approx(seconds[0] / sum(seconds[1:]))


@pytest.mark.thorough
def test_samplers_are_compared_with_as_many_calls_as_they_make(figures):
    assert figures["sample", "heun"]["details"] == {"calls of network": 2 * 24 + 1}
    (calls,) = figures["likelihood", "log_likelihood"]["details"].values()
    assert calls > 6


def test_arithmetic_is_the_same_however_long_it_takes(figures):
    def work(name):
        figure = figures["network", name]
        rate = {key.removesuffix(" GFLOP/s"): value for key, value in figure["details"].items()}
        best = max(rate["product"], rate["convolution"])
        assert figure["ratio"] == pytest.approx(rate[name] / best)
        assert rate["product"] * figure["seconds"]["product"] * 1e9 == pytest.approx(2 * 64**3)
        return rate[name] * figure["seconds"][name]

    # Three products for each of the call's, and what the optimizer does to each weight.
    assert 3 < work("gradient step") / work("call") < 5


@pytest.mark.thorough
def test_memory_holds_the_input_of_the_program(figures_of_programs):
    figures = figures_of_programs
    for name in ("training", "sampling"):
        assert figures["memory", name]["ratio"] > 1
    n_params = sum(leaf.size for leaf in jax.tree.leaves(MOONS.network().params))
    # The weights, their average and two moments, for 8 images; gradients are not counted here.
    assert figures["memory", "training"]["details"]["bytes/image"] > 4 * 4 * n_params / 8


@pytest.mark.thorough
def test_a_profile_shares_the_time_out(figures_of_programs):
    figures = figures_of_programs
    for name in ("sampling", "training"):
        seconds = figures["profile", name]["seconds"]
        assert {"product", "elementwise"} <= set(seconds)
        ratio = figures["profile", name]["ratio"]
        assert ratio == pytest.approx(seconds["product"] / sum(seconds.values()))


def test_the_table_is_aligned(report, capsys):
    rows = list(benchmark.table([benchmark.Figure(**row) for row in report["figures"]]))
    assert len({len(row) for row in rows}) == 1
    assert len(rows) == 2 + len(report["figures"])
    assert set(rows[1]) == set("| -")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--preset=tpu", "invalid choice: 'tpu'"),
        ("--only=train,smaple", "unknown smaple: choose among start, memory, train"),
        ("--repeats=0", "--repeats is 0: it must be at least 1"),
        ("--output=/none/there.json", "there is no folder /none"),
        ("--pre=cpu", "unrecognized arguments"),
    ],
)
def test_a_wrong_flag_ends_with_the_right_ones(flag, message, capsys):
    with pytest.raises(SystemExit) as ended:
        benchmark.main([flag])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.thorough
def test_a_part_that_fails_is_reported_and_takes_no_other_along(tmp_path, monkeypatch, capsys):
    """symmetric_splitting is a sampler of CLD alone."""
    path = tmp_path / "report.json"
    preset = dataclasses.replace(PRESET, sampled=((MOONS, ("symmetric_splitting", "heun")),))
    monkeypatch.setitem(PRESETS, "cpu", preset)
    written = []

    def fail(part, repeats):
        written.append(json.loads(path.read_text()))
        raise RuntimeError("no room for activations\nHLO")
        yield

    monkeypatch.setitem(benchmark.FIGURES, "likelihood", fail)
    flags = f"--output={path}", "--repeats=1", "--only=sample,likelihood"
    with pytest.raises(SystemExit) as ended:
        benchmark.main(flags)
    parts = f"sample {MOONS} symmetric_splitting, likelihood {MOONS}"
    assert str(ended.value.code).startswith("error: 2 parts failed, whose errors")
    assert str(ended.value.code).endswith(parts)
    report = json.loads(path.read_text())
    assert [figure["name"] for figure in report["figures"]] == ["heun"]
    assert [(part["kind"], part["part"]) for part in report["failed"]] == [
        ("sample", f"{MOONS} symmetric_splitting"),
        ("likelihood", str(MOONS)),
    ]
    first, second = (part["error"] for part in report["failed"])
    assert "symmetric_splitting" in first
    assert second.startswith("RuntimeError: no room for activations (the traceback is in")
    assert written == [report | {"failed": report["failed"][:1]}]  # before the second failure
    assert "heun" in capsys.readouterr().out


class Slow:
    """A trainer, or bare steps, that take a little time."""

    training = Training(1, 8)

    def __init__(self, _):
        self.batches = iter(lambda: time.sleep(0.05), 1)

    def run(self, n):
        time.sleep(0.05 * n)


def test_progress_names_the_figure_and_the_run_of_how_many(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(progress, "LINES_AFTER", 0.02)
    monkeypatch.setattr(measure, "PATIENCE", 0.02)
    caplog.set_level("INFO", "experiments")
    monkeypatch.setattr(benchmark.training, "Trainer", Slow)
    monkeypatch.setattr(benchmark.training, "Bare", Slow)
    make_report(tmp_path, "data")
    lines = [line for line in caplog.messages if line.startswith(f"data {MOONS}: timing: run")]
    assert re.search(r"timing: run 1 of 2, \d+ s, time left", lines[-1])
