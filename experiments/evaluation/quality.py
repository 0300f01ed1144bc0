"""Statistics of samples and data from their features: distances, precision, recall, density.

Everything is computed in float64 on the host.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from sde_lib.checks import check_at_least

Features = Float[np.ndarray, "n dims"]
BLOCK = 2**23  # distances held at once


class KernelDistance(NamedTuple):
    """The squared maximum mean discrepancy (MMD^2), and its standard error."""

    mean: float
    error: float


class InceptionScore(NamedTuple):
    """The Inception Score: its mean and standard deviation over the splits."""

    mean: float
    std: float


class PrecisionRecall(NamedTuple):
    """The fraction of samples near data (precision), and of data near samples (recall)."""

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """Density of samples around data, about 1 if they are alike, and fraction of data near them."""

    density: float
    coverage: float


@dataclasses.dataclass(frozen=True)
class Moments:
    """The moments of a set of features, which do not depend on its order and batches.

    Attributes:
        n: the number of images.
        mean: [D].
        scatter: [D, D], the sum of (x - mean) (x - mean)^T.
    """

    n: int
    mean: Float[np.ndarray, " dims"]
    scatter: Float[np.ndarray, "dims dims"]

    def __post_init__(self):
        if not (np.isfinite(self.mean).all() and np.isfinite(self.scatter).all()):
            raise ValueError(f"the moments of these {self.n} images are not finite")

    @classmethod
    def of(cls, features: Features) -> "Moments":
        """The moments of one batch.

        Raises:
            ValueError: an empty batch, or features that are not finite.
        """
        x = _checked(features, 1)
        mean = x.mean(axis=0)
        return cls(len(x), mean, (x - mean).T @ (x - mean))

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both sets together (Chan, Golub & LeVeque 1983)."""
        _check_dims(len(self.mean), len(other.mean))
        n, shift = self.n + other.n, other.mean - self.mean
        scatter = self.scatter + other.scatter + self.n * other.n / n * np.outer(shift, shift)
        return Moments(n, self.mean + other.n / n * shift, scatter)

    @property
    def covariance(self) -> Float[np.ndarray, "dims dims"]:
        """The unbiased estimate of the covariance.

        Raises:
            ValueError: fewer than two images.
        """
        _check_count("a covariance", self.n, 2)
        return self.scatter / (self.n - 1)


def frechet_distance(a: Moments, b: Moments) -> float:
    """The squared Wasserstein-2 distance between two Gaussians (Heusel et al. 2017, Eq. 6).

    It is |mean_a - mean_b|^2 + tr A + tr B - 2 tr (A B)^1/2. For any factors A = F^T F and
    B = G^T G, the last trace is the sum of the singular values of F G^T. These stay precise where
    A or B is singular, as with fewer images than features; the square root of A B does not.

    Raises:
        ValueError: fewer than two images, different numbers of features, or no covariance.
    """
    _check_dims(len(a.mean), len(b.mean))
    f, g = _factor(a.covariance), _factor(b.covariance)
    cross = np.sum(np.linalg.svd(f @ g.T, compute_uv=False))
    squares = np.sum((a.mean - b.mean) ** 2) + np.sum(f**2) + np.sum(g**2)
    return max(float(squares - 2 * cross), 0.0)


def kernel_distance(
    a: Features, b: Features, subset_size: int = 1000, n_subsets: int = 100, seed: int = 0
) -> KernelDistance:
    """KID (Binkowski et al. 2018): an unbiased estimate of MMD^2 for the kernel (x.y / D + 1)^3.

    The estimate is the mean over random subsets of both sets. The subsets overlap, so their
    standard deviation s understates the error. With k subsets of m images among n, the variance is
    s^2 (m / (n - m) + 1 / k): the delete-d jackknife (Shao & Wu 1989), and the finite number k.

    Args:
        a: features of the first set.
        b: features of the second set.
        subset_size: images in a subset.
        n_subsets: number of subsets.
        seed: chooses the subsets.

    Raises:
        ValueError: a set that is not larger than a subset, or a subset of fewer than two images.
    """
    check_at_least(2, subset_size=subset_size, n_subsets=n_subsets)
    a, b = _checked(a, subset_size + 1), _checked(b, subset_size + 1)
    _check_dims(a.shape[1], b.shape[1])
    random = np.random.RandomState(seed)
    values = [
        _mmd2(*(x[random.choice(len(x), subset_size, replace=False)] for x in (a, b)))
        for _ in range(n_subsets)
    ]
    rest = min(len(a), len(b)) - subset_size
    error = np.std(values, ddof=1) * np.sqrt(subset_size / rest + 1 / n_subsets)
    return KernelDistance(float(np.mean(values)), float(error))


def inception_score(logits: Float[np.ndarray, "n classes"], n_splits: int = 10) -> InceptionScore:
    """The Inception Score exp E KL(p(y|x) || p(y)), in n_splits parts (Salimans et al. 2016).

    Raises:
        ValueError: fewer images than splits, or logits that are not finite.
    """
    from scipy.special import log_softmax, logsumexp  # training need not wait 0.3 s for them

    check_at_least(1, n_splits=n_splits)
    log_p = log_softmax(_checked(logits, n_splits), axis=1)
    scores = []
    for part in np.array_split(log_p, n_splits):
        log_marginal = logsumexp(part, axis=0) - np.log(len(part))
        scores.append(np.exp(np.mean(np.sum(np.exp(part) * (part - log_marginal), axis=1))))
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)))


def precision_recall(data: Features, samples: Features, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall (Kynkäänniemi et al. 2019, Eqs. 1 and 2).

    A member of a set covers the points that are no farther away than its k-th nearest neighbour in
    the set. Precision is the fraction of samples that the data cover, recall the opposite.

    Raises:
        ValueError: fewer than k + 1 images, or different numbers of features.
    """
    data, samples = _centred(data, samples, k)
    return PrecisionRecall(_covered(samples, data, k), _covered(data, samples, k))


def density_coverage(data: Features, samples: Features, k: int = 5) -> DensityCoverage:
    """Density and coverage (Naeem et al. 2020, Eqs. 3 and 4).

    Each image of the data has a ball that reaches to its k-th nearest neighbour in the data.
    Density is the number of balls that a sample lies in, on average, over k; it can exceed 1.
    Coverage is the fraction of balls that hold a sample. Unlike precision and recall they do not
    depend on single outliers of the data or of the samples.

    Raises:
        ValueError: fewer than k + 1 images, or different numbers of features.
    """
    data, samples = _centred(data, samples, k)
    radii, inside, covered = _radii(data, k), 0, 0
    rows = max(BLOCK // len(samples), 1)
    for first in range(0, len(data), rows):
        block = slice(first, first + rows)
        near = squared_distances(data[block], samples) <= radii[block, None]
        inside += np.sum(near)
        covered += np.sum(np.any(near, axis=1))
    return DensityCoverage(float(inside / (k * len(samples))), float(covered / len(data)))


def _factor(covariance: np.ndarray) -> np.ndarray:
    """A matrix F with F^T F = covariance, and as many rows as the numerical rank."""
    values, vectors = np.linalg.eigh(covariance)
    if not values[0] >= -1e-4 * abs(values[-1]):
        raise ValueError(
            "the covariance is not positive semi-definite: its eigenvalues are from "
            f"{values[0]:.3g} to {values[-1]:.3g}"
        )
    kept = values > len(values) * np.finfo(np.float64).eps * values[-1]
    return np.sqrt(values[kept])[:, None] * vectors[:, kept].T


def _mmd2(x: np.ndarray, y: np.ndarray) -> float:
    def kernel(x, y):
        return (x @ y.T / x.shape[1] + 1) ** 3

    def mean_of_pairs(gram):
        return (gram.sum() - np.trace(gram)) / (len(gram) * (len(gram) - 1))

    within = mean_of_pairs(kernel(x, x)) + mean_of_pairs(kernel(y, y))
    return within - 2 * kernel(x, y).mean()


def _centred(data: Features, samples: Features, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Both sets, checked, less the mean of the data: smaller products have smaller errors."""
    check_at_least(1, k=k)
    data, samples = _checked(data, k + 1), _checked(samples, k + 1)
    _check_dims(data.shape[1], samples.shape[1])
    centre = data.mean(axis=0)
    return data - centre, samples - centre


def _radii(members: np.ndarray, k: int) -> np.ndarray:
    """The squared distance of each member to its k-th nearest neighbour."""
    rows = max(BLOCK // len(members), 1)
    radii = []
    for first in range(0, len(members), rows):
        squares = squared_distances(members[first : first + rows], members)
        squares[np.arange(len(squares)), first + np.arange(len(squares))] = np.inf  # to itself
        radii.append(np.partition(squares, k - 1, axis=1)[:, k - 1])
    return np.concatenate(radii)


def _covered(points: np.ndarray, members: np.ndarray, k: int) -> float:
    """The fraction of points that the members cover."""
    radii, covered = _radii(members, k), 0
    rows = max(BLOCK // len(members), 1)
    for first in range(0, len(points), rows):
        squares = squared_distances(points[first : first + rows], members)
        covered += np.sum(np.any(squares <= radii, axis=1))
    return float(covered / len(points))


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared distances, [len(x), len(y)]: exactly 0 for points that are equal up to rounding."""
    squares = np.sum(x**2, axis=1)[:, None] + np.sum(y**2, axis=1)
    distances = squares - 2 * x @ y.T
    distances[distances < 1e-12 * squares] = 0
    return distances


def _checked(features: np.ndarray, needed: int) -> np.ndarray:
    """The features as float64 [n, D]; raises ValueError unless n >= needed and all are finite."""
    x = np.asarray(features, np.float64)
    if x.ndim != 2:
        raise ValueError(f"features must be [images, dims], their shape is {list(x.shape)}")
    _check_count("this statistic", len(x), needed)
    if not np.isfinite(x).all():
        broken = np.sum(~np.isfinite(x).all(axis=1))
        raise ValueError(f"features of {broken} of {len(x)} images are not finite")
    return x


def _check_count(what: str, n: int, needed: int) -> None:
    if n < needed:
        raise ValueError(f"{what} needs at least {needed} images, there are {n}")


def _check_dims(a: int, b: int) -> None:
    if a != b:
        raise ValueError(
            f"sets of {a} and {b} features cannot be compared: take both from the same network"
        )
