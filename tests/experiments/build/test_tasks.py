from typing import Any

import numpy as np
import pytest

from configs import digits, points
from experiments.build import tasks
from experiments.build.components import optimization
from experiments.data.dataset import Dataset
from experiments.tasks.score_model import ScoreModel


def config(variant="vp_score_sde", **changes):
    result = digits.get_config(variant)
    result.update_from_flattened_dict({n.replace("__", "."): v for n, v in changes.items()})
    return result


def test_the_task_has_the_parts_that_the_config_names():
    ours = config("vdm", training__batch_size=32, sampling__n_samples=5)
    task = tasks.task(ours)
    assert isinstance(task, ScoreModel)
    assert task.schedule is not None
    assert task.history is None
    assert (task.n_classes, task.n_shown) == (0, 5)
    assert task.adam == optimization.adam(ours)
    classes = tasks.task(config(model__class_conditional=True))
    assert isinstance(classes, ScoreModel)
    assert classes.n_classes == 10


def test_a_batch_of_samples_may_be_what_fits_the_memory():
    task: Any = tasks.task(config(sampling__batch_size=0))
    assert task.model.batch_size == 0


def test_a_new_task_is_a_maker_and_a_line(monkeypatch):
    made = []
    monkeypatch.setitem(tasks.TASKS, "toy", lambda config, mesh: made.append(mesh) or "a task")
    ours = config(model__name="toy")
    assert tasks.task(ours) == "a task"
    assert made == [optimization.mesh(ours)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling__n_samples": 0}, "config.sampling.n_samples is 0: it must be at least 1"),
        ({"sampling__batch_size": -1}, "config.sampling.batch_size is -1: it must be at least 0"),
        (
            {"model__name": "wideresnet", "model__learned_schedule": True},
            "config.model.learned_schedule is of score models, not of 'wideresnet'",
        ),
        (
            {"model__name": "autoencoder", "objective__soft_truncation": 2.0},
            "config.objective.soft_truncation is of score models, not of 'autoencoder'",
        ),
        (
            {"model__name": "autoencoder", "data__autoencoder": "x"},
            "gives latents, which are not for the network 'autoencoder'",
        ),
        (
            {"model__name": "autoencoder", "autoencoder__perceptual__weight": 2.0},
            "perceptual.weight is 2.0, which does nothing without .*perceptual.run",
        ),
        (
            {"model__name": "autoencoder", "autoencoder__adversarial__start": 3},
            "adversarial.start is 3, which does nothing without .*adversarial.weight",
        ),
        (
            {"model__name": "autoencoder", "autoencoder__perceptual__run": "nowhere"},
            "perceptual.run is 'nowhere': give a file of Inception's weights, or the folder",
        ),
        (
            {"model__name": "autoencoder", "autoencoder__vq__codebook_size": 3},
            "codebook_size is 3, .* 'kl' has no such option",
        ),
        ({"model__name": "mlp"}, "does not go with 'digits', which are images"),
    ],
    ids=str,
)
def test_impossible_tasks_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tasks.task(config(**changes))


def test_points_are_not_for_networks_of_images():
    ours = points.get_config()
    ours.model.name = "wideresnet"
    with pytest.raises(ValueError, match="does not go with 'swiss_roll', which are points"):
        tasks.task(ours)


def test_a_discriminator_guides_no_training(tmp_path):
    """The mode evaluate makes the same task, and may be guided."""
    task = tasks.task(config(guidance__discriminator__run="x"))
    with pytest.raises(ValueError, match=r"guides a trained model, .* leave it out of mode train"):
        task.prepare(Dataset(*2 * [np.zeros((1, 8, 8, 1), np.uint8)], 256), tmp_path)
