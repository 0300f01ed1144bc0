"""Gaussian random fields: data with known marginals, scores and spectra in 1, 2 and 3 dimensions.

The field is stationary on a periodic grid, so its discrete Fourier modes are independent. Noise has
a flat spectrum. Marginals, scores and densities are those of each mode by itself.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from sde_lib.batch import Batch, PerSample, expand
from sde_lib.checks import check_at_least, check_positive
from sde_lib.sde import SDE, ScoreFn

Samples = Batch | np.ndarray


class Band(NamedTuple):
    """The power of samples over that of the field, in a band of frequencies.

    low, high: the band, in radians a step. ratio: 1 for samples of the field. error: the standard
    error of the ratio.
    """

    low: float
    high: float
    ratio: float
    error: float


@dataclasses.dataclass(frozen=True)
class GaussianField:
    """A field of mean 0 on a periodic grid.

    The power at the frequency w, in radians a step, is c / (1 + (length |w|)^2)^exponent (Whittle
    1954). The constant c makes the mean power amplitude^2. Channels are independent.

    Attributes:
        sides: of the grid: (L,), (H, W) or (D, H, W).
        length: correlation length, in steps.
        exponent: of the power law at high frequencies.
        amplitude: standard deviation of the values.

    Raises:
        ValueError: other than 1 to 3 sides of at least 1, or another number <= 0.
    """

    sides: tuple[int, ...]
    length: float = 1.0
    exponent: float = 2.0
    amplitude: float = 1.0

    def __post_init__(self):
        if not 1 <= len(self.sides) <= 3:
            raise ValueError(f"sides are {self.sides}: a field has 1, 2 or 3 of them")
        check_at_least(1, **{f"sides[{i}]": side for i, side in enumerate(self.sides)})
        numbers = {name: getattr(self, name) for name in ("length", "exponent", "amplitude")}
        check_positive(**numbers)

    @property
    def power(self) -> Float[np.ndarray, "*sides"]:
        """The variance of every Fourier mode, with orthonormal modes."""
        length, amplitude = np.array([self.length]), np.array([self.amplitude])
        return powers(self.sides, length, amplitude, self.exponent)[0]

    def sample(self, key: PRNGKeyArray, n: int, channels: int = 1) -> Batch:
        """Draws n exact samples of x_0, [n, *sides, channels]."""
        return self.coloured(jax.random.normal(key, (n, *self.sides, channels)))

    def coloured(self, noise: Samples) -> Batch:
        """Fields from standard normal noise [B, *sides, C]."""
        return self._times(noise, jnp.sqrt(self._power))

    def score_fn(self, sde: SDE) -> ScoreFn:
        """Exact score of x_t under `sde`, for x of [B, *sides, C]."""

        def score(x: Array, t: Array) -> Array:
            alpha, sigma = (expand(values, x) for values in (sde.alpha(t), sde.sigma(t)))
            return -self._times(x, 1 / (alpha**2 * self._power + sigma**2))

        return score

    def log_prob(self, x: Samples) -> PerSample:
        """Log density of x_0, in nats; x is [B, *sides, C]."""
        return log_prob(x, self.power[None])

    def bands(self, x: Samples, n_bands: int = 4) -> list[Band]:
        """The spectrum of samples [B, *sides, C] over the field's, by bands of frequencies."""
        return bands(x, self.power, n_bands)

    @property
    def _power(self) -> Array:
        return jnp.asarray(self.power[..., None], float)

    def _times(self, x: Samples, factor: Array) -> Array:
        """x with every Fourier mode times a factor that is even in the frequency."""
        return jnp.fft.ifftn(_modes(x) * factor, axes=range(1, x.ndim - 1), norm="ortho").real


def frequencies(sides: tuple[int, ...]) -> Float[np.ndarray, "*sides"]:
    """|w| of every Fourier mode, in radians a step, in the order of numpy.fft.fftn."""
    along = [2 * np.pi * np.fft.fftfreq(side) for side in sides]
    return np.sqrt(sum(w**2 for w in np.meshgrid(*along, indexing="ij")))


def powers(
    sides: tuple[int, ...],
    lengths: Float[np.ndarray, " batch"],
    amplitudes: Float[np.ndarray, " batch"],
    exponent: float = 2.0,
) -> Float[np.ndarray, "batch *sides"]:
    """The power of every mode of fields with these correlation lengths and amplitudes."""
    axes = tuple(range(1, len(sides) + 1))
    length, amplitude = (np.expand_dims(values, axes) for values in (lengths, amplitudes))
    power = (1 + (length * frequencies(sides)) ** 2) ** -exponent
    return amplitude**2 * power / power.mean(axes, keepdims=True)


def mean_power(x: Samples) -> Float[np.ndarray, "*sides"]:
    """The mean power of every orthonormal Fourier mode of samples [B, *sides, C]."""
    return np.mean(np.abs(_modes(x)) ** 2, axis=(0, -1))


def log_prob(x: Samples, power: Float[np.ndarray, "batch *sides"]) -> PerSample:
    """Log densities of fields [B, *sides, C] whose modes have these powers."""
    axes = tuple(range(1, x.ndim))
    squares = jnp.sum(jnp.abs(_modes(x)) ** 2 / jnp.asarray(power[..., None], float), axes)
    log_det = x.shape[-1] * np.log(power).sum(axes[:-1])
    return -0.5 * (squares + log_det + np.prod(x.shape[1:]) * np.log(2 * np.pi))


def bands(x: Samples, power: Float[np.ndarray, "..."], n_bands: int = 4) -> list[Band]:
    """The power of samples [B, *sides, C] over a given one, by bands of frequencies of equal width.

    The given power is [*sides], or [B, *sides] with one for each sample. The frequency 0 is in the
    first band. Each mode has the same weight. Bands without modes are left out.
    """
    ratios = np.mean(np.abs(_modes(x)) ** 2, axis=-1) / power
    w = frequencies(x.shape[1:-1])
    edges = np.linspace(0, w.max(), n_bands + 1)
    of_mode = np.clip(np.digitize(w, edges) - 1, 0, n_bands - 1)
    found = []
    for i in np.unique(of_mode):
        each = ratios[:, of_mode == i].mean(1)
        error = each.std(ddof=1) / len(each) ** 0.5
        found.append(Band(edges[i], edges[i + 1], float(each.mean()), float(error)))
    return found


def _modes(x: Samples) -> Array:
    return jnp.fft.fftn(jnp.asarray(x), axes=range(1, x.ndim - 1), norm="ortho")
