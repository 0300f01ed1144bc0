import math

import numpy as np
import pytest

from experiments.data.dataset import Dataset
from experiments.data.inspection import content

X = np.arange(12, dtype=np.uint8).reshape(12, 1, 1, 1)


def test_the_balance_of_even_classes_is_their_number():
    found = content.balance(np.array([0, 1, 2, 0, 1, 2, -1]))
    assert found.counts == {0: 2, 1: 2, 2: 2}
    assert found.ratio == 1
    assert found.effective == pytest.approx(3)
    skewed = content.balance(np.array([0, 0, 0, 1]))
    assert skewed.ratio == 3
    assert skewed.effective == pytest.approx(4 / 3**0.75)
    with pytest.raises(ValueError, match="no label is known"):
        content.balance(np.array([-1]))


def test_cramers_v_is_that_of_the_table():
    """chi^2 of [[3, 1], [1, 3]] is 2 in 8 samples: V = sqrt(2 / 8)."""
    a = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    b = np.array([0, 0, 0, 1, 0, 1, 1, 1])
    assert content.cramers_v(a, b) == pytest.approx(0.5)
    assert content.cramers_v(a, 5 - 2 * a) == pytest.approx(1)
    assert content.cramers_v(a, np.tile([0, 1], 4)) == 0
    assert content.cramers_v(a, np.zeros(8, int)) == 0
    unknown = np.append(a, 1), np.append(b, -1)
    assert content.cramers_v(*unknown) == pytest.approx(0.5)
    strongest = content.associations({"a": a, "b": b, "c": np.tile([0, 1], 4)})
    assert strongest[0] == ("a", "b", pytest.approx(0.5))


def test_words_are_counted_once_a_caption_and_pairs_by_their_lift():
    """ "red" and "fox" are in 5 of 20 captions, always together: the lift is 4."""
    captions = ["Red fox, red"] * 5 + ["an owl"] * 14 + [None]
    counts, pairs = content.words(captions)
    assert counts == {"an": 14, "owl": 14, "red": 5, "fox": 5}
    assert pairs[0] == ("fox", "red", pytest.approx(4))
    assert pairs[1] == ("an", "owl", pytest.approx(20 / 14))


def test_the_rows_say_what_is_rare_together_and_twice():
    train = np.concatenate([X[:8], X[:2]])
    dataset = Dataset(
        train,
        X[7:],
        256,
        train_labels=np.array([0] * 6 + [1] * 4),
        test_labels=np.zeros(5, int),
        train_captions=np.array(["a fox"] * 10, dtype=object),
        train_conditions={"attributes": np.array([[0]] * 6 + [[1]] * 4)},
        classes=("dark", "light"),
        attributes=(("no", "yes"),),
    )
    rows = dict(content.rows(dataset))
    assert rows["Balance of classes"].startswith(
        "6 samples of class 0 (dark), the largest, to 4 of"
    )
    assert (
        f"as varied as {math.exp(-0.6 * math.log(0.6) - 0.4 * math.log(0.4)):.3g}"
        in (rows["Balance of classes"])
    )
    assert rows["Balance of attribute 0"].startswith("no 6, yes 4;")
    assert rows["Together"].endswith("class and attribute 0 1.00")
    assert rows["Words"].startswith(
        "2, of which 0 occur once; in most captions: a 100.0%, fox 100.0%"
    )
    assert rows["Copies"] == (
        "2 of 10 training samples repeat another one, and 1 of 5 test samples are training samples "
        "too"
    )


def test_data_without_labels_have_the_row_of_copies_alone():
    assert dict(content.rows(Dataset(X[:8], X[8:], 256))).keys() == {"Copies"}
