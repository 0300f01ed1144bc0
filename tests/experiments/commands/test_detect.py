import csv

import numpy as np
import pytest
from closed_forms import Gaussian
from exact_models import pipeline

import samplers
from configs import digits, points
from experiments.commands import detect
from experiments.commands.request import Request
from experiments.data.dataset import Dataset
from experiments.evaluation import detection

N = 297


class ExactRequest(Request):
    """A request for a model of Gaussian data, whose test set are noise images."""

    def model(self, step=None):
        images = np.random.RandomState(0).randint(0, 17, (N, 8, 8, 1)).astype(np.uint8)
        gaussian = Gaussian(mean=0.1, std=0.3)
        config = digits.get_config("vp_score_sde")
        score = gaussian.score_fn(pipeline(config).sde)
        sampler = samplers.create("euler", n_steps=20)
        about = {"sampler": sampler, "folder": self.folder, "step": 7}
        return pipeline(config, score, Dataset(images, images, 17), **about)


def config(**changes):
    result = digits.get_config("vp_score_sde")
    result.detect.update({"n_images": 100, "n_steps": 5} | changes)
    return result


def test_its_samples_are_found_among_images_that_the_model_does_not_know(tmp_path, capsys):
    detect.run(ExactRequest(config(), tmp_path))
    found, table, picture = capsys.readouterr().out.splitlines()
    with open(table) as file:
        rows = list(csv.DictReader(file))
    errors = {
        name: np.array([float(row["rms"]) for row in rows if row["set"] == name])
        for name in ("test", "samples")
    }
    model = ExactRequest(config(), tmp_path).model()
    x = model.dataset().test[np.linspace(0, 296, 100).astype(int)]
    expected = detection.reconstruction_errors(model, (x, {}), 5)
    np.testing.assert_allclose(errors["test"], expected, rtol=1e-5)
    assert len(errors["samples"]) == 100
    auc = detection.auc(errors["test"], errors["samples"])
    assert found.startswith(f"AUC {auc} (step 7: 100 ")
    assert auc.value > 0.99
    name = picture.rpartition("/")[2]
    assert name.startswith("detect_7_Euler20_seed42_")
    assert name.endswith(".png")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("n_images", 1, "config.detect.n_images is 1: it must be at least 2"),
        ("n_steps", 1, "config.detect.n_steps is 1: it must be at least 2"),
        ("n_images", 298, "config.detect.n_images is 298: it must be at most 297"),
    ],
)
def test_impossible_numbers_are_refused(tmp_path, name, value, message):
    with pytest.raises(ValueError, match=message):
        detect.run(ExactRequest(config(**{name: value}), tmp_path))


class Langevin(ExactRequest):
    def model(self, step=None):
        config = points.get_config()
        config.training.sde = "cld"
        return pipeline(config)


def test_states_that_are_more_than_data_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match="does not support the SDE CLD, whose states are more than"
    ):
        detect.run(Langevin(config(), tmp_path))


def test_samples_are_drawn_once(tmp_path, monkeypatch, capsys):
    request = ExactRequest(config(), tmp_path)
    detect.run(request)
    text = capsys.readouterr().out
    monkeypatch.setattr(detect.draw, "draw_all", lambda *_: pytest.fail("drawn again"))
    detect.run(request)
    assert capsys.readouterr().out == text
