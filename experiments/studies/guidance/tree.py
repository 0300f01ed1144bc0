"""Two classes of points in the plane: trees whose crowns touch, with known modes and densities.

It is the toy of Karras et al. 2024 (arXiv 2406.02507, Figure 1), with Gaussians along the branches.
Each branch is a mode. Outside of the branches there are no data, so that errors of a model show.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from experiments.studies.guidance.points import Points
from sde_lib import GaussianMixture

DEPTH, LENGTH, SHRINK, TURN = 4, 0.9, 0.74, 0.42  # of the branches; a turn in radians
PER_BRANCH, STD = 6, 0.035  # Gaussians along a branch, and their standard deviation
ROOTS = ((-1.5, -0.9, 0.35), (1.5, -0.9, math.pi - 0.35))  # of the classes: x, y, angle
OUTSIDE = 1e-3  # share of the data that counts as outside: those of the least density
KEPT = 0.5  # a mode is kept if it has at least this part of its share
N_EXACT = 100_000


class Tree(NamedTuple):
    """One class.

    Attributes:
        mixture: its distribution.
        branch: [K] number of the branch that each Gaussian belongs to.
        shares: [M] shares of the branches.
        threshold: the log density below which a share OUTSIDE of the data is.
    """

    mixture: GaussianMixture
    branch: Int[np.ndarray, " gaussians"]
    shares: Float[np.ndarray, " branches"]
    threshold: float

    def outside(self, x: Points) -> float:
        """The share of the points outside of the region of the data."""
        return float(np.mean(log_prob(self.mixture, x) < self.threshold))

    def found(self, x: Points) -> Float[np.ndarray, " branches"]:
        """The shares of the points that lie nearest to each branch, over those of the data.

        Points outside of the region count for none.
        """
        inside = x[log_prob(self.mixture, x) >= self.threshold]
        away = ((inside[:, None] - np.asarray(self.mixture.means)) ** 2).sum(axis=2)
        nearest = self.branch[away.argmin(axis=1)]
        return np.bincount(nearest, minlength=len(self.shares)) / len(x) / self.shares


def tree(root: Sequence[float]) -> Tree:
    """The class that grows from a root (x, y, angle)."""
    means, branch, weights = [], [], []
    for k, (start, end, level) in enumerate(_branches(np.array(root[:2]), root[2], 0)):
        for share in (np.arange(PER_BRANCH) + 0.5) / PER_BRANCH:
            means.append(tuple((start + share * (end - start)).tolist()))
            branch.append(k)
            weights.append(2.0**-level / DEPTH / PER_BRANCH)
    mixture = GaussianMixture(tuple(weights), tuple(means), STD)
    own = log_prob(mixture, exact(mixture, N_EXACT, 0))
    shares = np.bincount(branch, weights)
    return Tree(mixture, np.array(branch), shares, float(np.quantile(own, OUTSIDE)))


def both(trees: Sequence[Tree]) -> GaussianMixture:
    """The distribution of both classes together."""
    weights = [w / len(trees) for each in trees for w in each.mixture.weights]
    return GaussianMixture(tuple(weights), sum((t.mixture.means for t in trees), ()), STD)


def exact(mixture: GaussianMixture, n: int, seed: int) -> Points:
    """n samples of a mixture."""
    random = np.random.RandomState(seed)
    chosen = random.choice(len(mixture.weights), n, p=mixture.weights)
    return np.asarray(mixture.means)[chosen] + mixture.std * random.randn(n, 2)


def log_prob(mixture: GaussianMixture, x: Points) -> Float[np.ndarray, " n"]:
    """The log density of points, a part of them at a time."""
    parts = np.array_split(np.asarray(x, np.float32), -(-len(x) // 10_000))
    return np.concatenate([np.asarray(mixture.log_prob(jnp.asarray(part))) for part in parts])


def _branches(
    start: np.ndarray, angle: float, level: int
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """(start, end, level) of a branch and of all that grow from it."""
    end = start + LENGTH * SHRINK**level * np.array([math.cos(angle), math.sin(angle)])
    yield start, end, level
    if level + 1 < DEPTH:
        for turn in (TURN, -TURN):
            yield from _branches(end, angle + turn, level + 1)
