"""SciPy's electrocardiogram, five minutes at 360 samples a second, in windows of equal length."""

import numpy as np
from jaxtyping import Float

from experiments.data.dataset import Dataset, DataSpec
from experiments.data.sources.optional import require

RATE = 360  # samples a second
STRIDE = 8  # samples from the start of one training window to that of the next
LEVEL = 1 / 200  # millivolt: one level of the recorder
URL = "github.com/scipy/dataset-ecg"


def load(spec: DataSpec) -> Dataset:
    """Windows of spec.shape = (length, 1) in millivolt, from one patient's record.

    The last part of every minute, a share spec.test_fraction, is for tests: the heart does not beat
    alike in all of them. No window reaches into another part. Training windows overlap one another,
    test windows do not. A uniform draw within each level of the recorder makes the values a
    density; it is the same at each load.

    Raises:
        ValueError: another shape, no package pooch, or no download.
    """
    record = _record()
    minutes = record[: len(record) // (60 * RATE) * 60 * RATE].reshape(-1, 60 * RATE, 1)
    n_test = round(60 * RATE * spec.test_fraction)
    most, length = min(n_test, 60 * RATE - n_test), spec.shape[0]
    if len(spec.shape) != 2 or spec.shape[1] != 1 or length > most:
        raise ValueError(
            f"config.data.shape is {spec.shape}, but windows of the electrocardiogram are series "
            f"of one channel: (length, 1) with a length of at most {most}, which fits into the "
            f"share config.data.test_fraction = {spec.test_fraction} of a minute, and the rest"
        )
    noise = np.random.RandomState(0).uniform(-0.5, 0.5, minutes.shape)
    minutes = (minutes + LEVEL * noise).astype(np.float32)
    train, test = minutes[:, :-n_test], minutes[:, -n_test:]
    note = f"windows of {length / RATE:.2f} seconds; tests have the end of every minute"
    windows = _windows(train, length, STRIDE), _windows(test, length, length)
    share = spec.test_fraction
    return Dataset(*windows, None, notes=(note,), test_share=share, own_split=True)


def _record() -> Float[np.ndarray, " time"]:
    """The record in millivolt, which SciPy downloads once."""
    pooch = require("pooch", "electrocardiogram")
    from scipy.datasets import electrocardiogram  # needs pooch when it is imported

    try:
        return electrocardiogram()
    except OSError as error:
        raise ValueError(
            f"SciPy could not download its electrocardiogram ({error}): run the same again, or put "
            f"the file ecg.dat of {URL} into {pooch.os_cache('scipy-data')}"
        ) from error


def _windows(
    parts: Float[np.ndarray, "parts time 1"], length: int, stride: int
) -> Float[np.ndarray, "windows length 1"]:
    views = np.lib.stride_tricks.sliding_window_view(parts[..., 0], length, axis=1)[:, ::stride]
    return views.reshape(-1, length, 1)
