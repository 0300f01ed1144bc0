import jax
import numpy as np
import pytest
from closed_forms import Gaussian

from configs import digits
from experiments import build
from experiments.data import data
from experiments.evaluation import held_out
from experiments.training.state import TrainState

SIDE, STD = 4, 0.3


class ExactNetwork:
    """The network whose score under VP is that of N(0.1, 0.3^2) data."""

    def apply(self, variables, x, labels, train, rngs):
        sde, t = build.make_sde(digits.get_config()), labels / 999
        return -sde.sigma(t)[:, None, None, None] * Gaussian(0.1, STD).score_fn(sde)(x, t)


def test_losses_of_the_exact_score_are_the_closed_form_along_time():
    """The error of the best prediction of the noise is 1 - sigma^2 / (alpha^2 std^2 + sigma^2)."""
    config = digits.get_config()
    config.data.image_size, config.eval.batch_size = SIDE, 2000
    config.training.likelihood_weighting = config.training.importance_sampling = False
    x = Gaussian(0.1, STD).sample(jax.random.key(0), (2000, SIDE, SIDE, 1))
    images = np.clip(np.floor((np.asarray(x) + 1) * 128), 0, 255).astype(np.uint8)
    dataset = data.Dataset(images, images, 256)
    evaluation = held_out.make_evaluation(config, ExactNetwork(), dataset)  # pyright: ignore
    state = TrainState(np.zeros(()), {}, {}, ())  # pyright: ignore
    metrics = evaluation(7, state)

    sde, t = build.make_sde(config), np.linspace(1e-5, 1, 5001)[:-1]
    alpha, sigma = np.asarray(sde.alpha(t)), np.asarray(sde.sigma(t))
    error = 1 - sigma**2 / (alpha**2 * STD**2 + sigma**2)
    assert metrics.pop("eval_loss") == pytest.approx(0.5 * SIDE**2 * error.mean(), rel=0.05)
    along = dict(zip((0.2, 0.4, 0.6, 0.8, 1), error.reshape(5, -1).mean(1), strict=True))
    expected = {f"eval_error_t{edge}": mean for edge, mean in along.items()}
    assert metrics == pytest.approx(expected, rel=0.06)
    assert evaluation(8, state).items() >= metrics.items()


def test_times_that_are_not_drawn_are_left_out():
    sde = build.make_sde(digits.get_config())
    t, values = np.array([0.05, 0.15, 0.5, 1.0]), np.array([1.0, 3.0, 5.0, 7.0])
    assert held_out.along_time(sde, t, values) == {0.2: 2.0, 0.6: 5.0, 1.0: 7.0}


class Classes:
    """A network whose score under VP is that of data which is its class, if sure, over 10."""

    def apply(self, variables, x, labels, train, rngs, class_labels, confidences):
        sde, t = build.make_sde(digits.get_config()), labels / 999
        alpha, sigma, level = (
            a[:, None, None, None] for a in (sde.alpha(t), sde.sigma(t), class_labels * confidences)
        )
        return (x - alpha * level / 10) / sigma


def test_a_class_conditional_model_sees_the_classes_and_their_confidences():
    config = digits.get_config()
    config.model.class_conditional, config.model.label_dropout = True, 0.5
    config.model.label_confidence = True
    config.training.likelihood_weighting = config.training.importance_sampling = False
    config.data.uniform_dequantization = config.data.centered = False
    config.eval.batch_size = 16
    classes, sure = np.arange(16) % 10, np.arange(16) % 3 > 0
    images = np.tile((classes * sure)[:, None, None, None], (1, SIDE, SIDE, 1)).astype(np.uint8)
    dataset = data.Dataset(images, images, 11, *[classes] * 2, *[sure.astype(np.float32)] * 2)
    evaluation = held_out.make_evaluation(config, Classes(), dataset)  # pyright: ignore
    metrics = evaluation(1, TrainState(np.zeros(()), {}, {}, ()))  # pyright: ignore
    assert metrics["eval_loss"] == pytest.approx(0, abs=1e-3)
