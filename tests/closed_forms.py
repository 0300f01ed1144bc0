"""Data whose marginals, scores and likelihoods are known under any SDE."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

import sde_lib
from sde_lib.batch import expand

SDES = {
    "ve": sde_lib.VE(0.01, 50.0),
    "vp": sde_lib.VP(0.1, 20.0),
    "subvp": sde_lib.SubVP(0.1, 20.0),
}


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """x_0 ~ N(mean, std^2 I)."""

    mean: float = 0.3
    std: float = 0.7

    def marginal(self, sde, t):
        """Mean and standard deviation of x_t."""
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        return alpha * self.mean, jnp.sqrt((alpha * self.std) ** 2 + sigma**2)

    def score_fn(self, sde):
        def score(x, t):
            mean, std = self.marginal(sde, t)
            return -(x - expand(mean, x)) / expand(std, x) ** 2

        return score

    def sample(self, key, shape):
        return self.mean + self.std * jax.random.normal(key, shape)

    def log_prob(self, x):
        squares = jnp.sum(((x - self.mean) / self.std) ** 2, axis=tuple(range(1, x.ndim)))
        dims = np.prod(x.shape[1:])
        return -0.5 * squares - dims * (np.log(self.std) + 0.5 * np.log(2 * np.pi))

    def flow(self, sde, x, t):
        """End of the probability flow from x at t to t_max, and its log determinant."""
        mean, std = self.marginal(sde, t)
        end_mean, end_std = self.marginal(sde, sde.t_max)
        latent = end_mean + end_std / std * (x - mean)
        return latent, np.prod(x.shape[1:]) * jnp.log(end_std / std)


@dataclasses.dataclass(frozen=True)
class Correlated:
    """x_0 ~ N(mean, factor factor^T), with x of [B, D]."""

    mean: tuple[float, ...]
    factor: tuple[tuple[float, ...], ...]

    @property
    def covariance(self):
        return np.asarray(self.factor) @ np.asarray(self.factor).T

    def sample(self, key, n):
        z = jax.random.normal(key, (n, len(self.mean)))
        return jnp.asarray(self.mean) + z @ jnp.asarray(self.factor).T

    def log_prob(self, sde):
        """log p_t(x) as a function of x and t, but for a constant."""
        variances, axes = np.linalg.eigh(self.covariance)

        def log_prob(x, t):
            alpha, sigma = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
            variance = alpha**2 * variances + sigma**2
            along = (x - alpha * jnp.asarray(self.mean)) @ jnp.asarray(axes, jnp.float32)
            return -0.5 * jnp.sum(along**2 / variance + jnp.log(variance), axis=1)

        return log_prob

    def score_fn(self, sde):
        log_prob = self.log_prob(sde)
        return lambda x, t: jax.grad(lambda x: jnp.sum(log_prob(x, t)))(x)

    def divergence(self, x):
        """KL, in nats, from this to the Gaussian with the mean and the covariance of x."""
        x = np.asarray(x, np.float64)
        return self.divergence_of(x.mean(0), np.cov(x.T))

    def divergence_of(self, mean, covariance):
        """KL, in nats, from this to the Gaussian with this mean and covariance."""
        inverse = np.linalg.inv(self.covariance)
        away, product = mean - self.mean, inverse @ covariance
        log_det = np.linalg.slogdet(product)[1]
        return 0.5 * (np.trace(product) - len(away) - log_det + away @ inverse @ away)


def Mixture():  # noqa: N802
    """Two Gaussians in the plane, of weights 0.3 and 0.7."""
    return sde_lib.GaussianMixture((0.3, 0.7), ((-1.0, 0.5), (1.0, -0.5)), 0.4)


def langevin_score_fn(sde, gaussian):
    """The velocities' score under CLD, of Gaussian data."""

    def score(state, t):
        x0 = jnp.full_like(sde.data_of(state), gaussian.mean)
        x, v = jnp.split(state - sde.noised(x0, t, jnp.zeros_like(state)), 2, axis=-1)
        xx, xv, vv = (expand(c, x) for c in sde.covariance(t, gaussian.std**2))
        of_v = -(v - xv / xx * x) / (vv - xv**2 / xx)
        return jnp.concatenate([jnp.zeros_like(of_v), of_v], axis=-1)

    return score


@dataclasses.dataclass(frozen=True)
class GaussianBridge:
    """Bridges of an SDE between x_0 ~ N(m_0, v_0 I) and x_1 ~ N(m_1, v_1 I) with a covariance c.

    By default c is that of the Schroedinger bridge: the plan of entropy e has
    c = (sqrt(4 v_0 v_1 + e^2) - e) / 2 (Bunne et al. 2023, arXiv 2202.05722, Table 1).
    """

    sde: sde_lib.SDE
    ends: tuple[Gaussian, Gaussian]
    covariance: float | None = None

    @property
    def c(self):
        if self.covariance is not None:
            return self.covariance
        e, (a, b) = sde_lib.transport.entropy(self.sde), self.ends
        return 0.5 * (np.sqrt(4 * a.std**2 * b.std**2 + e**2) - e)

    def weights(self, t):
        """(p, q, v): given its ends x_t is N(p x_0 + q x_1, v), by conditioning the SDE on x_1."""
        end = jnp.asarray(self.sde.t_max)
        alpha, sigma = self.sde.alpha(t), self.sde.sigma(t)
        a = self.sde.alpha(end) / alpha
        q = sigma**2 * a / self.sde.sigma(end) ** 2
        return alpha - q * a * alpha, q, sigma**2 * (1 - a * q)

    def moments(self, t):
        """Mean and variance of x_t."""
        (p, q, v), (m0, m1) = self.weights(t), self.ends
        variance = (p * m0.std) ** 2 + (q * m1.std) ** 2 + 2 * p * q * self.c + v
        return p * m0.mean + q * m1.mean, variance

    def denoised(self, end, x, t):
        """E[x_0 | x_t] for end = 0, E[x_1 | x_t] for end = 1."""
        p, q, _ = self.weights(t)
        mean, variance = self.moments(t)
        own = self.ends[end]
        both = (p, q) if end == 0 else (q, p)
        gain = (both[0] * own.std**2 + both[1] * self.c) / variance
        return own.mean + expand(gain, x) * (x - expand(mean, x))

    def score_fn(self):
        """-E[z | x_t] / sigma: what samplers of the reverse SDE are given."""

        def score(x, t):
            alpha, sigma = (expand(c, x) for c in (self.sde.alpha(t), self.sde.sigma(t)))
            return (alpha * self.denoised(0, x, t) - x) / sigma**2

        return score
