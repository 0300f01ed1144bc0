"""Conditioning on several labels, from their names in the data to the network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data.conditions.attributes import with_numbers
from experiments.data.dataset import Dataset
from experiments.pipeline.conditions import Attributes, Conditions

X = np.zeros((4, 2), np.float32)
NAMES = np.array([["red", "1"], ["blue", "2"], ["red", ""], ["green", "1"]])
NUMBERS = np.array([[2, 0], [0, 1], [2, -1], [1, 0]])


def dataset(train=NAMES, test=NAMES[:2]):
    halves = {"train_conditions": {"attributes": train}, "test_conditions": {"attributes": test}}
    return Dataset(X, X[: len(test)], None, **halves)


def test_names_become_numbers_which_the_run_records(tmp_path):
    found = with_numbers(dataset())
    np.testing.assert_array_equal(found.train_conditions["attributes"], NUMBERS)
    assert found.notes == (
        "classes of attribute 0: 0 = blue, 1 = green, 2 = red",
        "classes of attribute 1: 0 = 1, 1 = 2",
    )
    Conditions((Attributes((3, 2)),)).claim(found, tmp_path)
    conditions = Conditions((Attributes((3, 2)),)).of_run(tmp_path)
    values = conditions.from_data(found, "test")["attributes"]
    np.testing.assert_array_equal(values, NUMBERS[:2])
    given = conditions.given([["green", -1], ["red", 2]])["attributes"]
    np.testing.assert_array_equal(given, [[1, -1], [2, 1]])
    asked = conditions.asked(None, None, ["green", 2]).for_samples(np.arange(3), lambda: found)
    np.testing.assert_array_equal(asked["attributes"], [[1, 1]] * 3)
    in_turn = conditions.for_samples(np.arange(1, 4), lambda: found)["attributes"]
    np.testing.assert_array_equal(in_turn, NUMBERS[[1, 0, 1]])


@pytest.mark.parametrize("kind", [int, float, np.uint8, bool])
def test_numbers_from_0_on_stay_as_they_are(kind):
    numbers = np.array([[0, 1], [1, 0], [1, 1], [0, 0]]).astype(kind)
    found = with_numbers(dataset(numbers, numbers[:2]))
    np.testing.assert_array_equal(found.train_conditions["attributes"], numbers.astype(int))
    assert found.notes == ()
    np.testing.assert_array_equal(Attributes((2, 3)).given([1, 2])["attributes"], [[1, 2]])


def test_attributes_are_dropped_together_and_known_ones_can_be_unknown():
    conditions = Conditions((Attributes((3, 2)),), dropout=0.3)
    values = {"attributes": jnp.ones((1000, 2), int)}
    dropped = conditions.drop(jax.random.key(0), values, 0)["attributes"] == -1
    assert (dropped[:, 0] == dropped[:, 1]).all()
    assert dropped.mean() == pytest.approx(0.3, abs=0.06)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ((2, 2), r"attributes of 3, 2 classes, but .* is \(2, 2\): set .*attributes=\(3, 2\)"),
        ((3,), r"attributes of 3, 2 classes"),
    ],
    ids=str,
)
def test_a_model_of_fewer_classes_is_refused(classes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        Conditions((Attributes(classes),)).claim(with_numbers(dataset()), tmp_path)
    with pytest.raises(ValueError, match="the data have no attributes"):
        Attributes(classes).from_data(Dataset(X, X, None), "train")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([["purple", 1]], "hold 'purple' in row 0, column 0: it must be one of blue, green, red"),
        ([[0.5, 1]], "hold fractions such as 0.5"),
        ([["red", 1, 2]], "have 3 columns: there must be 2"),
    ],
    ids=("name", "fraction", "columns"),
)
def test_attributes_that_do_not_fit_are_refused(values, message):
    member = Attributes((3, 2), (("blue", "green", "red"), ("1", "2")))
    with pytest.raises(ValueError, match=f"the condition 'attributes' {message}"):
        member.given(values)
