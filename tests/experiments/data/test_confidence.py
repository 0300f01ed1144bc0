import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import saved_runs

from configs import digits
from experiments.build import data, pipelines, restored, tasks
from experiments.build.components import diffusion
from experiments.build.fields import configs
from experiments.commands import train
from experiments.commands.request import Request
from experiments.data import confidence
from experiments.data.dataset import Dataset, DataSpec
from experiments.data.load import load
from experiments.data.scaling import Scaling
from experiments.pipeline.conditions import Confidence
from experiments.runs import devices

DIGITS = load(DataSpec("digits", (8, 8, 1)))
DIGITS = Dataset(
    DIGITS.train[:100],
    DIGITS.test[:30],
    17,
    *(DIGITS.train_labels[:100], DIGITS.test_labels[:30]),  # pyright: ignore
)


def test_a_classifier_s_confidence_is_its_probability_of_the_label():
    """Of images in the classifier's own range, [0, 1] here, whatever the batch size."""

    def probabilities(x):
        return nn.softmax(3 * x.mean((1, 2, 3))[:, None] * jnp.arange(10))

    made = confidence.by_classifier(
        DIGITS, probabilities, Scaling(17, False, False), 0, devices.make_mesh(), 70
    )
    for images, labels, found in (
        (made.train, made.train_labels, made.train_confidence),
        (made.test, made.test_labels, made.test_confidence),
    ):
        weights = np.exp(3 * np.arange(10) * (images.mean((1, 2, 3)) / 16)[:, None])
        expected = weights[np.arange(len(labels)), labels] / weights.sum(axis=1)
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_training_samples_below_a_threshold_are_left_out():
    """With their labels and captions; the test data stay."""
    rated = dataclasses.replace(
        DIGITS,
        train_confidence=np.arange(100) / 100,
        test_confidence=np.zeros(30),
        train_captions=np.array([f"number {k}" for k in range(100)], dtype=object),
        train_conditions={"vector": np.arange(100)[:, None]},
    )
    kept = confidence.above(rated, 0.9)
    np.testing.assert_array_equal(kept.train, DIGITS.train[90:])
    np.testing.assert_array_equal(kept.train_labels, DIGITS.train_labels[90:])
    np.testing.assert_array_equal(kept.train_conditions["vector"][:, 0], np.arange(90, 100))
    assert list(kept.train_captions) == [f"number {k}" for k in range(90, 100)]
    assert len(kept.test) == 30
    assert kept.notes[-1].startswith("left out: 90 of 100 training samples")
    with pytest.raises(ValueError, match=r"1 of 100 training samples .* the largest is 0.99"):
        confidence.above(rated, 0.99)
    with pytest.raises(ValueError, match=r"least_confidence is 1.5"):
        confidence.above(rated, 1.5)


def test_a_config_can_filter_without_a_model_of_confidences():
    ours = config()
    ours.model.label_confidence = False
    ours.data.least_confidence = 0.5
    own = np.arange(100) / 99, np.zeros(30)
    rated = dataclasses.replace(DIGITS, train_confidence=own[0], test_confidence=own[1])
    assert len(data.dataset(ours, rated).train) == 50
    with pytest.raises(ValueError, match="least_confidence need a confidence of "):
        data.dataset(ours, DIGITS)


def test_the_data_s_own_confidences_are_taken_or_missed():
    with pytest.raises(ValueError, match="a confidence of each label or caption: give the folder"):
        confidence.check(DIGITS)
    own = np.ones(len(DIGITS.train)), np.zeros(len(DIGITS.test))
    dataset = dataclasses.replace(DIGITS, train_confidence=own[0], test_confidence=own[1])
    assert confidence.check(dataset) is dataset


def classifier(**changes):
    config = digits.get_config("classifier")
    config.model.update(nf=8, channel_multiplier=1)
    config.data.centered = config.data.uniform_dequantization = False
    config.data.update(changes)
    return config


def config(folder="", variant="vp"):
    result = digits.get_config(variant)
    result.model.update(nf=8, ch_mult=(1,), attn_resolutions=())
    result.model.class_conditional = result.model.label_confidence = True
    result.data.confidence, result.eval.batch_size = str(folder), 32
    return result


@pytest.mark.thorough
def test_a_config_with_the_run_of_a_classifier_has_its_confidences(tmp_path):
    """At the classifier's least noise. A run continues with the weights that it began with."""
    theirs, ours = classifier(), config(tmp_path / "theirs")
    params, model = saved_runs.save(theirs, tmp_path / "theirs"), restored.skeleton(theirs).model
    made = data.with_confidence(ours, DIGITS)
    x = DIGITS.test / np.float32(16)  # in the classifier's model space
    least = jnp.full(len(x), diffusion.sde(theirs).train_t_min)
    rows = jax.jit(model.outputs(params))(x, least)
    expected = nn.softmax(rows)[np.arange(len(x)), DIGITS.test_labels]
    np.testing.assert_allclose(made.test_confidence, expected, rtol=1e-4)

    for _ in range(2):
        tasks.task(ours).prepare(made, tmp_path / "ours")
    saved_runs.save(theirs, tmp_path / "theirs", steps=(2,))
    with pytest.raises(ValueError, match="with the confidences of another model than that now"):
        tasks.task(ours).prepare(made, tmp_path / "ours")


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        (digits.get_config(), "holds the model 'ncsnpp': that is no classifier"),
        (classifier(image_size=4), "the shape of data of the classifier in .* here"),
        (classifier(num_classes=9), "the number of classes of the classifier in .* is 9, here 10"),
    ],
)
def test_a_classifier_of_other_data_is_refused(tmp_path, theirs, message):
    configs.save(theirs, tmp_path)
    with pytest.raises(ValueError, match=message):
        data.with_confidence(config(tmp_path), DIGITS)


@pytest.mark.slow
def test_a_model_draws_sure_labels_and_random_ones_by_their_confidence(tmp_path):
    """Bright and dark images, half of whose labels are random and have confidence 0.

    Samples are of their class at confidence 1, guided by confidence or not, and half of them at 0.
    """
    generator = np.random.RandomState(0)
    truth, sure = generator.randint(2, size=(2, 512))
    labels = np.where(sure, truth, generator.randint(2, size=512))
    images = (60 + 120 * truth + generator.randint(20, size=512)).astype(np.uint8)
    ours = config(variant="edm")
    ours.data.update(dataset="npz", path=str(tmp_path / "data.npz"), image_size=4, num_classes=2)
    ours.data.test_fraction = 0.25
    np.savez(
        ours.data.path,
        images=np.tile(images[:, None, None, None], (1, 4, 4, 1)),
        labels=labels,
        confidence=sure,
    )
    ours.model.nf, ours.training.n_iters, ours.sampling.batch_size = 16, 400, 200
    ours.training.at_end = ()
    ours.training.snapshot_freq = ours.training.eval_freq = 400
    train.run(Request(ours, tmp_path / "run"))
    model = pipelines.trained(ours, tmp_path / "run")

    def share_of_its_class(sure, weight=1.0):
        members = tuple(
            Confidence(sure) if isinstance(member, Confidence) else member
            for member in model.conditions.members
        )
        conditions = dataclasses.replace(model.conditions, members=members)
        x = model.replace(conditions=conditions).sample(200, guidance=weight)
        return np.mean((x.mean((1, 2, 3)) > 0) == np.arange(200) % 2)

    assert share_of_its_class(1.0) > 0.95
    assert share_of_its_class(1.0, weight=2.0) > 0.95
    assert share_of_its_class(0.0) == pytest.approx(0.5, abs=0.15)
