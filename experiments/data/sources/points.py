"""Points in the plane, drawn at each load with the same seed."""

import math
from collections.abc import Callable

import numpy as np

from experiments.data.dataset import Dataset, DataSpec
from sde_lib import GaussianMixture

N_POINTS = 20_000
N_TEST_POINTS = 2_000
MIXTURE = GaussianMixture(
    weights=(0.125,) * 8,
    means=tuple((2 * math.cos(k * math.pi / 4), 2 * math.sin(k * math.pi / 4)) for k in range(8)),
    std=0.2,
)


def load(spec: DataSpec) -> Dataset:
    """Draws the points named by the spec, scaled to about unit size."""
    total = N_POINTS + N_TEST_POINTS
    points = DRAWS[spec.name](total, np.random.RandomState(0)).astype(np.float32)
    points = points[np.random.RandomState(1).permutation(total)]
    return Dataset(points[N_TEST_POINTS:], points[:N_TEST_POINTS], levels=None)


def _swiss_roll(n, random):
    from sklearn.datasets import make_swiss_roll  # takes 0.9 s, so only this data set imports it

    points, _ = make_swiss_roll(n, noise=0.5, random_state=random)
    return points[:, [0, 2]] / 7


def _moons(n, random):
    from sklearn.datasets import make_moons  # likewise

    points, _ = make_moons(n, noise=0.07, random_state=random)
    return (points - np.array([0.5, 0.25])) * 1.5


def _checkerboard(n, random):
    column = random.randint(4, size=n)
    row = 2 * random.randint(2, size=n) + column % 2
    return np.stack([column, row], axis=1) + random.uniform(size=(n, 2)) - 2


def _mixture(n, random):
    centres = np.asarray(MIXTURE.means)
    return centres[random.randint(8, size=n)] + MIXTURE.std * random.randn(n, 2)


DRAWS: dict[str, Callable[[int, np.random.RandomState], np.ndarray]] = {
    "swiss_roll": _swiss_roll,
    "moons": _moons,
    "checkerboard": _checkerboard,
    "mixture": _mixture,
}
