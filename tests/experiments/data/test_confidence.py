import dataclasses
from contextlib import closing

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

import models
from configs import digits
from experiments import build
from experiments.commands import train
from experiments.data import confidence, data
from experiments.pipeline import sample
from experiments.runs import workdir
from experiments.training import state
from experiments.training.checkpoint import Checkpoints


class Brightness(nn.Module):
    """A classifier whose logits are proportional to brightness, class and noise."""

    num_outputs: int = 0

    @nn.compact
    def __call__(self, x, labels, train=False):
        slope = self.param("slope", nn.initializers.ones, ())
        brightness = x.mean((1, 2, 3)) + labels
        return slope * brightness[:, None] * jnp.arange(self.num_outputs)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(models.MODELS, "brightness", Brightness)
    monkeypatch.setattr(models.registry, "CLASSIFIERS", {"brightness"})


def save_run(theirs, folder):
    workdir.claim(theirs, folder)
    with closing(Checkpoints(folder)) as checkpoints:
        checkpoints.save(1, state.init_state(theirs, models.create(theirs)))
    return str(folder)


def classifier(**changes):
    config = digits.get_config("classifier")
    config.model.name = "brightness"
    config.data.uniform_dequantization = config.data.centered = False
    config.data.update(changes)
    return config


def config(folder="", variant="vp"):
    result = digits.get_config(variant)
    result.model.class_conditional = result.model.label_confidence = True
    result.data.confidence, result.eval.batch_size = folder, 700
    return result


def test_a_classifier_s_is_its_probability_of_the_label(tmp_path):
    """Of images in its own range, [0, 1] here, at its least noise."""
    theirs = classifier()
    ours = config(save_run(theirs, tmp_path))
    build.check(ours)
    dataset = train.load_data(ours)
    least = 999 * build.make_sde(theirs).train_t_min
    for images, labels, found in (
        (dataset.train, dataset.train_labels, dataset.train_confidence),
        (dataset.test, dataset.test_labels, dataset.test_confidence),
    ):
        weights = np.exp(np.arange(10) * (images.mean((1, 2, 3)) / 16 + least)[:, None])
        expected = weights[np.arange(len(labels)), labels] / weights.sum(axis=1)
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_run_goes_on_with_the_confidences_that_it_began_with(tmp_path):
    theirs, ours = classifier(), config(save_run(classifier(), tmp_path / "theirs"))
    (tmp_path / "ours").mkdir()
    for _ in range(2):
        confidence.claim(ours, tmp_path / "ours")
    with closing(Checkpoints(tmp_path / "theirs")) as checkpoints:
        later = state.init_state(theirs, models.create(theirs))
        checkpoints.save(2, later._replace(step=later.step + 2))
    with pytest.raises(ValueError, match="with the confidences of another model than that now"):
        confidence.claim(ours, tmp_path / "ours")


def test_the_data_s_own_are_taken_or_missed():
    dataset = data.load(config())
    with pytest.raises(ValueError, match="needs a confidence of each label: give the folder"):
        confidence.load(config(), dataset)
    own = np.ones(len(dataset.train)), np.zeros(len(dataset.test))
    dataset = dataclasses.replace(dataset, train_confidence=own[0], test_confidence=own[1])
    assert confidence.load(config(), dataset) is dataset


@pytest.mark.slow
def test_a_model_tells_sure_labels_from_random_ones(tmp_path, monkeypatch):
    """Bright and dark images, half of whose labels are random and said to be so.

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
    ours.model.nf, ours.model.ch_mult, ours.model.attn_resolutions = 16, (1,), ()
    ours.training.n_iters, ours.sampling.batch_size = 400, 200
    for module, name in ((train.likelihood, "bits_per_dim"), (train.sample, "save_pictures")):
        monkeypatch.setattr(module, name, lambda *_: [])
    train.run(ours, tmp_path / "run")
    model, params, _ = state.load(ours, tmp_path / "run")

    def share_of_its_class(confidence, weight=1.0):
        ours.sampling.confidence, ours.sampling.cfg_weight = confidence, weight
        x, _ = sample.draw(ours, model, params, 200)
        return np.mean((x.mean((1, 2, 3)) > 0) == np.arange(200) % 2)

    assert share_of_its_class(1.0) > 0.95
    assert share_of_its_class(1.0, weight=2.0) > 0.95
    assert share_of_its_class(0.0) == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        (digits.get_config(), "holds the model 'ncsnpp': that is no classifier"),
        (classifier(image_size=4), "the shape of data of the classifier in .* here"),
        (classifier(num_classes=9), "the number of classes of the classifier in .* is 9, here 10"),
    ],
)
def test_a_classifier_of_other_data_is_refused(tmp_path, theirs, message):
    workdir.claim(theirs, tmp_path)
    ours = config(str(tmp_path))
    with pytest.raises(ValueError, match=message):
        confidence.load(ours, data.load(ours))
