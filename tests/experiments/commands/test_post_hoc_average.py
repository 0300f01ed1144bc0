"""Averages whose length is chosen after training: training, resuming, evaluation, loading."""

import csv
import re
import shutil
from contextlib import closing

import jax
import numpy as np
import pytest
from tiny_configs import points_config

import experiments
from experiments.build import restored
from experiments.build.components import optimization
from experiments.commands import evaluate, likelihood, sample, train
from experiments.commands.request import Request
from experiments.pipeline import show
from experiments.runs import files
from experiments.training.averages import snapshots
from experiments.training.checkpoints import Checkpoints
from experiments.training.state import abstract_state

STEPS = 32


def power_config(lengths=(0.05, 0.1)):
    config = points_config()
    config.model.update(ema_profile="power", ema_lengths=lengths, ema_rate=0.9999)
    config.training.update(n_iters=STEPS, ema_freq=2, eval_freq=STEPS, sinks=("jsonl",))
    config.training.snapshot_freq_for_preemption = 5
    config.eval.update(enable_bpd=False, enable_sampling=False)
    config.optim.lr = 0.01
    return config


def trained(folder, config):
    train.run(Request(config, folder))
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("whole"), power_config())


@pytest.fixture
def run(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def with_lengths(*lengths):
    config = power_config()
    config.eval.ema_length = lengths
    return config


def state(folder):
    """The arrays of the last checkpoint."""
    config = power_config()
    mesh, task = optimization.mesh(config), restored.skeleton(config)
    like = abstract_state(task, config.seed, mesh, 2)
    with closing(Checkpoints(folder, read_only=True)) as checkpoints:
        return checkpoints.restore(like)


@pytest.mark.thorough
def test_a_resumed_run_has_the_same_averages_and_snapshots_bit_for_bit(whole, tmp_path):
    """Killed after step 15, with a snapshot of a later step and half of one."""
    config = power_config()
    config.training.n_iters = 15
    folder = trained(tmp_path, config)
    kept = folder / snapshots.FOLDER
    (kept / "000000016.safetensors").write_bytes(b"of a training that went on otherwise")
    (kept / "000000018.safetensors.part").write_bytes(b"half")
    trained(folder, power_config())
    jax.tree.map(np.testing.assert_array_equal, state(folder), state(whole))
    names = [path.name for path in sorted((whole / snapshots.FOLDER).iterdir())]
    assert names == [f"{step:09}.safetensors" for step in range(2, STEPS + 1, 2)]
    for name in names:
        assert (kept / name).read_bytes() == (whole / snapshots.FOLDER / name).read_bytes()


@pytest.mark.thorough
def test_an_average_of_another_length_is_that_which_training_tracks(whole, tmp_path):
    """A run with the same weights tracks the lengths that are made of snapshots here."""
    direct = trained(tmp_path, power_config((0.03, 0.075, 0.15)))
    for length in (0.03, 0.075, 0.15):
        made, exact = (experiments.load(run, ema_length=length).params for run in (whole, direct))
        jax.tree.map(lambda a, b: assert_close(a, b, 2e-3), made, exact)
    assert experiments.load(whole).ema_length is None


@pytest.mark.thorough
def test_the_lengths_of_training_are_those_of_the_checkpoint(whole):
    end = state(whole)
    for length, params in ((0.05, end.ema_params), (0.1, end.averages[0])):
        made = experiments.load(whole, ema_length=length).params
        jax.tree.map(lambda a, b: assert_close(a, b, 1e-6), made, params)


def assert_close(value, exact, tolerance):
    assert np.abs(value - exact).max() <= tolerance * np.abs(exact).max()


@pytest.mark.thorough
def test_evaluate_compares_lengths(run, capsys):
    evaluate.run(Request(with_lengths(0.03, 0.05, 0.1, 0.2), run))
    printed = capsys.readouterr().out
    losses = dict(re.findall(r"EMA length (\S+): test loss (\S+)", printed))
    assert list(losses) == ["0.03", "0.05", "0.1", "0.2"]
    best = min(losses, key=lambda length: float(losses[length]))
    assert f"best test loss: length {best}" in printed
    *_, table, chart = printed.splitlines()
    with open(table) as file:
        rows = list(csv.DictReader(file))
    assert [f"{float(row['test loss']):.3f}" for row in rows] == list(losses.values())
    assert chart == str(run / f"ema_length_{STEPS}_seed42.png")
    lines = files.read_lines(run / "evaluation.jsonl")
    assert [line["eval"]["ema_length"] for line in lines] == [[0.03], [0.05], [0.1], [0.2]]
    card = (run / "checkpoints" / str(STEPS) / "model_card.md").read_text()
    assert "test loss (EMA length 0.2)" in card


@pytest.mark.thorough
def test_the_files_of_one_length_have_their_own_names(run, capsys):
    likelihood.run(Request(with_lengths(0.2), run))
    assert str(run / f"likelihood_{STEPS}_ema0.2_seed42.csv") in capsys.readouterr().out.split()
    model = experiments.load(run, ema_length=0.2)
    assert show.stem(model, "samples").startswith(f"samples_{STEPS}_ema0.2_DPMpp3MSDE")
    assert show.settings(model)["ema_length"] == 0.2


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ((0.05, 0.001), r"is 0\.001, which 16 snapshots up to .* from 0\.0\d+ to 0\.2\d+,"),
        ((0.05, 0.3), r"ema_length is 0\.3: the length of an average is a share"),
        ((0.05, "short"), "ema_length has 'short': give numbers"),
    ],
)
def test_an_impossible_length_is_refused_before_anything_is_measured(
    whole, lengths, message, capsys
):
    with pytest.raises(ValueError, match=message):
        evaluate.run(Request(with_lengths(*lengths), whole))
    assert "test loss" not in capsys.readouterr().out


@pytest.mark.thorough
def test_a_run_without_snapshots_is_refused(points_run):
    with pytest.raises(ValueError, match="one average alone, without snapshots"):
        experiments.load(points_run.folder, ema_length=0.1)


def test_several_lengths_are_for_evaluation_alone(whole):
    with pytest.raises(ValueError, match=r"is \(0\.05, 0\.1\): give one length here"):
        sample.run(Request(with_lengths(0.05, 0.1), whole))


def test_training_refuses_a_length(whole):
    with pytest.raises(ValueError, match=r"ema_length is .* is of a trained model: leave it out"):
        trained(whole, with_lengths(0.1))
