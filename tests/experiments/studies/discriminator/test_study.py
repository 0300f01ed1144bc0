"""Data are N(0, 0.7^2) in the plane, the model N((0.4, 0), 0.9^2): all gains are known."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import points
from experiments.build import restored
from experiments.commands.request import Request
from experiments.data.dataset import Dataset
from experiments.evaluation.reference import Distances
from experiments.pipeline.guidance import Discriminator
from experiments.runs import folder as folders
from experiments.studies import registry, subject
from experiments.studies.discriminator import mixtures, sets, study, training
from experiments.studies.subject import Corrections
from sde_lib import EDM, GaussianMixture, gain

DATA = GaussianMixture((1.0,), ((0.0, 0.0),), 0.7)
MODEL = GaussianMixture((1.0,), ((0.4, 0.0),), 0.9)
DIVERGENCE = 2 * np.log(0.9 / 0.7) + (2 * 0.49 + 0.16) / (2 * 0.81) - 1
POINTS = np.asarray(DATA.sample(jax.random.key(3), 4000))


def config_of(**options):
    config = points.get_config("mixture")
    config.training.sde, config.sampling.batch_size = "edm", 4000
    config.study.name = "discriminator"
    config.study.discriminator.update(options)
    return config


@pytest.mark.slow
def test_the_gains_of_mixtures_are_those_of_the_formula():
    half, whole = mixtures.gains(EDM(), (0.5, 1.0), DATA, MODEL)
    assert whole.model == pytest.approx(DIVERGENCE, abs=1e-5)
    for found in (whole.scores, whole.density, whole.flow):
        assert found == pytest.approx(DIVERGENCE, abs=1e-3)
    assert half.scores == pytest.approx(0.75 * DIVERGENCE, abs=1e-3)
    assert 0 < half.flow < half.scores < half.density < whole.density


def log_ratio(weight, x, t):
    return weight * gain.optimal_log_ratio(EDM(), DATA, MODEL)(x, t)


class Model:
    sde, preconditioning, gives = EDM(), None, "score"

    def score_fn(self, params, **conditions):
        return MODEL.score_fn(EDM())


def pipeline():
    model: Any = Model()
    exact = subject.exact(config_of()).model
    return exact.replace(model=model, dataset=lambda: Dataset(POINTS, POINTS, None), step=7)


def guide(weight):
    ends: Any = {"sigma_min": 0.002, "sigma_max": 80.0}
    return Discriminator(log_ratio, jnp.float32(weight), weight_2nd_order=1.0, **ends)


@pytest.mark.thorough
def test_the_gain_on_data_with_noise_is_that_of_the_scores():
    model = pipeline()
    data = model.test_samples(4000)
    found = training.held_out_gain(model, Corrections(guide(1.0)), data)
    assert abs(found.value - DIVERGENCE) < 4 * found.error < 0.3 * DIVERGENCE
    none = training.held_out_gain(model, Corrections(guide(0.0)), data)
    assert none == pytest.approx((0, 0), abs=1e-6)


@pytest.mark.thorough
def test_a_discriminator_sees_the_classes_of_the_data():
    """Only that of class 1 gains, and the data are of class 1."""
    model = pipeline()

    def of_classes(weight, x, t, class_labels):
        return jnp.where(class_labels == 1, log_ratio(weight, x, t), 0.0)

    own = dataclasses.replace(guide(1.0), log_ratio=of_classes, n_classes=2)
    data = (POINTS[:500], {"class_labels": np.ones(500, int)})
    model.replace(guides=())
    object.__setattr__(model, "conditional_score", lambda params, conditions: MODEL.score_fn(EDM()))
    found = training.held_out_gain(model, Corrections(own), data)
    assert found.value > 0.5 * DIVERGENCE


@pytest.mark.thorough
def test_checkpoints_are_compared(tmp_path, monkeypatch, capsys):
    """The ratio is half of the optimal one at step 10, and the optimal one at step 20."""
    config = config_of(nfe=13, n_samples=500, n_data=100)

    class Sets:
        def __init__(self, model, corrections, *about):
            self.distance = 1.0 - float(corrections.params or 0.0)

        def measure(self, name, solver, setting, seed, n):
            assert n == 500
            return Distances(self.distance, 0.1, 0.01, 20)

    config.guidance.discriminator.run = str(tmp_path / "run")
    asked = []

    def corrections(config, model):
        asked.append(config.guidance.discriminator.step)
        return Corrections(guide(asked[-1] / 20))

    monkeypatch.setattr(subject, "unguided", lambda request: pipeline())
    monkeypatch.setattr(subject, "corrections", corrections)
    monkeypatch.setattr(sets, "Sets", Sets)
    monkeypatch.setattr(subject, "features", lambda request, model: ())
    monkeypatch.setattr(restored, "steps", lambda *_: [10, 20])
    monkeypatch.setattr(folders, "has_run", lambda folder: True)
    registry.run(Request(config, tmp_path))
    assert asked == [10, 20]
    rows = [json.loads(row) for row in (tmp_path / "discriminator_7_seed42.jsonl").open()]
    assert [row["step"] for row in rows] == [0, 10, 20]
    assert [row["frechet"] for row in rows] == [1.0, 0.5, 0.0]
    assert rows[0]["gain"] == 0 < rows[1]["gain"] < rows[2]["gain"]
    assert capsys.readouterr().out.splitlines()[-1].endswith(".png")
    config.study.discriminator.steps = (15,)
    with pytest.raises(ValueError, match=r"steps has 15, and the discriminator in .* \[10, 20\]"):
        registry.run(Request(config, tmp_path))
    config.guidance.discriminator.run = ""
    with pytest.raises(ValueError, match=r"discriminator.run is empty: give the folder"):
        registry.run(Request(config, tmp_path))


def test_the_study_of_mixtures_saves_a_table(tmp_path, monkeypatch, capsys):
    row = mixtures.Gain(1.0, 0.5, 0.5, 0.5, 0.5)
    monkeypatch.setattr(mixtures, "gains", lambda sde, weights: [row])
    registry.run(Request(config_of(), tmp_path))
    assert capsys.readouterr().out.splitlines()[-1].endswith("discriminator_mixtures.md")


@pytest.mark.thorough
def test_an_sde_without_a_noise_level_is_refused(tmp_path):
    config = config_of()
    config.training.sde = "cld"
    with pytest.raises(ValueError, match="CLD has no noise level"):
        registry.run(Request(config, tmp_path))
    config.study.name = "one_step"
    with pytest.raises(ValueError, match="noise level"):
        registry.run(Request(config, tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": ()}, r"config.study.discriminator.weights is empty"),
        ({"weights": (-1.0,)}, r"study.discriminator.weights is -1.0: it must be"),
        ({"n_samples": 10}, r"study.discriminator.n_samples is 10: it must be at least 20"),
        ({"n_data": 1}, r"study.discriminator.n_data is 1: it must be at least 20"),
    ],
)
def test_impossible_options_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        study.run(Request(config_of(**options), tmp_path))
