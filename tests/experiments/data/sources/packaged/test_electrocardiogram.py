import sys
import types

import numpy as np
import pytest

from experiments.data.dataset import DataSpec
from experiments.data.load import load
from experiments.data.sources.packaged import electrocardiogram

MINUTE = 60 * electrocardiogram.RATE
TIMES = np.arange(2 * MINUTE + 99, dtype=np.float64)


@pytest.fixture
def record(monkeypatch):
    """In place of SciPy's record: one whose values are the times."""
    scipy = types.SimpleNamespace(electrocardiogram=lambda: TIMES)
    pooch = types.SimpleNamespace(os_cache=lambda name: f"/cache/{name}")
    monkeypatch.setitem(sys.modules, "pooch", pooch)
    monkeypatch.setitem(sys.modules, "scipy.datasets", scipy)
    return scipy


def test_no_window_reaches_into_another_part(record):
    spec = DataSpec("electrocardiogram", (256, 1), test_fraction=0.25)
    dataset = load(spec)
    train, test = ({*np.rint(part).ravel().astype(int)} for part in (dataset.train, dataset.test))
    assert not train & test
    assert train == {time for time in range(2 * MINUTE) if time % MINUTE < 0.75 * MINUTE}
    assert all(time % MINUTE >= 0.75 * MINUTE for time in test)
    for part in (dataset.train, dataset.test):
        assert part.shape[1:] == (256, 1)
        assert part.dtype == np.float32
        assert (np.diff(np.rint(part), axis=1) == 1).all()
    starts = np.rint(dataset.train[:, 0, 0])
    assert starts[1] - starts[0] == electrocardiogram.STRIDE
    assert len(test) == dataset.test.size  # test windows do not overlap
    np.testing.assert_array_equal(load(spec).train, dataset.train)


def test_levels_of_the_recorder_become_a_density(record):
    record.electrocardiogram = lambda: np.zeros(MINUTE)
    values = electrocardiogram.load(DataSpec("electrocardiogram", (256, 1))).train
    assert np.abs(values).max() <= electrocardiogram.LEVEL / 2
    assert values.std() == pytest.approx(electrocardiogram.LEVEL / 12**0.5, rel=0.02)


@pytest.mark.parametrize("shape", [(256, 2), (8, 8, 1), (3000, 1)], ids=str)
def test_other_shapes_are_refused(record, shape):
    with pytest.raises(ValueError, match=r"\(length, 1\) with a length of at most 2160, which fit"):
        load(DataSpec("electrocardiogram", shape))


def test_a_record_that_cannot_be_had_is_refused(record, monkeypatch):
    def offline():
        raise ConnectionError("no route to host")

    record.electrocardiogram, spec = offline, DataSpec("electrocardiogram", (256, 1))
    message = r"no route to host\): run the same again, or put the file ecg.dat .* into /cache/sci"
    with pytest.raises(ValueError, match=message):
        load(spec)
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ValueError, match=r"needs the package pooch: pip install -e '.\[electroc"):
        load(spec)
