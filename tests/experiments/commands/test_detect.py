import csv
from typing import Any

import jax
import numpy as np
import pytest
from closed_forms import Gaussian
from sklearn import metrics

from configs import digits, points
from experiments import build
from experiments.commands import detect
from experiments.data import data
from experiments.training import state
from samplers import Euler
from samplers.noise_levels import levels_at

GAUSSIAN, N_STEPS = Gaussian(mean=0.1, std=0.3), 5


class ExactNetwork:
    """The network whose score under VP is that of Gaussian data, for images."""

    def __init__(self, config):
        self.sde = build.make_sde(config)

    def apply(self, variables, x, labels, train, rngs):
        t = labels / 999
        return -GAUSSIAN.score_fn(self.sde)(x, t) * self.sde.sigma(t)[:, None, None, None]


@pytest.fixture
def config(monkeypatch):
    config = digits.get_config()
    config.detect.n_images, config.detect.n_steps = 100, N_STEPS
    config.sampling.method, config.sampling.n_steps = "euler", 20
    monkeypatch.setattr(state, "load", lambda config, workdir: (ExactNetwork(config), {}, 7))
    return config


def lost(sde):
    """What a reconstruction takes off an image's distance from the mean, as a share of it."""
    low, high = levels_at(sde, [sde.t_min, sde.t_max])
    level = Euler(N_STEPS, denoise=False).levels(sde, high, low)
    slope, step = level / (level**2 + GAUSSIAN.std**2), level[:-1] - level[1:]
    return 1 - np.prod((1 + step * slope[1:]) * (1 - step * slope[:-1]))


def test_errors_are_what_the_steps_of_a_gaussian_s_flow_lose(config, tmp_path, capsys):
    """y - mean is multiplied in each step, up or down; the digits are not what the model knows."""
    detect.run(config, tmp_path)
    found, table, picture = capsys.readouterr().out.splitlines()
    with open(table) as file:
        rows = list(csv.DictReader(file))
    errors = {
        name: np.array([float(row["rms"]) for row in rows if row["set"] == name])
        for name in ("test", "samples")
    }
    dataset, sde = data.load(config), build.make_sde(config)
    x = dataset.test[np.linspace(0, 296, 100).astype(int)] / 8.0 - 1
    mean = GAUSSIAN.mean * float(sde.alpha(sde.t_min))
    distance = np.sqrt(np.mean((x - mean) ** 2, axis=(1, 2, 3)))
    assert lost(sde) > 0.1
    np.testing.assert_allclose(errors["test"], lost(sde) * distance, rtol=1e-3)
    assert len(errors["samples"]) == 100
    assert found.startswith(f"AUC {detect.auc(errors['test'], errors['samples'])} (step 7: 100 ")
    assert detect.auc(errors["test"], errors["samples"]).value > 0.99
    assert picture.endswith("samples/detect_7.png")


def test_data_of_the_model_s_own_distribution_cannot_be_told_apart(config):
    model: Any = ExactNetwork(config)
    keys = jax.random.split(jax.random.key(0))
    sets = [np.asarray(GAUSSIAN.sample(key, (300, 8, 8, 1))) for key in keys]
    errors = [detect.reconstruction_errors(config, model, {}, None, (x, {})) for x in sets]
    found = detect.auc(*errors)
    assert abs(found.value - 0.5) < 3 * found.error < 0.1


def test_the_curve_and_its_area_by_hand():
    real, samples = np.array([3.0, 1.0]), np.array([2.0, 0.0])
    np.testing.assert_array_equal(
        detect.roc(real, samples), [(0, 0), (0, 0.5), (0.5, 0.5), (0.5, 1), (1, 1)]
    )
    assert detect.auc(real, samples) == pytest.approx((0.75, np.sqrt(0.125)))
    assert detect.auc(samples, samples).value == 0.5


def test_ties_count_as_in_scikit_learn():
    random = np.random.RandomState(0)
    real, samples = random.randint(2, 12, 50) / 10, random.randint(0, 10, 70) / 10
    truth, score = np.repeat([0, 1], [50, 70]), -np.concatenate([real, samples])
    fpr, tpr, _ = metrics.roc_curve(truth, score, drop_intermediate=False)
    np.testing.assert_allclose(detect.roc(real, samples), np.transpose([fpr, tpr]))
    assert detect.auc(real, samples).value == pytest.approx(metrics.roc_auc_score(truth, score))


def test_the_standard_error_is_that_of_repetitions():
    random = np.random.RandomState(0)
    found = [detect.auc(random.randn(40) + 1, random.randn(60)) for _ in range(1000)]
    values, errors = np.transpose(found)
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(values.std(), rel=0.08)


@pytest.mark.parametrize(
    ("module", "name", "value", "message"),
    [
        (digits, "n_images", 1, "config.detect.n_images is 1: it must be at least 2"),
        (points, "n_steps", 1, "config.detect.n_steps is 1: it must be at least 2"),
        (digits, "n_images", 298, "config.detect.n_images is 298: the test set has 297 images"),
    ],
)
def test_what_cannot_be_is_refused(config, module, name, value, message, tmp_path):
    config = module.get_config()
    config.detect[name] = value
    with pytest.raises(ValueError, match=message):
        detect.run(config, tmp_path)
