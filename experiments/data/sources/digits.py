"""scikit-learn's handwritten digits: 1,797 images of 8 x 8 pixels in 17 grey levels."""

from importlib import metadata

import numpy as np

from experiments.data.dataset import Dataset, DataSpec

N_TEST = 297


def load(spec: DataSpec) -> Dataset:
    """Reads scikit-learn's digits. The first N_TEST of a fixed permutation are the test set."""
    # Its file alone is needed here: importing scikit-learn takes 1.4 s.
    path = metadata.distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    rows = np.loadtxt(str(path), np.int32, delimiter=",")
    rows = np.random.RandomState(0).permutation(rows)
    images, labels = rows[:, :-1].astype(np.uint8).reshape(-1, 8, 8, 1), rows[:, -1]
    return Dataset(images[N_TEST:], images[:N_TEST], 17, labels[N_TEST:], labels[:N_TEST])
