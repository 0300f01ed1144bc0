import json
import shutil

import numpy as np
import pytest

from configs import digits
from experiments.commands import evaluate
from experiments.commands.request import Request
from experiments.evaluation import metrics, reference
from experiments.runs import files


@pytest.fixture(autouse=True)
def few_pairs(monkeypatch):
    """Precision and recall of 200 points take milliseconds."""
    for module in (metrics, reference):
        monkeypatch.setattr(module, "PAIRED", 200)


def lines(folder):
    return files.read_lines(folder / "evaluation.jsonl")


def test_an_evaluation_cut_off_continues_and_counts_nothing_twice(points_run, monkeypatch):
    config, folder = points_run.config, points_run.folder
    config.eval.enable_bpd, config.eval.batch_size = False, 1000
    monkeypatch.setattr(reference, "SAVE_EVERY", 8)
    evaluate.run(points_run.request())
    (once,) = lines(folder)
    for path in (folder / "evaluation", folder.parent / "stats"):
        shutil.rmtree(path)
    (folder / "evaluation.jsonl").unlink()
    write, written = files.write_arrays, []

    def dying(path, **arrays):
        """Dies instead of every fifth write."""
        written.append(None if len(written) % 5 == 4 else path)
        if written[-1] is None:
            raise KeyboardInterrupt
        write(path, **arrays)

    monkeypatch.setattr(files, "write_arrays", dying)
    for _ in range(10):
        try:
            evaluate.run(points_run.request())
        except KeyboardInterrupt:
            continue
        break
    paths = [path for path in written if path]
    assert len(written) - len(paths) > 1
    parts = [path for path in paths if path.parent.name != "stats"]
    assert len(parts) == len(set(parts)) == 2 + 2 * 4  # losses, and samples with their features
    assert lines(folder) == [once]


def test_every_checkpoint_has_one_line(points_run, capsys):
    points_run.config.eval.update(checkpoints="all", enable_sampling=False, enable_bpd=False)
    for _ in range(2):
        evaluate.run(points_run.request())
    assert [line["step"] for line in lines(points_run.folder)] == [10, 20]
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(" +-")[0].rpartition(" ")[0] for line in printed] == [
        "step 10: test loss",
        "step 20: test loss",
    ] * 2
    assert printed[:2] == printed[2:]
    loss = lines(points_run.folder)[1]["test loss"]
    assert f"step 20: test loss {loss['value']:.3f} +- {loss['error']:.3f}" in printed[1]


def test_other_settings_have_a_line_of_their_own(points_run):
    options = points_run.config.eval
    options.update(enable_sampling=False, enable_bpd=False)
    for n_repeats in (1, 2, 1):
        options.n_repeats = n_repeats
        evaluate.run(points_run.request())
    assert sorted(line["eval"]["n_repeats"] for line in lines(points_run.folder)) == [1, 2]


def test_statistics_are_those_of_the_training_data(points_run, capsys):
    evaluate.run_stats(points_run.request())
    about, path = capsys.readouterr().out.strip().split(": ")
    points = points_run.request().model().dataset().train.astype(np.float64)
    assert about == f"{len(points)} of 'moons'"
    with np.load(path) as found:
        np.testing.assert_allclose(found["mean"], points.mean(axis=0), atol=1e-6)
        covariance = found["scatter"] / (len(points) - 1)
        np.testing.assert_allclose(covariance, np.cov(points.T), rtol=1e-5)
    assert json.loads((points_run.folder / "config.json").read_text())  # is as it was


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_samples", 12, "config.eval.num_samples is 12: it must be at least 20"),
        ("n_repeats", 0, "config.eval.n_repeats is 0"),
        ("checkpoints", "al", "did you mean 'all'"),
        ("metrics", ("fidd",), "config.eval.metrics 'fidd' is unknown"),
        ("bound_steps", 1, "config.eval.bound_steps is 1: it must be at least 2"),
    ],
)
def test_impossible_evaluations_are_refused(points_run, field, value, message):
    points_run.config.eval.update(enable_bpd=False, enable_loss=False, enable_bound=True)
    points_run.config.eval[field] = value
    with pytest.raises(ValueError, match=message):
        evaluate.run(points_run.request())


def test_features_that_are_missing_are_refused(tmp_path):
    config = digits.get_config()
    config.eval.features = "missing.pth"
    with pytest.raises(ValueError, match=r"missing\.pth"):
        evaluate.run(Request(config, tmp_path))
