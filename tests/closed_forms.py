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
        """Where the probability flow takes x from t to t_max, and the log determinant."""
        mean, std = self.marginal(sde, t)
        end_mean, end_std = self.marginal(sde, sde.t_max)
        latent = end_mean + end_std / std * (x - mean)
        return latent, np.prod(x.shape[1:]) * jnp.log(end_std / std)


def Mixture():  # noqa: N802
    """Two Gaussians in the plane, of weights 0.3 and 0.7."""
    return sde_lib.GaussianMixture((0.3, 0.7), ((-1.0, 0.5), (1.0, -0.5)), 0.4)
