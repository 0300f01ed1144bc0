"""Gaussian random fields in 1, 2 and 3 dimensions, drawn at each load with the same seed.

They have one channel, mean 0 and standard deviation 1. The class of a field says its correlation
length, so that the law is known with and without the class.
"""

import numpy as np

from experiments.data.dataset import Dataset, DataSpec
from sde_lib import GaussianField

N_FIELDS = 20_000
N_TEST_FIELDS = 500
LENGTHS = {"field": (1.5,), "field_by_length": (0.75, 1.5, 3.0)}
"""Correlation lengths, in steps, by the name of the data set."""
VALUES = 1 << 24  # at most, in all fields together


def load(spec: DataSpec) -> Dataset:
    """Draws fields of spec.shape, as many of each length.

    Raises:
        ValueError: a shape that is not (L, 1), (H, W, 1) or (D, H, W, 1).
    """
    *sides, channels = spec.shape
    if channels != 1 or not sides:
        raise ValueError(
            f"config.data.shape is {spec.shape}, but fields are of one channel, on one to three "
            "sides: (L, 1), (H, W, 1) or (D, H, W, 1)"
        )
    laws = tuple(GaussianField(tuple(sides), length) for length in LENGTHS[spec.name])
    total = min(N_FIELDS, VALUES // int(np.prod(sides))) + N_TEST_FIELDS
    random = np.random.RandomState(0)
    labels = np.arange(total, dtype=np.int32) % len(laws)
    noise = random.randn(total, *spec.shape).astype(np.float32)
    fields = np.empty_like(noise)
    for k, law in enumerate(laws):
        fields[labels == k] = law.coloured(noise[labels == k])
    test, train = slice(N_TEST_FIELDS), slice(N_TEST_FIELDS, None)
    about = {}
    if len(laws) > 1:
        classes = tuple(f"correlation length {law.length:g}" for law in laws)
        about = {"train_labels": labels[train], "test_labels": labels[test], "classes": classes}
    return Dataset(fields[train], fields[test], None, **about, laws=laws)
