"""The learned noise schedule of VDM (Kingma et al. 2021, arXiv 2107.00630, Appendix H)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

SCHEDULE = "schedule"  # the name of the schedule's parameters, beside those of the network


class LearnedSchedule(nn.Module):
    """gamma(u) = -log-SNR, rising from gamma_min at u = 0 to gamma_max at u = 1.

    The monotone network of the paper: u plus a hidden layer of sigmoids of u with positive weights,
    rescaled to the end points. The sigmoids start evenly spaced rather than at random. This makes
    gamma nearly linear, and a few sigmoids are enough where the paper takes 1024.

    Attributes:
        gamma_min: gamma(0).
        gamma_max: gamma(1).
        width: number of sigmoids.
    """

    gamma_min: float
    gamma_max: float
    width: int = 32

    @nn.compact
    def __call__(self, u: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        evenly_spaced = (jnp.arange(self.width) + 0.5) / self.width
        centre = self.param("centre", lambda _: evenly_spaced)
        log_height = self.param("log_height", nn.initializers.zeros, (self.width,))
        log_slope = self.param("log_slope", nn.initializers.zeros, (self.width,))
        log_share = self.param("log_share", nn.initializers.zeros, ())

        def rise(u):
            steps = jax.nn.sigmoid(2 * self.width * jnp.exp(log_slope) * (u[..., None] - centre))
            heights = jnp.exp(log_height) / self.width
            return jnp.exp(log_share) * u + jnp.sum(steps * heights, axis=-1)

        low, high = rise(jnp.zeros(())), rise(jnp.ones(()))
        return self.gamma_min + (self.gamma_max - self.gamma_min) * (rise(u) - low) / (high - low)
