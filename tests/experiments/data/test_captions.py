import numpy as np
import pytest

from configs import digits
from experiments.data import captions
from experiments.data.dataset import Dataset

IMAGES = np.zeros((3, 8, 8, 1), np.uint8)
EMBEDDED = np.random.RandomState(0).normal(size=(3, 2, 4)).astype(np.float32)


def config(**model):
    result = digits.get_config()
    result.model.update({"text": "bytes", "text_length": 4, **model})
    return result


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "embeddings.npz"
    np.savez(path, train=EMBEDDED, test=2 * EMBEDDED, prompt=EMBEDDED[:1])
    return str(path)


def test_embeddings_are_read_from_files(file):
    ours = config(text="embeddings", text_width=4)
    ours.data.embeddings = file
    dataset = Dataset(IMAGES, IMAGES, 17)
    np.testing.assert_array_equal(captions.of_data(ours, dataset, "test"), 2 * EMBEDDED)
    ours.sampling.embeddings = file
    captions.check(ours)
    np.testing.assert_array_equal(captions.of_samples(ours), EMBEDDED[:1])
    assert not captions.has_negative(ours)
    assert captions.empty(ours).shape == (2, 4)
    with pytest.raises(ValueError, match="has 3 of width 4 in 'train': there are 2 such images"):
        captions.of_data(ours, Dataset(IMAGES[:2], IMAGES, 17), "train")


def test_captions_that_are_missing_or_too_long_are_refused():
    with pytest.raises(ValueError, match="'digits' has no captions"):
        captions.of_data(config(), Dataset(IMAGES, IMAGES, 17), "train")
    long = np.array(["a", "b", "Füße"])  # 6 bytes
    with pytest.raises(ValueError, match=r"'Füße' has 6 bytes in UTF-8, .*text_length = 4 at most"):
        captions.of_data(config(), Dataset(IMAGES, IMAGES, 17, train_captions=long), "train")


@pytest.mark.parametrize(
    ("model", "sampling", "message"),
    [
        ({"text": ""}, {"prompt": "fox"}, "but the model knows no text: train one"),
        ({"text": ""}, {"negative_prompt": "fox"}, "sampling.negative_prompt is 'fox'"),
        ({}, {"prompt": "a fox"}, r"'a fox' has 5 bytes in UTF-8, .* = 4 at most"),
        ({}, {"embeddings": "e.npz"}, "needs a model that was trained with"),
        ({"text": "embeddings"}, {}, "needs config.data.embeddings"),
    ],
)
def test_prompts_for_another_model_are_refused(model, sampling, message):
    ours = config(**model)
    ours.sampling.update(sampling)
    with pytest.raises(ValueError, match=message):
        captions.check(ours)


def test_files_of_other_arrays_are_refused(file, tmp_path):
    ours = config(text="embeddings")
    ours.sampling.embeddings = file
    with np.load(file) as saved:
        np.savez(file, prompt=saved["train"][:, 0])
    with pytest.raises(ValueError, match=r"'prompt' is float32 \(3, 4\); give an .npz"):
        captions.of_samples(ours)
    with pytest.raises(ValueError, match="has no array 'negative_prompt'"):
        captions.negative(ours)
    ours.sampling.embeddings = str(tmp_path / "none.npz")
    with pytest.raises(ValueError, match=r"give an \.npz file of float arrays"):
        captions.of_samples(ours)
