import json
import re
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import Gaussian
from experiments.training.checkpoint import Checkpoints
from PIL import Image
from scipy import stats

import models
from configs import digits, points
from experiments import build
from experiments.commands import evaluate
from experiments.data import data
from experiments.data.sources.points import MIXTURE
from experiments.evaluation.quality import Moments
from experiments.pipeline import sample
from experiments.runs import parts, workdir
from experiments.training import state

GAUSSIAN = Gaussian(mean=0.1, std=0.3)
N = 160


class Exact(nn.Module):
    """The network whose score under VP is that of Gaussian data; `shift` stands for training."""

    @nn.compact
    def __call__(self, x, labels, train=False):
        shift = self.param("shift", nn.initializers.zeros, ())
        sde, t = build.make_sde(digits.get_config()), labels / 999
        sigma = sde.sigma(t)[:, None, None, None]
        return -sigma * GAUSSIAN.score_fn(sde)(x - shift, t)


def grey_images(n, seed):
    """Grey levels of dequantised data that is N(0.1, 0.3^2) in [-1, 1], to within a level."""
    x = np.asarray(GAUSSIAN.sample(jax.random.key(seed), (n, 8, 8, 1)))
    return np.clip(np.floor((x + 1) * 128), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def image_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for seed, part in enumerate(("train", "test")):
        (folder / part).mkdir()
        for i, image in enumerate(grey_images(N, seed)):
            Image.fromarray(image[..., 0]).save(folder / part / f"{i:04}.png")
    return folder


@pytest.fixture
def config(monkeypatch, image_files):
    monkeypatch.setitem(models.MODELS, "exact", Exact)
    config = digits.get_config()
    config.model.name = "exact"
    config.data.dataset, config.data.path = "folder", str(image_files)
    config.training.likelihood_weighting = config.training.importance_sampling = False
    config.eval.rtol = config.eval.atol = 1e-5
    config.eval.batch_size, config.eval.num_samples = 64, 100
    config.sampling.n_steps, config.sampling.batch_size = 100, 40
    return config


def trained(config, folder, steps=(5,), shift=0.0):
    """A run with checkpoints, as training leaves it."""
    workdir.claim(config, folder)
    checkpoints = Checkpoints(folder)
    model = models.create(config)
    for step in steps:
        made = state.init_state(config, model)._replace(
            step=jnp.array(step), ema_params={"shift": jnp.array(shift)}
        )
        checkpoints.save(step, made)
    checkpoints.close()
    return folder


def printed(text, what):
    return float(re.search(rf"{re.escape(what)} (-?[\d.]+)", text)[1])


@pytest.mark.slow
def test_from_image_files_to_figures(config, tmp_path, capsys):
    """bits/dim within 2e-3 of the exact entropy of the grey levels; the loss within its error."""
    config.eval.n_repeats = 2
    evaluate.run(config, trained(config, tmp_path / "run"))
    text = capsys.readouterr().out

    probabilities = np.diff(stats.norm.cdf(np.linspace(-1, 1, 257), 0.1, 0.3))
    exact = -np.log2(probabilities[grey_images(N, 1)]).mean()
    assert printed(text, "step 5: test bits/dim") == pytest.approx(exact, abs=2e-3)

    sde, t = build.make_sde(config), np.linspace(1e-5, 1, 4001)
    _, std = GAUSSIAN.marginal(sde, t)
    loss = 0.5 * 64 * np.mean(1 - np.asarray(sde.sigma(t) / std) ** 2)
    (line,) = (tmp_path / "run" / "evaluation.jsonl").read_text().splitlines()
    figure = json.loads(line)["test loss"]
    assert abs(figure["value"] - loss) < 4 * figure["error"] < 4

    # Samples of the data's distribution are no farther from the data than other data are.
    train, test = (evaluate.feature_function(config)(grey_images(N, seed))[0] for seed in (0, 1))
    fresh = evaluate.quality.frechet_distance(
        *(Moments.of(np.asarray(rows)) for rows in (train, test[:100]))
    )
    assert printed(text, "frechet_distance(random_conv_v1)") < 1.5 * fresh
    assert printed(text, "precision(random_conv_v1)") > 0.5
    assert "(samples 100, data 160, features random_conv_v1-" in text
    assert "fid" not in text


def test_an_evaluation_cut_off_goes_on_and_counts_nothing_twice(config, tmp_path, monkeypatch):
    config.eval.enable_bpd = False
    monkeypatch.setattr(evaluate, "SAVE_EVERY", 1)
    evaluate.run(config, trained(config, tmp_path / "whole" / "run"))
    folder = trained(config, tmp_path / "parts" / "run")
    save, writes = parts.save, []

    def dying(path, **arrays):
        """Dies after every second write."""
        if len(writes) % 3 == 2:
            writes.append("died")
            raise KeyboardInterrupt
        writes.append(path)
        save(path, **arrays)

    monkeypatch.setattr(parts, "save", dying)
    for _ in range(20):
        try:
            evaluate.run(config, folder)
        except KeyboardInterrupt:
            continue
        break
    written = [path for path in writes if path != "died"]
    assert len(written) < len(writes)
    assert len([path for path in written if "stats" not in str(path)]) == 3 + 3 + 3
    once, again = (
        (tmp_path / name / "run" / "evaluation.jsonl").read_text() for name in ("whole", "parts")
    )
    assert json.loads(once) == json.loads(again)


def test_every_checkpoint_has_a_line_and_keeps_one(config, tmp_path, capsys):
    config.eval.enable_sampling = config.eval.enable_bpd = False
    folder = trained(config, tmp_path / "run", steps=(5, 6))
    config.eval.checkpoints = "all"
    for _ in range(2):
        evaluate.run(config, folder)
    lines = [json.loads(line) for line in (folder / "evaluation.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 6]
    assert capsys.readouterr().out.count("step 6: test loss") == 2


def test_the_reference_holds_the_moments_of_all_training_images(config, tmp_path):
    config.eval.batch_size = 50
    fn, dataset = evaluate.feature_function(config), data.load(config)
    made = evaluate.reference(config, dataset, fn, tmp_path / "run")
    features = np.asarray(fn(grey_images(N, 0))[0], np.float64)
    np.testing.assert_allclose(made.moments.mean, features.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(made.moments.covariance, np.cov(features.T), rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(made.features, features, rtol=1e-4, atol=1e-5)


def test_other_weights_are_evaluated_anew(config, tmp_path, capsys):
    config.eval.enable_sampling = config.eval.enable_bpd = False
    folder, losses = trained(config, tmp_path / "run"), []
    for shift in (0.0, 0.5):
        shutil.rmtree(folder / "checkpoints")
        trained(config, folder, shift=shift)
        evaluate.run(config, folder)
        losses.append(printed(capsys.readouterr().out, "test loss"))
    assert losses[1] > losses[0] + 1


def test_points_are_compared_by_their_coordinates(tmp_path, monkeypatch, capsys):
    """A model of N(0.3, 0.7^2): the Frechet distance from the data is a closed form."""
    config = points.get_config("mixture")
    config.sampling.n_steps = 300
    config.eval.enable_bpd = config.eval.enable_loss = False
    config.eval.num_samples = 4000

    class ExactPoints:
        def apply(self, variables, x, labels, train, rngs):
            alpha2 = 1 - labels**2  # labels are sigma
            variance = (alpha2 * Gaussian().std ** 2 + labels**2)[:, None]
            mean = (jnp.sqrt(alpha2) * Gaussian().mean)[:, None]
            return labels[:, None] * (x - mean) / variance

    monkeypatch.setattr(evaluate, "PAIRED", 500)
    monkeypatch.setattr(state, "saved_steps", lambda folder: [3])
    monkeypatch.setattr(state, "load", lambda *_: (ExactPoints(), {}, 3))
    evaluate.run(config, tmp_path / "run")
    data_std = np.sqrt(2 + MIXTURE.std**2)  # of eight centres on a circle of radius 2
    expected = 2 * 0.3**2 + 2 * (data_std - 0.7) ** 2
    distance = printed(capsys.readouterr().out, "frechet_distance(coordinates)")
    assert distance == pytest.approx(expected, rel=0.05)


def test_samples_that_are_not_finite_are_never_kept(config, tmp_path, monkeypatch):
    config.eval.enable_bpd = config.eval.enable_loss = False

    def broken(*_, **__):
        return lambda first: sample.samplers.Samples(np.full((40, 8, 8, 1), np.nan), 1, 0)

    monkeypatch.setattr(sample, "make_draw", broken)
    folder = trained(config, tmp_path / "run")
    with pytest.raises(FloatingPointError, match="not finite"):
        evaluate.run(config, folder)
    assert not (folder / "evaluation" / "5").exists()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_samples", 12, "config.eval.num_samples is 12: it must be at least 20"),
        ("n_repeats", 0, "config.eval.n_repeats is 0"),
        ("checkpoints", "al", "did you mean 'all'"),
        ("features", "missing.pth", "missing.pth"),
    ],
)
def test_impossible_evaluations_are_refused(config, tmp_path, field, value, message):
    config.eval[field] = value
    config.eval.enable_bpd = config.eval.enable_loss = False
    with pytest.raises(ValueError, match=message):
        evaluate.run(config, trained(config, tmp_path / "run"))
