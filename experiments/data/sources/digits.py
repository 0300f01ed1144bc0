"""scikit-learn's handwritten digits: 1,797 images of 8 x 8 pixels in 17 grey levels."""

import numpy as np

from experiments.data.dataset import Dataset, DataSpec

N_TEST = 297


def load(spec: DataSpec) -> Dataset:
    """Reads scikit-learn's digits. The first N_TEST of a fixed permutation are the test set."""
    from sklearn.datasets import load_digits  # takes 0.9 s, so only this data set imports it

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(pixels))
    images = pixels.astype(np.uint8).reshape(-1, 8, 8, 1)[order]
    labels = labels.astype(np.int32)[order]
    return Dataset(images[N_TEST:], images[:N_TEST], 17, labels[N_TEST:], labels[:N_TEST])
