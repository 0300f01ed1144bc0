import numpy as np
from sklearn.datasets import load_digits

from experiments.data.dataset import DataSpec
from experiments.data.sources import digits


def test_digits_are_split_by_a_fixed_permutation():
    dataset = digits.load(DataSpec("digits", (8, 8, 1)))
    order = np.random.RandomState(0).permutation(1797)
    original = load_digits()
    for values, labels, part in (
        (dataset.test, dataset.test_labels, order[:297]),
        (dataset.train, dataset.train_labels, order[297:]),
    ):
        np.testing.assert_array_equal(values[:][..., 0], original.images[part])
        np.testing.assert_array_equal(labels, original.target[part])
    assert (dataset.levels, dataset.train.dtype, dataset.n_classes) == (17, np.uint8, 10)
