import dataclasses

import numpy as np
import pytest

from experiments.data.dataset import Dataset, as_labels, split


def test_a_split_is_a_partition_and_always_the_same():
    train, test = split(50, 0.1)
    assert len(test) == 5
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(50))
    np.testing.assert_array_equal(test, split(50, 0.1)[1])
    assert (test != np.arange(5)).any()


@pytest.mark.parametrize("fraction", [0.0, 0.001, 1.0, -0.5])
def test_a_split_without_one_part_is_refused(fraction):
    with pytest.raises(ValueError, match=r"test_fraction = .* of 50 samples"):
        split(50, fraction)


def test_classes_are_counted_over_both_parts():
    images = np.zeros((2, 1, 1, 1), np.uint8)
    assert Dataset(images, images, 256).n_classes == 0
    assert Dataset(images, images, 256, np.array([0, 1]), np.array([4, 0])).n_classes == 5


def test_a_class_conditional_model_needs_labels_of_its_classes():
    images, labels = np.zeros((10, 1, 1, 1), np.uint8), np.arange(10)
    dataset = Dataset(images, images, 17, labels, labels)
    dataset.check_labels(10)
    with pytest.raises(ValueError, match="have 10 classes, but the model has only 9"):
        dataset.check_labels(9)
    with pytest.raises(ValueError, match="the test data have no labels"):
        dataclasses.replace(dataset, test_labels=None).check_labels(10)


def test_every_class_of_a_model_needs_training_data():
    images, labels = np.zeros((10, 1, 1, 1), np.uint8), np.arange(10)
    Dataset(images, images, 17, labels, labels).check_trained(10)
    for given, n_classes, absent in (
        (labels + 1, 11, "0"),
        (labels, 13, "10, 11, 12"),
        (labels * 3, 28, "1, 2, 4, 5, 7 ..."),
    ):
        dataset = Dataset(images, images, 17, given, given)
        with pytest.raises(ValueError, match=rf"no training data of the classes {absent}: number"):
            dataset.check_trained(n_classes)
        dataset.check_trained(n_classes, (3, 9))  # the others are not drawn


def test_labels_are_integers_of_32_bits():
    for values in ([0, 1], np.array([0, 1], np.uint8), np.array([0, 1], object), []):
        labels = as_labels("labels", values)
        assert labels.dtype == np.int32
        np.testing.assert_array_equal(labels, values)
    for values in ([0.0], [None], [True], ["a"], [1, None]):
        with pytest.raises(ValueError, match=r"labels are .*, they must be integers"):
            as_labels("labels", values)
    for values in ([2**31], [-(2**40)], [10**30, 1]):
        with pytest.raises(ValueError, match=r"labels go up to .*, beyond 32 bits"):
            as_labels("labels", values)
