import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits
from experiments.data.dataset import Dataset
from experiments.pipeline import conditions
from models import text


@pytest.fixture
def config():
    result = digits.get_config()
    result.model.class_conditional, result.model.label_dropout = True, 0.3
    result.model.text, result.model.text_length = "bytes", 8
    result.sampling.prompt = "fox"
    return result


def test_a_model_is_told_what_it_takes_of_the_data(config):
    images, labels = np.zeros((2, 8, 8, 1), np.uint8), np.array([3, 1])
    captions = {f"{part}_captions": np.array(["a", "bc"]) for part in ("train", "test")}
    dataset = Dataset(images, images, 17, labels, labels[::-1], **captions)
    told = conditions.of_data(config, dataset, "test")
    assert told.keys() == {"class_labels", "text"}
    np.testing.assert_array_equal(told["class_labels"], [1, 3])
    np.testing.assert_array_equal(told["text"], text.encode(["a", "bc"], 8))
    config.model.class_conditional, config.model.text = False, ""
    assert conditions.of_data(config, dataset, "train") == {}


def test_samples_have_their_classes_in_turn_and_the_prompt(config):
    told = conditions.of_samples(config, jnp.arange(8, 12))
    np.testing.assert_array_equal(told["class_labels"], [8, 9, 0, 1])
    np.testing.assert_array_equal(told["text"], text.encode(["fox"] * 4, 8))


def test_what_is_left_out_or_avoided(config):
    told = conditions.of_samples(config, jnp.arange(2))
    none = conditions.left_out(config, told)
    np.testing.assert_array_equal(none["class_labels"], [-1, -1])
    assert not none["text"].any()
    assert conditions.to_avoid(config, told) is None
    config.sampling.negative_prompt = "cat"
    avoided = conditions.to_avoid(config, told)
    assert avoided is not None
    np.testing.assert_array_equal(avoided["class_labels"], [-1, -1])
    np.testing.assert_array_equal(avoided["text"], text.encode(["cat"] * 2, 8))
    config.sampling.negative_label = 4
    avoided = conditions.to_avoid(config, told)
    assert avoided is not None
    np.testing.assert_array_equal(avoided["class_labels"], [4, 4])


def test_class_and_text_are_left_out_together_whatever_the_batch(config):
    told = {"class_labels": jnp.arange(400) % 10, "text": jnp.ones((400, 8), int)}
    key = jax.random.key(0)
    seen = conditions.at_random(config, key, told, 0)
    dropped = seen["class_labels"] == -1
    np.testing.assert_array_equal(dropped, ~seen["text"].any(axis=1))
    assert dropped.mean() == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / 400))
    part = conditions.at_random(config, key, jax.tree.map(lambda leaf: leaf[100:], told), 100)
    np.testing.assert_array_equal(part["class_labels"], seen["class_labels"][100:])
