from typing import Any

import numpy as np
import pytest
from tiny_configs import changed

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


def vp_config():
    """VP of digits by score_sde's conventions, with its sampler."""
    return changed(
        digits.get_config("vp_score_sde"),
        {"sampling.method": "predictor_corrector", "sampling.n_steps": 300},
    )


@pytest.mark.parametrize("module", [digits, points])
def test_every_config_builds(module):
    kinds = {"classifier": "Classifier", "edm_classifier": "Classifier"}
    kinds |= {"lsgm": "JointModel", "indm": "JointModel"}
    kinds |= {"consistency": "Consistency", "meanflow": "MeanFlow"}
    for variant in module.VARIANTS:
        if variant != "discriminator":  # which needs samples of another run
            made = tasks.task(module.get_config(variant))
            assert type(made).__name__ == kinds.get(variant, "ScoreModel")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("training.sde", "vpsd", "did you mean 'vpsde'"),
        ("sampling.method", "predictor_corector", "did you mean 'predictor_corrector'"),
        ("sampling.predictor", "reverse", "predictor 'reverse' is unknown"),
        ("sampling.n_steps", 15, "more than 20 steps"),
        ("model.beta_max", 0.05, "needs 0 < beta_min < beta_max"),
        ("model.ema_rate", 1.0, "must be in"),
        ("model.ema_halflife", -1.0, "ema_halflife is -1.0: it must be 0 or more"),
        ("model.ema_rampup", -0.1, "ema_rampup is -0.1, which does nothing without config.model.e"),
        ("objective.input_perturbation", -0.1, "perturbation is -0.1: it must be at least 0"),
        ("model.label_dropout", 1.5, "label_dropout is 1.5: it must be a probability"),
        ("model.label_dropout", 0.1, "needs config.model.class_conditional=True"),
        ("model.label_confidence", True, "needs config.model.class_conditional=True"),
        ("data.confidence", "folder", "needs config.model.label_confidence=True"),
        ("data.augment", -0.1, "data.augment is -0.1: it must be a probability"),
        ("data.augment", 0.1, "augment_dim is 0: config.data.augment has 9 labels"),
        ("noise_density.name", "lognormal", "did you mean 'log_normal'"),
        ("noise_density.name", "log_normal", "a noise density of its own"),
        ("noise_density.std", 0.5, "'uniform' has no such option"),
        ("weighting.name", "min-snr", "did you mean 'min_snr'"),
        ("weighting.name", "edm", "a weighting of its own"),
        ("weighting.bias", 1.0, "'variance' has no such option"),
        ("optim.lr", 0.0, "must be positive"),
        ("optim.optimizer", "SGD", "'SGD' is unknown"),
        ("optim.schedule", "inverse", "did you mean 'inverse_sqrt'"),
        ("optim.decay_start", 100, "'constant' has no such option"),
        ("training.batch_size", 0, "config.training.batch_size is 0"),
        ("training.continuous", False, "leave it out at n_levels"),
        ("eval.probe", "gausian", "did you mean 'gaussian'"),
        ("eval.rtol", 0.0, "config.eval.rtol is 0.0"),
        ("eval.n_repeats", 0, "config.eval.n_repeats is 0"),
        ("model.scale_by_sigma", True, "VE's convention"),
        ("model.name", "ncsnv2_64", "knows discrete levels only"),
        ("training.sde", "cosin", "did you mean 'cosine'"),
        ("training.sde", "edm", "cannot tell sigmas apart"),
        ("model.text", "bites", "did you mean 'bytes'"),
        ("model.parametrization", "epsilom", "did you mean 'epsilon'"),
        ("model.sigma_data", 0.0, "config.model.sigma_data is 0.0"),
        ("objective.name", "sliced_rv", "did you mean 'sliced_vr'"),
        ("objective.soft_truncation", -1.0, "soft_truncation is -1.0"),
        ("objective.n_projections", 2, "'denoising' has no such option"),
        ("model.learned_schedule", True, "here they are 'denoising' and 'vpsde'"),
        ("objective.name", "vdn", "did you mean 'vdm'"),
        ("objective.name", "vdm", "set config.data.uniform_dequantization=False"),
        ("data.dataset", "digit", "did you mean 'digits'"),
    ],
)
def test_impossible_values_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        tasks.task(changed(vp_config(), {field: value}))
