"""Mixture of Gaussians: data with known marginals, scores and moments under any SDE."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from sde_lib.batch import Batch, PerSample, expand
from sde_lib.checks import check_positive
from sde_lib.sde import SDE, ScoreAndEnergy, ScoreFn


class Posterior(NamedTuple):
    """A mixture of Gaussians given a linear measurement: K Gaussians of one covariance.

    Attributes:
        weights: probabilities of the components.
        means: means of the components.
        within: covariance of every component.
    """

    weights: Float[np.ndarray, " k"]
    means: Float[np.ndarray, "k dims"]
    within: Float[np.ndarray, "dims dims"]

    @property
    def mean(self) -> Float[np.ndarray, " dims"]:
        """Mean of x_0 given the measurement."""
        return self.weights @ self.means

    @property
    def covariance(self) -> Float[np.ndarray, "dims dims"]:
        """Covariance of x_0 given the measurement."""
        centred = self.means - self.mean
        return centred.T @ (self.weights[:, None] * centred) + self.within

    def sample(self, random: np.random.RandomState, n: int) -> Float[np.ndarray, "n dims"]:
        """Draws n exact samples."""
        variances, axes = np.linalg.eigh(self.within)
        component = random.choice(len(self.weights), n, p=self.weights)
        noise = random.randn(n, len(variances)) * np.sqrt(np.maximum(variances, 0.0))
        return self.means[component] + noise @ axes.T

    def component_shares(self, x: Float[np.ndarray, "n dims"]) -> Float[np.ndarray, "n k"]:
        """Probabilities of the components given samples; the mean estimates the weights."""
        away = x[:, None] - self.means
        squares = np.einsum("nki,ij,nkj->nk", away, np.linalg.pinv(self.within), away)
        logs = np.log(self.weights) - 0.5 * squares
        shares = np.exp(logs - logs.max(axis=1, keepdims=True))
        return shares / shares.sum(axis=1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class GaussianMixture:
    """Mixture of K isotropic Gaussians: x_0 ~ sum_k weights[k] N(means[k], std^2 I).

    Attributes:
        weights: K probabilities.
        means: K points of D coordinates each.
        std: standard deviation of every component, in every dimension.

    Raises:
        ValueError: weights that are not positive or do not add up to 1, means that are not K points
            of one dimension, or std <= 0.
    """

    weights: tuple[float, ...]
    means: tuple[tuple[float, ...], ...]
    std: float

    def __post_init__(self):
        if not (min(self.weights, default=0) > 0 and abs(sum(self.weights) - 1) < 1e-6):
            raise ValueError(f"weights are {self.weights}: they must be positive and add up to 1")
        if len(self.means) != len(self.weights) or len({len(mean) for mean in self.means}) != 1:
            raise ValueError(f"means must be {len(self.weights)} points; they are {self.means}")
        check_positive(std=self.std)

    def log_prob(self, x: Batch) -> PerSample:
        """Log density of x_0, in nats; x is [B, D]."""
        return self._log_density(x, jnp.ones(len(x)), jnp.full(len(x), self.std**2))

    def noisy_log_prob(self, sde: SDE) -> Callable[[Array, Array], PerSample]:
        """The log density of x_t under `sde`, a function of x [B, D] and t [B], in nats."""

        def log_prob(x: Array, t: Array) -> PerSample:
            alpha = sde.alpha(t)
            return self._log_density(x, alpha, (alpha * self.std) ** 2 + sde.sigma(t) ** 2)

        return log_prob

    def score_fn(self, sde: SDE) -> ScoreFn:
        """Exact score of x_t under `sde`, for x of [B, D]."""
        both = self.score_and_energy(sde).both
        return lambda x, t: both(x, t)[0]

    def score_and_energy(self, sde: SDE) -> ScoreAndEnergy:
        """Exact score and log density of x_t under `sde`, for x of [B, D]."""

        def both(x: Array, t: Array) -> tuple[Array, PerSample]:
            alpha = sde.alpha(t)
            variance = (alpha * self.std) ** 2 + sde.sigma(t) ** 2
            log_parts = self._log_parts(x, alpha, variance)
            share = jax.nn.softmax(log_parts, axis=1)
            mean = expand(alpha, x) * jnp.dot(share, self._means, precision="highest")
            log_norm = 0.5 * x.shape[1] * jnp.log(2 * np.pi * variance)
            return (mean - x) / expand(variance, x), jax.nn.logsumexp(log_parts, axis=1) - log_norm

        return ScoreAndEnergy(both)

    def sample(self, key: PRNGKeyArray, n: int) -> Batch:
        """Draws n exact samples of x_0, [n, D]."""
        key_component, key_noise = jax.random.split(key)
        weights = jnp.asarray(self.weights)
        component = jax.random.choice(key_component, len(weights), (n,), p=weights)
        noise = jax.random.normal(key_noise, (n, len(self.means[0])))
        return self._means[component] + self.std * noise

    def marginal(self, sde: SDE, t: float) -> "GaussianMixture":
        """The distribution of x_t under `sde`, which is a mixture too."""
        alpha, sigma = (float(each(jnp.float32(t))) for each in (sde.alpha, sde.sigma))
        means = tuple(map(tuple, (alpha * np.asarray(self.means)).tolist()))
        return GaussianMixture(self.weights, means, float(np.hypot(alpha * self.std, sigma)))

    def quadrature(
        self, order: int = 16
    ) -> tuple[Float[np.ndarray, "n dims"], Float[np.ndarray, " n"]]:
        """Points and weights of expectations over x_0: `order` nodes an axis for each component.

        It is Gauss-Hermite quadrature, for few dimensions: there are K order^D points.
        """
        nodes, weights = np.polynomial.hermite_e.hermegauss(order)
        axes = [nodes] * len(self.means[0]), [weights / weights.sum()] * len(self.means[0])
        grid, products = (np.stack(np.meshgrid(*a, indexing="ij"), -1) for a in axes)
        grid = grid.reshape(-1, len(self.means[0]))
        points = np.asarray(self.means)[:, None] + self.std * grid
        share = np.asarray(self.weights)[:, None] * products.prod(-1).ravel()
        return points.reshape(-1, grid.shape[1]), share.ravel()

    @property
    def mean(self) -> Float[np.ndarray, " dims"]:
        """Mean of x_0."""
        return np.asarray(self.weights) @ np.asarray(self.means)

    @property
    def covariance(self) -> Float[np.ndarray, "dims dims"]:
        """Covariance of x_0."""
        centred = np.asarray(self.means) - self.mean
        within = self.std**2 * np.eye(len(self.mean))
        return centred.T @ (np.asarray(self.weights)[:, None] * centred) + within

    def given(
        self,
        matrix: Float[np.ndarray, "rows dims"],
        y: Float[np.ndarray, " rows"],
        noise_std: float,
    ) -> Posterior:
        """The distribution of x_0 given y = matrix x_0 + noise_std z, in float64.

        Raises ValueError for a noise_std that is not positive.
        """
        check_positive(noise_std=noise_std)
        matrix, means = np.asarray(matrix, np.float64), np.asarray(self.means)
        seen = self.std**2 * matrix @ matrix.T + noise_std**2 * np.eye(len(matrix))
        gain = self.std**2 * np.linalg.solve(seen, matrix).T
        away = np.asarray(y, np.float64) - means @ matrix.T
        squares = np.einsum("ki,ki->k", away, np.linalg.solve(seen, away.T).T)
        logs = np.log(self.weights) - 0.5 * squares
        weights = np.exp(logs - logs.max())
        within = self.std**2 * (np.eye(matrix.shape[1]) - gain @ matrix)
        return Posterior(weights / weights.sum(), means + away @ gain.T, within)

    @property
    def _means(self) -> Array:
        return jnp.asarray(self.means, float)

    def _log_density(self, x: Batch, alpha: PerSample, variance: PerSample) -> PerSample:
        log_norm = 0.5 * x.shape[1] * jnp.log(2 * np.pi * variance)
        return jax.nn.logsumexp(self._log_parts(x, alpha, variance), axis=1) - log_norm

    def _log_parts(self, x: Batch, alpha: PerSample, variance: PerSample) -> Array:
        """log of weights[k] N(x; alpha means[k], variance I), without normalisation, [B, K]."""
        squares = jnp.sum((x[:, None] - expand(alpha, x[:, None]) * self._means) ** 2, axis=-1)
        return jnp.log(jnp.asarray(self.weights)) - 0.5 * squares / variance[:, None]
