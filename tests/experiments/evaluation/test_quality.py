import numpy as np
import pytest
import scipy.linalg

from experiments.evaluation import quality
from experiments.evaluation.quality import Moments


def gaussian(mean, covariance):
    return Moments(2, np.asarray(mean), np.asarray(covariance))


def rotation(dims, random):
    return np.linalg.qr(random.standard_normal((dims, dims)))[0]


def test_moments_do_not_depend_on_batches_or_order():
    """With a mean of a million standard deviations, which a sum of squares would not survive."""
    x = 1e6 + np.random.RandomState(0).standard_normal((500, 7)) * np.arange(1, 8)
    whole, merged = Moments.of(x), Moments.of(x[490:])
    for part in np.split(x[:490], [1, 100, 101, 400]):
        merged = Moments.of(part).merge(merged)
    assert merged.n == 500
    np.testing.assert_allclose(merged.mean, x.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(merged.covariance, np.cov(x.T), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(merged.covariance, whole.covariance, rtol=1e-8, atol=1e-8)


def test_frechet_distance_of_diagonal_gaussians():
    a = gaussian([1.0, 0.0, 0.0], np.diag([4.0, 1.0, 0.0]))
    b = gaussian([0.0, 2.0, 0.0], np.diag([1.0, 1.0, 9.0]))
    assert quality.frechet_distance(a, b) == pytest.approx(1 + 4 + 1 + 0 + 9, rel=1e-14)
    assert quality.frechet_distance(a, a) == pytest.approx(0, abs=1e-14)


@pytest.mark.parametrize("dims", [64, pytest.param(2048, marks=pytest.mark.slow)])
@pytest.mark.parametrize("rank", [1.0, 0.3])
def test_frechet_distance_of_covariances_that_do_not_commute(dims, rank):
    """For B = T A T with symmetric T >= 0, the root of A^1/2 B A^1/2 is A^1/2 T A^1/2."""
    random = np.random.RandomState(0)
    spectrum = np.logspace(0, -6, dims) * (np.arange(dims) < rank * dims)
    q, r = rotation(dims, random), rotation(dims, random)
    covariance, t = q * spectrum @ q.T, r * np.linspace(0, 1.9, dims) @ r.T
    a, b = gaussian(np.zeros(dims), covariance), gaussian(np.zeros(dims), t @ covariance @ t)
    exact = np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.trace(t @ covariance)
    assert quality.frechet_distance(a, b) == pytest.approx(exact, rel=1e-9)
    assert quality.frechet_distance(b, a) == pytest.approx(exact, rel=1e-9)


def test_frechet_distance_is_the_textbook_formula():
    random = np.random.RandomState(0)
    a, b = (Moments.of(random.standard_normal((200, 40)) @ rotation(40, random)) for _ in range(2))
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance)
    textbook = np.sum((a.mean - b.mean) ** 2) + np.trace(a.covariance + b.covariance - 2 * root)
    assert quality.frechet_distance(a, b) == pytest.approx(textbook.real, rel=1e-8)


def test_frechet_distance_of_fewer_images_than_features():
    """The textbook's square root is ill-conditioned here; the images' own factors are not."""
    random = np.random.RandomState(0)
    x, y = random.standard_normal((30, 64)), 0.1 + random.standard_normal((20, 64))
    a, b = Moments.of(x), Moments.of(y)
    f, g = (x - a.mean) / np.sqrt(29), (y - b.mean) / np.sqrt(19)
    exact = np.sum((a.mean - b.mean) ** 2) + np.sum(f**2) + np.sum(g**2)
    exact -= 2 * np.linalg.norm(f @ g.T, "nuc")
    assert quality.frechet_distance(a, b) == pytest.approx(exact, rel=1e-12)
    constant = Moments.of(np.ones((5, 64)))
    squares = np.sum((a.mean - 1) ** 2)
    assert quality.frechet_distance(a, constant) == pytest.approx(squares + np.sum(f**2), rel=1e-12)


def test_matrices_that_are_no_covariance_are_refused():
    with pytest.raises(ValueError, match="not positive semi-definite"):
        quality.frechet_distance(gaussian([0, 0], np.diag([1, -1])), gaussian([0, 0], np.eye(2)))
    with pytest.raises(ValueError, match="not finite"):
        gaussian([0, np.nan], np.eye(2))


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_kernel_distance_is_unbiased_and_knows_its_error(shift):
    """In one dimension the kernel is 1 + 3 xy + 3 (xy)^2 + (xy)^3: MMD^2 follows from moments."""
    random = np.random.RandomState(0)
    exact = 3 * shift**2 + 3 * shift**4 + (shift**3 + 3 * shift) ** 2
    results = []
    for _ in range(200):
        x, y = random.standard_normal((2, 60, 1))
        results.append(quality.kernel_distance(x, y + shift, 15, 20))
    means, errors = np.transpose(results)
    spread = means.std()
    assert abs(means.mean() - exact) < 3 * spread / np.sqrt(200)
    root_mean_square = np.sqrt(np.mean(errors**2))
    assert spread < 1.2 * root_mean_square
    assert shift == 0 or spread > 0.7 * root_mean_square


def test_kernel_distance_of_two_subsets_by_hand():
    """With 3 of 4 images in a subset, each value is one of 16."""
    random = np.random.RandomState(1)
    x, y = random.standard_normal((2, 4, 5))
    kernel = lambda a, b: (a @ b / 5 + 1) ** 3  # noqa: E731

    def mmd2(x, y):
        pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
        same = sum(kernel(x[i], x[j]) + kernel(y[i], y[j]) for i, j in pairs) / 6
        return same - 2 * sum(kernel(a, b) for a in x for b in y) / 9

    values = [mmd2(np.delete(x, i, 0), np.delete(y, j, 0)) for i in range(4) for j in range(4)]
    result = quality.kernel_distance(x, y, subset_size=3, n_subsets=2, seed=3)
    means = [(a + b) / 2 for a in values for b in values]
    match = np.argmin(np.abs(np.subtract(means, result.mean)))
    assert result.mean == pytest.approx(means[match], rel=1e-12)
    difference = abs(values[match // 16] - values[match % 16])
    assert result.error == pytest.approx(difference * np.sqrt((3 / 1 + 1 / 2) / 2), rel=1e-12)


def test_inception_score_of_known_predictions():
    sure = 100 * np.eye(5)[np.arange(40) % 5]
    assert quality.inception_score(sure, 4) == pytest.approx((5, 0), abs=1e-12)
    assert quality.inception_score(np.full((40, 5), 3.0)) == pytest.approx((1, 0), abs=1e-12)
    one_class = 100 * np.eye(5)[np.zeros(40, int)]
    halves = quality.inception_score(np.concatenate([one_class, sure]), 2)
    assert halves == pytest.approx((3, 2), abs=1e-12)
    p = np.array([[0.9, 0.1], [0.1, 0.9]])
    entropy = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1))
    score = quality.inception_score(np.log(p) + 7, 1)
    assert score == pytest.approx((2 * np.exp(-entropy), 0), abs=1e-12)


def test_precision_and_recall_of_sets_that_are_alike_apart_and_half_covered():
    random = np.random.RandomState(0)
    here, there = random.standard_normal((50, 3)), 100 + random.standard_normal((50, 3))
    assert quality.precision_recall(here, here) == (1, 1)
    assert quality.precision_recall(here, there) == (0, 0)
    assert quality.precision_recall(np.concatenate([here, there]), here) == (1, 0.5)
    repeated = 1e3 + np.repeat(random.standard_normal((6, 3)), 5, axis=0)  # of radius 0
    assert quality.precision_recall(repeated, repeated[::5]) == (1, 1)


def test_precision_and_recall_are_the_definition_in_blocks(monkeypatch):
    monkeypatch.setattr(quality, "BLOCK", 100)
    random = np.random.RandomState(0)
    x, y = random.standard_normal((33, 4)), 0.7 + random.standard_normal((27, 4))

    def covered(points, members, k):
        radii = [np.sort(np.linalg.norm(members - m, axis=1))[k] for m in members]
        near = [np.linalg.norm(members - point, axis=1) <= radii for point in points]
        return np.mean(np.any(near, axis=1))

    for k in (1, 3):
        expected = covered(y, x, k), covered(x, y, k)
        assert quality.precision_recall(x, y, k) == pytest.approx(expected, abs=1e-12)


def test_density_and_coverage_are_the_definition_in_blocks(monkeypatch):
    """As in the package prdc 0.2: counts of samples in balls around the data."""
    monkeypatch.setattr(quality, "BLOCK", 100)
    random = np.random.RandomState(0)
    x, y = random.standard_normal((33, 4)), 0.7 + random.standard_normal((27, 4))
    for k in (1, 5):
        radii = [np.sort(np.linalg.norm(x - member, axis=1))[k] for member in x]
        near = np.linalg.norm(x[:, None] - y, axis=-1) < np.array(radii)[:, None]
        expected = near.sum(axis=0).mean() / k, near.any(axis=1).mean()
        assert quality.density_coverage(x, y, k) == pytest.approx(expected, abs=1e-12)
    assert quality.density_coverage(x, 100 + y) == (0, 0)


@pytest.mark.parametrize(
    ("statistic", "needed"),
    [
        (lambda x: Moments.of(x[:1]).covariance, "2 images, there are 1"),
        (lambda x: quality.kernel_distance(x, x, subset_size=5), "6 images, there are 5"),
        (lambda x: quality.inception_score(x), "10 images, there are 5"),
        (lambda x: quality.precision_recall(x, x, k=5), "6 images, there are 5"),
        (lambda x: quality.density_coverage(x, x), "6 images, there are 5"),
    ],
)
def test_too_few_images_are_an_error(statistic, needed):
    with pytest.raises(ValueError, match=f"needs at least {needed}"):
        statistic(np.eye(5))


def test_features_of_two_networks_and_broken_ones_are_refused():
    x = np.random.RandomState(0).standard_normal((12, 4))
    for compare in (
        lambda y: quality.frechet_distance(Moments.of(x), Moments.of(y)),
        lambda y: quality.kernel_distance(x, y, 5),
        lambda y: quality.precision_recall(x, y),
    ):
        with pytest.raises(ValueError, match="sets of 4 and 3 features cannot be compared"):
            compare(x[:, :3])
        with pytest.raises(ValueError, match="features of 1 of 12 images are not finite"):
            compare(np.where(x == x[3, 2], np.inf, x))
