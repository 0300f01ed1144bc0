import json
import re
import shutil

import flax.linen as nn
import jax
import numpy as np
import pytest
import saved_runs
from closed_forms import Gaussian
from exact_models import grey_images
from PIL import Image

import models
from configs import digits
from experiments.build.components import diffusion
from experiments.commands import evaluate
from experiments.commands.request import Request
from experiments.evaluation import reference
from experiments.evaluation.figure import Figure
from experiments.runs import files

GAUSSIAN, N = Gaussian(mean=0.1, std=0.3), 60
SDE = diffusion.sde(digits.get_config("vp_score_sde"))


class Exact(nn.Module):
    """The network whose score under VP is that of Gaussian data; `shift` stands for training."""

    @nn.compact
    def __call__(self, x, labels, train=False):
        shift = self.param("shift", nn.initializers.zeros, ())
        t = labels / 999
        sigma = SDE.sigma(t)[:, None, None, None]
        return -sigma * GAUSSIAN.score_fn(SDE)(x - shift, t)


@pytest.fixture(scope="module")
def image_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for seed, part in enumerate(("train", "test")):
        (folder / part).mkdir()
        images = grey_images(GAUSSIAN.sample(jax.random.key(seed), (N, 8, 8, 1)))
        for i, image in enumerate(images):
            Image.fromarray(image[..., 0]).save(folder / part / f"{i:04}.png")
    return folder


@pytest.fixture
def config(monkeypatch, image_files):
    monkeypatch.setitem(models.MODELS, "exact", Exact)
    config = digits.get_config("vp_score_sde")
    config.model.name = "exact"
    config.data.dataset, config.data.path = "folder", str(image_files)
    config.data.cache = str(image_files / ".cache")
    config.training.likelihood_weighting = config.training.importance_sampling = False
    config.eval.batch_size, config.eval.num_samples = 24, 40
    config.eval.enable_bpd = config.eval.enable_sampling = False
    config.sampling.update(method="ddim", n_steps=5, batch_size=16)
    return config


def trained(config, folder, steps=(5,), shift=0.0):
    """A run with checkpoints, as training leaves it."""
    saved_runs.save(config, folder, {"shift": np.float32(shift)}, steps)
    return folder


def run(config, folder):
    evaluate.run(Request(config, folder))


def lines(folder):
    text = (folder / "evaluation.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def printed(text, what):
    return float(re.search(rf"{re.escape(what)} (-?[\d.]+)", text)[1])


@pytest.mark.thorough
def test_figures_are_printed_and_recorded_in_the_log_and_the_card(config, tmp_path, capsys):
    config.eval.enable_bpd, config.eval.rtol = True, 0.1
    config.eval.atol, config.eval.n_repeats = 0.1, 1
    folder = trained(config, tmp_path / "run")
    run(config, folder)
    text = capsys.readouterr().out
    (line,) = lines(folder)
    assert (line["step"], line["seed"]) == (5, 42)
    for name in ("test loss", "test bits/dim"):
        assert printed(text, f"step 5: {name}") == pytest.approx(line[name]["value"], abs=1e-3)
    assert line["test bits/dim"]["about"].keys() == {"nfe"}
    assert (folder / "likelihood_5_seed42.csv").exists()


@pytest.mark.thorough
def test_data_too_few_for_sample_quality_are_refused_before_the_rest(config, tmp_path, monkeypatch):
    config.eval.enable_sampling = True
    monkeypatch.setattr(reference, "LEAST_DATA", N + 1)
    with pytest.raises(ValueError, match=f"there are {N} training samples, and sample quality"):
        run(config, trained(config, tmp_path))
    assert not (tmp_path / "evaluation").exists()


@pytest.mark.thorough
def test_a_metric_that_fails_takes_no_other_along(config, tmp_path, monkeypatch, caplog):
    """Figures are written after each metric; the first failure is raised at the end."""
    saved_runs.save(config, tmp_path)

    def fail(subject):
        assert "test loss" in files.read_lines(tmp_path / "evaluation.jsonl")[0]
        raise FloatingPointError("samples are not finite")

    monkeypatch.setitem(evaluate.METRICS, "bpd", fail)
    monkeypatch.setitem(evaluate.METRICS, "sampling", lambda subject: {"fid": Figure(3.0)})
    config.eval.enable_bpd = config.eval.enable_sampling = True
    with pytest.raises(FloatingPointError, match="samples are not finite"):
        evaluate.run(Request(config, tmp_path))
    (line,) = files.read_lines(tmp_path / "evaluation.jsonl")
    assert {"test loss", "fid"} <= line.keys()
    assert "step 1: no bpd: samples are not finite" in caplog.text


@pytest.mark.thorough
def test_an_evaluation_cut_off_goes_on_and_counts_nothing_twice(config, tmp_path, monkeypatch):
    config.eval.enable_sampling = True
    monkeypatch.setattr(reference, "SAVE_EVERY", 1)
    run(config, trained(config, tmp_path / "whole" / "run"))
    folder = trained(config, tmp_path / "parts" / "run")
    save, writes = files.write_arrays, []

    def dying(path, **arrays):
        """Dies after every second write."""
        if len(writes) % 3 == 2:
            writes.append("died")
            raise KeyboardInterrupt
        writes.append(path)
        save(path, **arrays)

    monkeypatch.setattr(files, "write_arrays", dying)
    for _ in range(20):
        try:
            run(config, folder)
        except KeyboardInterrupt:
            continue
        break
    written = [path for path in writes if path != "died"]
    assert len(written) < len(writes)
    assert len([path for path in written if "stats" not in str(path)]) == 3 + 3 + 3
    assert lines(tmp_path / "whole" / "run") == lines(folder)


@pytest.mark.thorough
def test_every_checkpoint_has_a_line_and_keeps_one(config, tmp_path, capsys):
    folder = trained(config, tmp_path / "run", steps=(5, 6))
    config.eval.checkpoints = "all"
    for _ in range(2):
        run(config, folder)
    assert [line["step"] for line in lines(folder)] == [5, 6]
    assert capsys.readouterr().out.count("step 6: test loss") == 2


@pytest.mark.thorough
def test_other_weights_are_evaluated_anew(config, tmp_path, capsys):
    folder, losses = trained(config, tmp_path / "run"), []
    for shift in (0.0, 0.5):
        shutil.rmtree(folder / "checkpoints")
        trained(config, folder, shift=shift)
        run(config, folder)
        losses.append(printed(capsys.readouterr().out, "test loss"))
    assert losses[1] > losses[0] + 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"num_samples": 12, "enable_sampling": True},
            "config.eval.num_samples is 12: it must be at least 20",
        ),
        ({"n_repeats": 0}, "config.eval.n_repeats is 0"),
        ({"checkpoints": "al"}, "did you mean 'all'"),
        ({"features": "missing.pth", "enable_sampling": True}, "missing.pth"),
        ({"metrics": ("lose",)}, "did you mean 'loss'"),
        (
            {"enable_bound": True, "bound_steps": 0},
            "config.eval.bound_steps is 0: it must be at least 2",
        ),
    ],
    ids=str,
)
def test_impossible_evaluations_are_refused(config, tmp_path, values, message):
    config.eval.update(values)
    with pytest.raises(ValueError, match=message):
        run(config, trained(config, tmp_path / "run"))


def test_statistics_of_the_data_are_made_once(config, tmp_path, capsys):
    request = Request(config, tmp_path / "run")
    evaluate.run_stats(request)
    text = capsys.readouterr().out
    assert text.startswith(f"{N} of 'folder': {tmp_path / 'stats' / 'folder-random_conv_v1'}")
    evaluate.run_stats(request)
    assert capsys.readouterr().out == text
