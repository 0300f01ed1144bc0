import math

import numpy as np
import pytest

from experiments.data.inspection import measure as measures
from experiments.data.inspection.measure import copies, distances, measure, spectrum

SHAPES = [(2,), (50,), (64, 1), (8, 8, 3), (4, 6, 5, 1)]


def as_it_is(batch):
    return batch


def gaussian(n, shape, std, seed=0):
    return (std * np.random.RandomState(seed).randn(n, *shape)).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gaussian_data_have_their_standard_deviation(shape):
    found = measure(gaussian(2000, shape, 3.0), as_it_is)
    assert found.std == pytest.approx(3, rel=0.05)
    assert len(found.channel_stds) == shape[-1]
    np.testing.assert_allclose(found.channel_stds, 3, rtol=0.1)
    assert (found.shape, found.total, found.n) == (shape, 2000, 2000)


def test_the_largest_distance_of_gaussian_data_is_near_its_expectation():
    """Squared distances are 2 std^2 chi^2 with d degrees of freedom: the largest of n^2 / 2."""
    from scipy.stats import chi2

    n, d, std = 1000, 300, 0.7
    found = measure(gaussian(n, (d,), std), as_it_is)
    expected = std * math.sqrt(2 * chi2.isf(2 / (n * (n - 1)), d))
    assert found.largest == pytest.approx(expected, rel=0.03)
    nearest = std * math.sqrt(2 * chi2.ppf(1 / (n - 1), d))
    assert found.nearest == pytest.approx(nearest, rel=0.05)


def test_distances_are_those_of_all_pairs():
    x = gaussian(200, (7,), 1.0)
    pairs = np.linalg.norm(x[:, None] - x[None], axis=-1)
    largest, nearest = distances(x - x.mean(0))
    np.fill_diagonal(pairs, np.inf)
    np.testing.assert_allclose(nearest, pairs.min(1), rtol=1e-5)
    np.fill_diagonal(pairs, 0)
    assert largest == pytest.approx(pairs.max(), rel=1e-5)


@pytest.mark.parametrize("wrap", [np.asarray, lambda x: Lazy(x)], ids=["array", "lazy"])
def test_copies_are_counted_and_are_no_neighbours(wrap):
    x = gaussian(90, (5, 5, 1), 1.0)
    found = measure(wrap(np.concatenate([x, x[:30]])), as_it_is)
    assert (found.copies, found.compared) == (30, 120)
    assert found.smallest > 1
    assert copies(x) == 0


class Lazy:
    """A sequence that counts the samples it reads at a time."""

    def __init__(self, x):
        self.x, self.shape, self.most = x, x.shape, 0

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        self.most = max(self.most, len(index))
        return self.x[index]


def test_large_data_are_measured_by_some_samples_which_are_read_in_parts(monkeypatch):
    monkeypatch.setattr(measures, "CHUNK", 640)
    values = Lazy(gaussian(3000, (8, 8, 1), 2.0))
    found = measure(values, as_it_is, most=400)
    assert (found.n, found.total, found.compared) == (400, 3000, 400)
    assert values.most == 10
    assert found.std == pytest.approx(2, rel=0.05)
    assert found == measure(values, as_it_is, most=400)


def field(n, grid, slope, seed=0):
    """Periodic Gaussian fields whose power goes with the frequency to a power."""
    each = np.meshgrid(*map(np.fft.fftfreq, grid), indexing="ij")
    frequency = np.sqrt(sum(f**2 for f in each))
    frequency.flat[0] = np.inf if slope < 0 else 1
    noise = np.random.RandomState(seed).randn(n, *grid)
    axes = tuple(range(1, 1 + len(grid)))
    waves = np.fft.fftn(noise, axes=axes) * frequency ** (slope / 2)
    return np.fft.ifftn(waves, axes=axes).real[..., None].astype(np.float32)


@pytest.mark.parametrize("slope", [-3.0, -2.0, 0.0])
@pytest.mark.parametrize("grid", [(256,), (48, 64), (16, 16, 16)], ids=str)
def test_the_spectrum_of_a_random_field_has_its_slope_and_power(grid, slope):
    found = spectrum(field(60, grid, slope))
    assert found.slope == pytest.approx(slope, abs=0.25 if slope else 0.1)
    last = found.frequency[-1]
    assert found.power[-1] == pytest.approx(last**slope, rel=0.3)


def test_white_noise_has_its_variance_at_every_frequency():
    found = spectrum(gaussian(400, (16, 16, 2), 1.5))
    np.testing.assert_allclose(found.power, 2.25, rtol=0.15)
    assert 0 < found.frequency[0] < found.frequency[-1] <= 0.5


@pytest.mark.parametrize("shape", [(9,), (3, 2), (2, 2, 1)], ids=str)
def test_data_without_a_grid_have_no_spectrum(shape):
    assert measure(gaussian(20, shape, 1.0), as_it_is).spectrum is None


def test_values_that_are_not_finite_are_refused():
    x = gaussian(20, (3,), 1.0)
    x[4, 1] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        measure(x, as_it_is)


def test_missing_values_are_left_out_of_the_measures():
    x = gaussian(2000, (8, 2), 3.0)
    x[..., 1] += 5
    gone = np.random.RandomState(1).rand(*x.shape) < 0.3
    gone[:20] = False
    found = measure(np.where(gone, np.nan, x), as_it_is, missing=True)
    np.testing.assert_allclose(found.channel_stds, 3, rtol=0.03)
    assert found.spectrum is not None
    assert found.spectrum.slope == pytest.approx(0, abs=0.5)  # of the complete ones
    with pytest.raises(ValueError, match="values that are not finite"):
        measure(np.where(gone, np.nan, x), as_it_is)
    gone[:] = True
    gone[:, 0, :] = False
    assert measure(np.where(gone, np.nan, x), as_it_is, missing=True).spectrum is None
