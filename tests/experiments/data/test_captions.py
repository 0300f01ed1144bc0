import numpy as np
import pytest

from configs import digits
from experiments.build.conditions import text
from experiments.data.captions import ByteReader, EmbeddingReader
from experiments.data.dataset import Dataset

IMAGES = np.zeros((3, 8, 8, 1), np.uint8)
EMBEDDED = np.random.RandomState(0).normal(size=(3, 2, 4)).astype(np.float32)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "embeddings.npz"
    np.savez(path, train=EMBEDDED, test=2 * EMBEDDED, prompt=EMBEDDED[:1])
    return str(path)


def test_embeddings_are_read_from_files(file):
    dataset = Dataset(IMAGES, IMAGES, 17)
    reader = EmbeddingReader(file, 4, file)
    np.testing.assert_array_equal(reader.from_data(dataset, "test"), 2 * EMBEDDED)
    np.testing.assert_array_equal(reader.prompts(), EMBEDDED[:1])
    assert reader.negative() is None
    np.testing.assert_array_equal(reader.empty(), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="has 3 of width 4 in 'train': there are 2 such images"):
        reader.from_data(Dataset(IMAGES[:2], IMAGES, 17), "train")
    assert EmbeddingReader(file, 4).prompts() is None


def test_bytes_are_read_from_captions_and_prompts():
    captions = np.array(["a", "b", "Fuß"])
    dataset = Dataset(IMAGES, IMAGES, 17, train_captions=captions)
    reader = ByteReader(4, ("Fuß", "a"), "b")
    rows = reader.from_data(dataset, "train")
    assert rows.shape == (3, 4)
    np.testing.assert_array_equal(reader.prompts(), rows[[2, 0]])
    np.testing.assert_array_equal(reader.negative(), rows[[1]])
    assert reader.empty().shape == (4,)
    assert (reader.empty() != rows).any(axis=1).all()
    np.testing.assert_array_equal(reader.asked(("b",)).prompts(), rows[[1]])
    assert ByteReader(4).prompts() is ByteReader(4).negative() is None


def test_captions_that_are_missing_or_too_long_are_refused():
    with pytest.raises(ValueError, match="the data have no captions"):
        ByteReader(4).from_data(Dataset(IMAGES, IMAGES, 17), "train")
    long = np.array(["a", "b", "Füße"])  # 6 bytes
    with pytest.raises(ValueError, match=r"'Füße' has 6 bytes in UTF-8, .*text_length = 4 at most"):
        ByteReader(4).from_data(Dataset(IMAGES, IMAGES, 17, train_captions=long), "train")


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("", {"sampling.prompt": "fox"}, "but the model knows no text: train one"),
        (
            "",
            {"guidance.classifier_free.negative_prompt": "fox"},
            "classifier_free.negative_prompt is 'fox'",
        ),
        ("bytes", {"sampling.prompt": "a fox"}, r"'a fox' has 5 bytes in UTF-8, .* = 4 at most"),
        ("bytes", {"sampling.embeddings": "e.npz"}, "needs a model that was trained with"),
        ("embeddings", {}, "needs config.data.embeddings"),
    ],
)
def test_prompts_for_another_model_are_refused(kind, options, message):
    config = digits.get_config()
    config.model.update(text=kind, text_length=4)
    config.update_from_flattened_dict(options)
    with pytest.raises(ValueError, match=message):
        text(config)


def test_files_of_other_arrays_are_refused(file, tmp_path):
    with np.load(file) as saved:
        flat, embedded = saved["train"][:, 0], saved["train"]
    np.savez(file, prompt=flat)
    with pytest.raises(ValueError, match=r"'prompt' is float32 \(3, 4\); give an .npz"):
        EmbeddingReader(file, 4, file).prompts()
    np.savez(file, prompt=embedded[:, :1], negative_prompt=embedded[:1])
    with pytest.raises(ValueError, match=r"shape \(1, 2, 4\), it must be \(1, 1, 4\)"):
        EmbeddingReader(file, 4, file)
    with pytest.raises(ValueError, match="has no array 'train'"):
        EmbeddingReader(file, 4).from_data(Dataset(IMAGES, IMAGES, 17), "train")
    np.savez(file, prompt=np.full((1, 2, 4), 1e300), train=[None])
    with pytest.raises(ValueError, match=r"'prompt' has numbers that are not finite in float32"):
        EmbeddingReader(file, 4, file).prompts()
    with pytest.raises(ValueError, match=r"'train', cannot be read: it holds Python objects"):
        EmbeddingReader(file, 4).from_data(Dataset(IMAGES, IMAGES, 17), "train")
    with pytest.raises(ValueError, match=r"give an \.npz file of float arrays"):
        EmbeddingReader(file, 4, str(tmp_path / "none.npz")).prompts()


@pytest.mark.parametrize("tokens", [None, 3])
def test_embeddings_come_with_the_data(tokens):
    """Of one token or of several; prompts are arrays too."""
    shape = (4,) if tokens is None else (tokens, 4)
    rows = np.random.RandomState(0).randn(3, *shape)
    dataset = Dataset(IMAGES, IMAGES, 17, train_conditions={"embeddings": rows})
    found = EmbeddingReader("", 4)
    expected = rows.reshape(3, -1, 4)
    np.testing.assert_allclose(found.from_data(dataset, "train"), expected, rtol=1e-6)
    np.testing.assert_allclose(found.asked(rows[1:]).prompts(), expected[1:], rtol=1e-6)
    assert not found.empty().any()
    with pytest.raises(ValueError, match=r"must be floats \[N, 5\]"):
        EmbeddingReader("", 5).from_data(dataset, "train")
    with pytest.raises(ValueError, match=r"needs config\.data\.embeddings"):
        found.from_data(dataset, "test")
