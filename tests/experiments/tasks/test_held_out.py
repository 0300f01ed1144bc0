import jax
import numpy as np
import pytest
from closed_forms import SDES, Gaussian

import samplers
import sde_lib
from experiments.data.dataset import Dataset
from experiments.data.scaling import Scaling
from experiments.pipeline.conditions import ClassLabel, Conditions, Confidence
from experiments.pipeline.pipeline import Pipeline
from experiments.tasks import held_out
from experiments.tasks.score_model import ScoreModel
from experiments.training.optimizer import Adam
from experiments.training.state import TrainState
from models import NoiseModel, Preconditioning
from sde_lib.batch import expand

SDE, SIDE, STD, NONE = SDES["vp"], 4, 0.3, Conditions()
STATE = TrainState(np.zeros(()), {}, {}, ())  # pyright: ignore


class Exact:
    """A network that gives a score; under VP its labels are 999 t."""

    def __init__(self, score):
        self._score = score

    def apply(self, variables, x, labels, train, rngs, **conditions):
        return self._score(x, labels / 999, **conditions)


def evaluation(score, dataset, scaling, conditions=NONE):
    """The held-out evaluation of a score model on all test data."""
    model = NoiseModel(Exact(score), Preconditioning(SDE, "score"))  # pyright: ignore
    about = (SIDE, SIDE, 1), scaling, samplers.create("euler"), lambda: dataset, conditions
    pipeline = Pipeline(model, None, *about)
    loss = sde_lib.denoising_score_matching
    task = ScoreModel(pipeline, lambda params: loss, loss, Adam())
    return held_out.make_evaluation(task, dataset, pipeline.mesh, 42, len(dataset.test))


@pytest.mark.thorough
def test_losses_of_the_exact_score_are_the_closed_form_along_time():
    """The error of the best prediction of the noise is 1 - sigma^2 / (alpha^2 std^2 + sigma^2)."""
    x = Gaussian(0.1, STD).sample(jax.random.key(0), (2000, SIDE, SIDE, 1))
    images = np.clip(np.floor((np.asarray(x) + 1) * 128), 0, 255).astype(np.uint8)
    dataset = Dataset(images, images, 256)
    evaluate = evaluation(Gaussian(0.1, STD).score_fn(SDE), dataset, Scaling(256))
    metrics = evaluate(7, STATE)

    t = np.linspace(1e-5, 1, 5001)[:-1]
    alpha, sigma = np.asarray(SDE.alpha(t)), np.asarray(SDE.sigma(t))
    error = 1 - sigma**2 / (alpha**2 * STD**2 + sigma**2)
    assert metrics.pop("eval_loss") == pytest.approx(0.5 * SIDE**2 * error.mean(), rel=0.05)
    along = dict(zip((0.2, 0.4, 0.6, 0.8, 1), error.reshape(5, -1).mean(1), strict=True))
    expected = {f"eval_error_t{edge}": mean for edge, mean in along.items()}
    assert metrics == pytest.approx(expected, rel=0.06)
    assert evaluate(8, STATE).items() >= metrics.items()


def test_times_that_are_not_drawn_are_left_out():
    t, values = np.array([0.05, 0.15, 0.5, 1.0]), np.array([1.0, 3.0, 5.0, 7.0])
    assert held_out.along_time(SDE, t, values) == {0.2: 2.0, 0.6: 5.0, 1.0: 7.0}


def test_intervals_of_edm_are_those_of_vp():
    level = np.asarray(SDE.noise_level(np.array([0.1, 0.9])))
    values = np.array([1.0, 3.0])
    assert held_out.along_time(sde_lib.EDM(), level, values) == {0.2: 1.0, 1.0: 3.0}


def test_a_class_conditional_model_sees_the_classes_and_their_confidences():
    """Data that are their class, if sure, over 10; held-out classes are not dropped."""

    def score(x, t, class_labels, confidences):
        level = expand(class_labels * confidences / 10, x)
        return (expand(SDE.alpha(t), x) * level - x) / expand(SDE.sigma(t), x) ** 2

    classes, sure = np.arange(16) % 10, np.arange(16) % 3 > 0
    images = np.tile((classes * sure)[:, None, None, None], (1, SIDE, SIDE, 1)).astype(np.uint8)
    dataset = Dataset(images, images, 11, *[classes] * 2, *[sure.astype(np.float32)] * 2)
    scaling = Scaling(11, centered=False, dequantize=False)
    conditions = Conditions((ClassLabel(10), Confidence()), dropout=0.5)
    metrics = evaluation(score, dataset, scaling, conditions)(1, STATE)
    assert metrics["eval_loss"] == pytest.approx(0, abs=1e-3)
