"""Gaussian random fields in 1, 2 and 3 dimensions, drawn at each load with the same seed.

They have one channel and mean 0. The class of a field says its correlation length, or a condition
vector its correlation length and its standard deviation: the law is known, also given these.
"""

from functools import partial

import numpy as np

from experiments.data.dataset import Dataset, DataSpec
from sde_lib import GaussianField
from sde_lib.gaussian_field import powers

N_FIELDS = 20_000
N_TEST_FIELDS = 500
LENGTHS = {"field": (1.5,), "field_by_length": (0.75, 1.5, 3.0)}
"""Correlation lengths, in steps, by the name of the data set."""
BY_PARAMETERS = "field_by_parameters"
RANGES = ((0.75, 3.0), (0.5, 2.0))
"""Of the correlation length and of the standard deviation, which are uniform in their logarithm."""
CHUNK = 1000  # fields that are coloured at a time
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
    total = min(N_FIELDS, VALUES // int(np.prod(sides))) + N_TEST_FIELDS
    random = np.random.RandomState(0)
    if spec.name == BY_PARAMETERS:
        return _by_parameters(spec.shape, total, random)
    laws = tuple(GaussianField(tuple(sides), length) for length in LENGTHS[spec.name])
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


def _by_parameters(shape: tuple[int, ...], n: int, random: np.random.RandomState) -> Dataset:
    """Fields whose condition vector is their correlation length and standard deviation."""
    least, most = np.log(RANGES).T
    vectors = np.exp(random.uniform(least, most, (n, 2))).astype(np.float32)
    fields, axes = np.empty((n, *shape), np.float32), range(1, len(shape))
    for first in range(0, n, CHUNK):
        rows = slice(first, first + CHUNK)
        power = powers(shape[:-1], *vectors[rows].T.astype(np.float64))[..., None]
        modes = np.fft.fftn(random.randn(*power.shape), axes=axes)
        fields[rows] = np.fft.ifftn(modes * np.sqrt(power), axes=axes).real
    train, test = slice(N_TEST_FIELDS, None), slice(N_TEST_FIELDS)
    conditions = ({"vector": vectors[rows]} for rows in (train, test))
    halves = dict(zip(("train_conditions", "test_conditions"), conditions, strict=True))
    return Dataset(fields[train], fields[test], None, **halves, law_of=partial(_law, shape[:-1]))


def _law(sides: tuple[int, ...], vector: np.ndarray) -> GaussianField:
    length, amplitude = map(float, vector)
    return GaussianField(sides, length, amplitude=amplitude)
