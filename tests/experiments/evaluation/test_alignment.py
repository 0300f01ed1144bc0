import numpy as np
import pytest

from experiments.evaluation.alignment import Embeddings, figures


def test_the_score_is_the_cosine_and_other_captions_are_the_chance():
    """Captions along two axes; images at 60 degrees from their own, and 30 from the other."""
    captions = np.eye(2)
    images = np.array([[1.0, np.sqrt(3)], [np.sqrt(3), 1.0]] * 5)
    found = figures(Embeddings(captions), images)
    assert found["alignment"].value == pytest.approx(50)
    assert found["alignment with other captions"].value == pytest.approx(50 * np.sqrt(3))
    assert found["retrieval"].value == 0
    assert figures(Embeddings(captions[::-1]), images)["retrieval"].value == 1


def test_equal_captions_count_as_one_and_opposite_ones_as_zero():
    captions = np.array([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    images = np.array([[2.0, 0.0], [-1.0, 0.0], [-5.0, 0.0]])
    found = figures(Embeddings(captions), images)
    assert found["alignment"].value == pytest.approx(200 / 3)
    assert found["retrieval"].value == pytest.approx(2 / 3)
    assert found["retrieval"].about == {"captions": 2}
    assert figures(Embeddings(captions[:1]), images).keys() == {"alignment"}


def test_images_of_the_file_take_the_place_of_features():
    images = np.eye(3)
    found = figures(Embeddings(np.eye(3), images), np.zeros((3, 50)))
    assert found["alignment"].value == pytest.approx(100)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"text": np.ones((2, 3))}, "has neither: give"),
        ({"captions": np.ones(3)}, r"captions float64 \(3,\)"),
        ({"captions": np.zeros((2, 3))}, "'captions' has a row of zeros"),
        ({"captions": np.ones((2, 3)), "images": np.ones((2, 4))}, r"images float64 \(2, 4\)"),
    ],
)
def test_files_of_others_are_refused(arrays, message, tmp_path):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        Embeddings.read(tmp_path / "x.npz")


def test_sizes_that_differ_are_refused(tmp_path):
    with pytest.raises(ValueError, match="captions of 3 numbers, and there are 2 images of 5 for"):
        figures(Embeddings(np.eye(3)), np.ones((2, 5)))
    with pytest.raises(ValueError, match="1 images of 3 for 2 samples"):
        figures(Embeddings(np.eye(3), np.ones((1, 3))), np.ones((2, 5)))
    with pytest.raises(ValueError, match=r"nothing.npz'"):
        Embeddings.read(tmp_path / "nothing.npz")
