import numpy as np
import pytest

from experiments.evaluation import by_class, features

NAME = "class {}".format


class Features:
    """Features with plain names."""

    figure = staticmethod(str)


def sets():
    """Two classes N(0, I) and N(10, I); samples of class 1 are shifted by 6 in one direction."""
    random = np.random.RandomState(0)
    labels = np.repeat([0, 1], 500)
    data = random.randn(1000, 2) + 10 * labels[:, None]
    samples = random.randn(1000, 2) + 10 * labels[:, None]
    samples[labels == 1, 0] += 6
    return data, samples, labels


def test_a_class_that_is_drawn_badly_shows():
    """The Fréchet distance of a shift by 6 is 36."""
    data, samples, labels = sets()
    found = by_class.of_samples(Features, (data, labels), samples, labels, str)  # pyright: ignore
    assert found["class 0, frechet_distance"].value < 0.05
    assert found["class 1, frechet_distance"].value == pytest.approx(36, abs=2.5)
    assert found["class 0, recall"].value > 0.9 > found["class 1, recall"].value + 0.5
    assert found["class 1, precision"].about == {"samples": 500, "data": 500}


def test_samples_without_classes_have_the_recall_of_each():
    data, samples, labels = sets()
    ours = Features, (data, labels), samples[labels == 0], None, str
    found = by_class.of_samples(*ours)  # pyright: ignore
    assert found.keys() == {"class 0, recall", "class 1, recall"}
    assert found["class 0, recall"].value > 0.9
    assert found["class 1, recall"].value == 0


def test_small_classes_are_left_out_and_none_is_an_error():
    data, samples, labels = sets()
    few = labels.copy()
    few[:490] = 2  # 10 of class 0 are left
    found = by_class.of_samples(Features, (data, few), samples, few, str)  # pyright: ignore
    assert {name.split(",")[0] for name in found} == {"class 1", "class 2"}
    with pytest.raises(ValueError, match="no class has 20 training data"):
        by_class.of_samples(features.random_conv(), (data, labels), samples[:10], labels[:10], str)


def test_likelihoods_have_the_mean_of_each_class():
    bits, labels = np.array([1.0, 3.0, 5.0, 5.0, 9.0]), np.array([0, 0, 1, 1, -1])
    found = by_class.of_likelihoods("bits/dim", bits, labels, str)
    assert found.keys() == {"class 0, bits/dim", "class 1, bits/dim"}
    assert (found["class 0, bits/dim"].value, found["class 0, bits/dim"].error) == (2, 1)
    assert found["class 1, bits/dim"].error == 0
