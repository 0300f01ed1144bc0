import dataclasses
from typing import ClassVar

import numpy as np
import pytest
from exact_models import pipeline

import models
from configs import digits, points
from experiments.build import conditions


def made(**changes):
    config = digits.get_config("vp_score_sde")
    config.update_from_flattened_dict({n.replace("__", "."): v for n, v in changes.items()})
    return conditions.conditions(config)


def test_a_model_has_the_conditions_of_its_config():
    assert made().members == ()
    labels, confidence, text = made(
        model__class_conditional=True,
        model__label_confidence=True,
        model__text="bytes",
        sampling__label=3,
        sampling__confidence=0.5,
        sampling__prompt="a fox\n\nan owl",
    ).members
    assert (labels.n_classes, labels.labels, labels.negative_label) == (10, (3,), -1)
    assert confidence.confidence == 0.5
    assert text.reader.prompt == ("a fox", "an owl")
    several = made(model__class_conditional=True, sampling__labels=(4, 2)).members[0]
    assert several.labels == (4, 2)


def test_captions_can_have_confidences_and_then_guidance_needs_no_dropout():
    whole = made(model__text="bytes", model__label_confidence=True, sampling__confidence=0.7)
    assert whole.has_unconditional
    values = {"text": np.ones((2, 64), np.int32), "confidences": np.full(2, 0.7, np.float32)}
    unconditional = whole.unconditional(values)
    np.testing.assert_array_equal(unconditional["text"], values["text"])
    np.testing.assert_array_equal(unconditional["confidences"], [0, 0])
    assert not made(model__text="bytes").has_unconditional


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling__label": 3}, "sampling.label needs a model with classes"),
        (
            {"guidance__classifier_free__negative_label": 3},
            "classifier_free.negative_label needs a model with classes",
        ),
        ({"sampling__confidence": 1.0}, "sampling.confidence needs a model with label_confidence"),
        ({"data__confidence": "x"}, "data.confidence needs config.model.label_confidence=True"),
        (
            {"model__label_confidence": True},
            "needs config.model.class_conditional=True or config.model.text",
        ),
        ({"sampling__prompt": "fox"}, "prompt is 'fox', but the model knows no text"),
        (
            {"guidance__classifier_free__negative_prompt": "fox"},
            "negative_prompt is 'fox', but the model knows no text",
        ),
        (
            {"model__text": "embeddings", "sampling__prompt": "fox"},
            "the model knows embeddings, of config.sampling.embeddings",
        ),
        ({"sampling__embeddings": "x.npz"}, "trained with config.model.text='embeddings'"),
        (
            {"model__vector_dim": 2, "data__condition_columns": ("a",)},
            "condition_columns has 1 names, and config.model.vector_dim is 2",
        ),
        (
            {"image_condition__name": "masked", "model__low_res_size": 4},
            "image_condition.name is 'masked', which does not go with config.model.low_res",
        ),
        (
            {"image_condition__name": "data", "data__autoencoder": "runs/a"},
            "does not go with config.data.autoencoder = 'runs/a'",
        ),
        ({"image_condition__name": "grey"}, "the data have no colours"),
        (
            {
                **{"image_condition__name": "grey", "data__dataset": "field"},
                **{"data__shape": (8, 8, 1), "data__image_size": 32, "data__num_channels": 3},
            },
            "'grey', which is for images of grey levels, and the data are floats",
        ),
        (
            {"image_condition__name": "low_res", "image_condition__mask": "left"},
            "image_condition.mask is 'left', but config.image_condition.name = 'low_res' has no",
        ),
        (
            {"model__attributes": (2, 2), "data__attribute_columns": ("a",)},
            "attribute_columns has 1 names, and config.model.attributes is",
        ),
        ({"data__conditions": "x.npz"}, "data.conditions is 'x.npz', but the model has no"),
        ({"sampling__condition": "x.npy"}, "condition is 'x.npy', but the model has no conditions"),
        (
            {"model__vector_dim": 2, "sampling__condition": "x.npy"},
            "condition is 'x.npy', which does not exist: give an .npy",
        ),
        ({"model__label_dropout": 0.1}, "label_dropout needs config.model.class_conditional=True"),
    ],
    ids=str,
)
def test_conditions_that_a_model_does_not_have_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        made(**changes)


def test_a_class_may_be_one_to_guide_to():
    """Of a classifier's run, by a model without classes."""
    assert made(sampling__label=3, guidance__classifier__run="anywhere").members == ()


@pytest.mark.parametrize("name", ["ddpm", "edm2", "unet2d"])
def test_images_are_for_networks_that_see_them(name):
    config = digits.get_config()
    config.model.name, config.image_condition.name = name, "masked"
    with pytest.raises(ValueError, match=f"the network '{name}' sees no images .* 'adm' or 'dit'"):
        models.create(config)


@pytest.mark.parametrize("name", ["ddpm", "edm2", "unet2d", "ncsnv2_64"])
@pytest.mark.parametrize(("field", "value"), [("vector_dim", 2), ("attributes", (2, 3))])
def test_vectors_and_attributes_are_for_networks_that_see_them(name, field, value):
    config = digits.get_config()
    config.model.name = name
    config.model.update({field: value})
    with pytest.raises(ValueError, match=f"{field} is .*network '{name}' has no .*, or 'mlp'"):
        models.create(config)


@dataclasses.dataclass(frozen=True)
class Brightness:
    """A toy condition: the wanted mean of a sample."""

    value: float
    droppable: ClassVar[bool] = True

    def from_data(self, dataset, split):
        return {"brightness": getattr(dataset, split).mean(axis=1)}

    def for_samples(self, indices, dataset):
        return {"brightness": np.full(indices.shape, self.value, np.float32)}

    def null(self, n):
        return {"brightness": np.zeros(n, np.float32)}

    def negative(self, n):
        return {}


def test_a_new_condition_is_a_class_a_maker_and_a_line(monkeypatch):
    """It reaches the network through the door, and classifier-free guidance knows it."""
    monkeypatch.setitem(
        conditions.CONDITIONS, "brightness", lambda config: Brightness(config.sampling.brightness)
    )
    config = points.get_config()
    config.sampling.brightness, config.model.label_dropout = 1.5, 0.1
    config.sampling.update(method="heun", n_steps=8)

    def score(x, t, brightness):
        sde = model.sde
        mean = (sde.alpha(t) * brightness)[:, None]
        return -(x - mean) / (sde.alpha(t) ** 2 * 0.01 + sde.sigma(t) ** 2)[:, None]

    model = pipeline(config, score)
    np.testing.assert_allclose(model.sample(4).mean(axis=1), 1.5, atol=0.3)
    np.testing.assert_allclose(model.sample(4, guidance=2.0).mean(axis=1), 3.0, atol=0.3)
