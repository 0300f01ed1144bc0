import json

import numpy as np
import pytest

from experiments.data.conditions.beside import with_file
from experiments.data.dataset import Dataset, DataSpec
from experiments.data.load import load

X = np.arange(20, dtype=np.float32)[:, None] * [1.0, 2.0]


@pytest.fixture
def data(tmp_path):
    np.save(tmp_path / "x.npy", X)
    return lambda conditions: load(
        DataSpec("arrays", (2,), str(tmp_path / "x.npy"), dtype="float", conditions=str(conditions))
    )


def test_rows_go_with_the_samples_of_the_data(data, tmp_path):
    path = tmp_path / "about.npz"
    names = np.array([f"number {k}" for k in range(20)])
    np.savez(path, vector=X[:, :1] + 1, attributes=names, text=names, embeddings=X + 2)
    found = data(path)
    for part in ("train", "test"):
        values, own = getattr(found, part), found.conditions(part)
        np.testing.assert_array_equal(own["vector"], values[:, :1] + 1)
        np.testing.assert_array_equal(own["embeddings"], values + 2)
        expected = [f"number {int(value)}" for value in values[:, 0]]
        assert [found.attributes[0][k] for k in own["attributes"][:, 0]] == expected
        assert list(getattr(found, f"{part}_captions")) == expected


@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
def test_captions_are_a_line_each_and_missing_ones_are_counted(data, tmp_path, suffix):
    lines = [f"caption {k}" if k % 4 else "" for k in range(20)]
    path = tmp_path / f"captions{suffix}"
    path.write_text("\n".join(f'"{t}"' if suffix == ".jsonl" else t for t in lines) + "\n")
    found = data(path)
    for part in ("train", "test"):
        captions = getattr(found, f"{part}_captions")
        values = getattr(found, part)[:, 0]
        assert list(captions) == [lines[int(value)] for value in values]
    missing = [int(note.split()[0]) for note in found.notes if "captions are missing" in note]
    assert sum(missing) == 5


def test_data_with_a_test_set_have_rows_for_it_after_the_others(tmp_path):
    np.savez(tmp_path / "x.npz", vector=X)
    apart = with_file(Dataset(X[:15], X[15:], None), str(tmp_path / "x.npz"))
    np.testing.assert_array_equal(apart.test_conditions["vector"], X[15:])
    split_by_source = Dataset(X[:15], X[15:], None, test_share=0.1, own_split=True)
    found = with_file(split_by_source, str(tmp_path / "x.npz"))
    np.testing.assert_array_equal(found.train_conditions["vector"], X[:15])
    np.savez(tmp_path / "y.npz", train_vector=X[:15], test_vector=X[15:])
    halves = with_file(Dataset(X[:15], X[15:], None), str(tmp_path / "y.npz"))
    np.testing.assert_array_equal(halves.train_conditions["vector"], X[:15])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"vectors": X}, "has an array 'vectors': give an .npz file of arrays named vector"),
        ({"vector": X[:19]}, "has 19 vector for 20 samples"),
        ({"train_vector": X}, "has 20 train_vector for 18 samples"),
    ],
    ids=str,
)
def test_files_that_do_not_fit_are_refused(data, tmp_path, arrays, message):
    np.savez(tmp_path / "about.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        data(tmp_path / "about.npz")
    with pytest.raises(ValueError, match="which does not exist"):
        data(tmp_path / "none.npz")


def test_captions_have_confidences_beside_them(data, tmp_path):
    """In a .jsonl file of objects, or in an .npz file."""
    confidence = np.linspace(0, 1, 20)
    path = tmp_path / "captions.jsonl"
    lines = [{"text": f"caption {k}", "confidence": c} for k, c in enumerate(confidence)]
    path.write_text("\n".join(map(json.dumps, lines)))
    np.savez(tmp_path / "x.npz", confidence=confidence)
    for file in (path, tmp_path / "x.npz"):
        found = data(file)
        for part in ("train", "test"):
            rows = getattr(found, part)[:, 0].astype(int)
            np.testing.assert_allclose(
                getattr(found, f"{part}_confidence"), confidence[rows], rtol=1e-6
            )
    assert list(data(path).test_captions) == [f"caption {int(x)}" for x in found.test[:, 0]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('"bare"', r"line 2 is 'bare'; .* each must be"),
        ('{"text": "b", "confidence": "high"}', "line 2 is .*'high'"),
        (
            '{"text": "b", "confidence": 1.5}',
            r"confidences from .* to 1.5: they must be in \[0, 1\]",
        ),
    ],
)
def test_captions_with_impossible_confidences_are_refused(data, tmp_path, line, message):
    path = tmp_path / "captions.jsonl"
    first = '{"text": "a", "confidence": 0.5}'
    path.write_text("\n".join([first, line, *[first] * 18]))
    with pytest.raises(ValueError, match=message):
        data(path)
