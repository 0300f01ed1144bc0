import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits
from experiments.build import conditions
from experiments.data.dataset import Dataset
from models import text


def no_data():
    raise AssertionError("these conditions need no data")


def made(**changes):
    config = digits.get_config("vp_score_sde")
    config.model.class_conditional, config.model.label_dropout = True, 0.3
    config.model.text, config.model.text_length = "bytes", 8
    config.sampling.prompt = "fox"
    config.update_from_flattened_dict(
        {name.replace("__", "."): value for name, value in changes.items()}
    )
    return conditions.conditions(config)


def negative(**changes):
    changes = {f"guidance.classifier_free.negative_{name}": v for name, v in changes.items()}
    return made(**changes)


def test_the_conditions_of_a_split_are_those_that_the_model_takes():
    images, labels = np.zeros((2, 8, 8, 1), np.uint8), np.array([3, 1])
    captions = {f"{part}_captions": np.array(["a", "bc"]) for part in ("train", "test")}
    dataset = Dataset(images, images, 17, labels, labels[::-1], **captions)
    found = made().from_data(dataset, "test")
    assert found.keys() == {"class_labels", "text"}
    np.testing.assert_array_equal(found["class_labels"], [1, 3])
    np.testing.assert_array_equal(found["text"], text.encode(["a", "bc"], 8))
    plain = made(
        model__class_conditional=False,
        model__text="",
        model__label_dropout=0.0,
        sampling__prompt="",
    )
    assert plain.from_data(dataset, "train") == {}


def test_samples_have_their_classes_in_turn_and_the_prompt():
    values = made().for_samples(np.arange(8, 12), no_data)
    np.testing.assert_array_equal(values["class_labels"], [8, 9, 0, 1])
    np.testing.assert_array_equal(values["text"], text.encode(["fox"] * 4, 8))


def test_unconditional_and_negative_conditions():
    values = made().for_samples(np.arange(2), no_data)
    null = made().unconditional(values)
    np.testing.assert_array_equal(null["class_labels"], [-1, -1])
    assert not null["text"].any()
    assert made().negative(values) is None
    away = negative(prompt="cat").negative(values)
    np.testing.assert_array_equal(away["class_labels"], [-1, -1])
    np.testing.assert_array_equal(away["text"], text.encode(["cat"] * 2, 8))
    away = negative(prompt="cat", label=4).negative(values)
    np.testing.assert_array_equal(away["class_labels"], [4, 4])


@pytest.mark.thorough
def test_class_and_text_are_dropped_together_whatever_the_batch():
    values = {"class_labels": jnp.arange(400) % 10, "text": jnp.ones((400, 8), int)}
    key, model = jax.random.key(0), made()
    seen = model.drop(key, values, 0)
    dropped = seen["class_labels"] == -1
    np.testing.assert_array_equal(dropped, ~seen["text"].any(axis=1))
    assert dropped.mean() == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / 400))
    part = model.drop(key, jax.tree.map(lambda leaf: leaf[100:], values), 100)
    np.testing.assert_array_equal(part["class_labels"], seen["class_labels"][100:])


def test_other_classes_and_prompts_can_be_asked_for():
    indices, model = np.arange(4), made()
    values = model.asked([7, 2], ["cat", "owl"]).for_samples(indices, no_data)
    np.testing.assert_array_equal(values["class_labels"], [7, 2, 7, 2])
    np.testing.assert_array_equal(values["text"], text.encode(["cat", "owl"] * 2, 8))
    one = model.asked(np.int64(5), "cat").asked(None, None).for_samples(indices, no_data)
    np.testing.assert_array_equal(one["class_labels"], [5] * 4)
    in_turn = model.asked(-1, None).for_samples(indices, no_data)
    np.testing.assert_array_equal(in_turn["class_labels"], [0, 1, 2, 3])
    with pytest.raises(ValueError, match="label is 10: it must be a class, 0 to 9"):
        model.asked(10, None)
    for label, prompt, name in ((1, None, "label is 1"), (None, "cat", "prompt is 'cat'")):
        with pytest.raises(ValueError, match=rf"{name}, .* \(it has none\): leave it out"):
            conditions.Conditions().asked(label, prompt)
    classes = conditions.Conditions((conditions.ClassLabel(10),))
    with pytest.raises(ValueError, match=r"no such condition \(it has 'class'\): leave it out"):
        classes.asked(None, "cat")
