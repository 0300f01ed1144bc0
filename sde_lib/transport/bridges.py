"""Bridges: the SDE between a sample of the data and a sample of another source, at t_max.

Given both ends x_0 and x_1 the SDE's states are Gaussian (Zhou et al. 2023, arXiv 2309.16948, Eq.
7; for Brownian motion, Liu et al. 2023, arXiv 2302.05872). The noise that leads from x_0 to x_1 is
z_1 = (x_1 - alpha_T x_0) / sigma_T. With r = SNR_T / SNR_t the states are

    x_t = alpha x_0 + sigma z,    z = sqrt(r) z_1 + sqrt(1 - r) eps.

The state before t depends on x_1 by x_t alone. So the reverse SDE from x_1 to the data has the
drift f x - g^2 s with s = (alpha E[x_0 | x_t] - x_t) / sigma^2 = -E[z | x_t] / sigma. It is that of
a diffusion with s in the place of the score: every sampler of the reverse SDE (eta = 1) takes s as
score_fn. But s is not grad log p_t, and the probability flow is another one (`at_eta`).

If data and source are paired by the entropic plan of entropy sigma_T^2 / alpha_T (`entropy`), the
process is the Schroedinger bridge between the two (Tong et al. 2023, arXiv 2307.03672).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from sde_lib.batch import Batch, PerSample, as_float, as_number, expand
from sde_lib.checks import check_positive
from sde_lib.sde import SDE, ScoreFn, Time


@dataclasses.dataclass(frozen=True)
class Brownian(SDE):
    """Brownian motion, alpha = 1 and sigma = scale sqrt(t): the reference of bridges.

    Attributes:
        scale: standard deviation at t = 1.

    Raises:
        ValueError: a scale that is not positive.
    """

    scale: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        check_positive(scale=self.scale)

    def alpha(self, t: Time) -> Array:
        return jnp.ones_like(as_float(t))

    def sigma(self, t: Time) -> Array:
        return self.scale * jnp.sqrt(as_float(t))

    def drift_coefficient(self, t: Time) -> Array:
        return jnp.zeros_like(as_float(t))

    def diffusion(self, t: Time) -> Array:
        return jnp.full_like(as_float(t), self.scale)

    def log_snr(self, t: Time) -> Array:
        return -jnp.log(self.scale**2 * as_float(t))

    def inverse_log_snr(self, log_snr: Array) -> Array:
        return jnp.exp(-log_snr) / self.scale**2


def end_noise(sde: SDE, x0: Batch, x1: Batch) -> Batch:
    """The noise z_1 that leads from x0 to the state x1 at t_max."""
    t = as_float(sde.t_max)
    return (x1 - sde.alpha(t) * x0) / sde.sigma(t)


def bridged(sde: SDE, t: PerSample, z1: Batch, z: Batch) -> Batch:
    """The noise at t of a bridge whose noise at t_max is z1; z is standard normal."""
    log_ratio = sde.log_snr(as_float(sde.t_max)) - sde.log_snr(t)
    kept, fresh = jnp.exp(0.5 * log_ratio), jnp.sqrt(-jnp.expm1(jnp.minimum(log_ratio, 0.0)))
    return expand(kept, z1) * z1 + expand(fresh, z1) * z


def entropy(sde: SDE, from_noise: bool = False) -> float:
    """The entropy of Sinkhorn (sde_lib.transport) with which bridges are Schroedinger's.

    Args:
        sde: the reference.
        from_noise: the source is the prior, and the coupling pairs data with its standard normal
            noise.
    """
    with jax.ensure_compile_time_eval():
        t = as_float(sde.t_max)
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        return as_number((sigma if from_noise else sigma**2) / alpha)


def at_eta(
    sde: SDE, score_fn: ScoreFn, x1: Batch | Callable[[Array, Array], Array], eta: float
) -> ScoreFn:
    """The score_fn with which samplers of this eta follow a bridge: 0 is its probability flow.

    With h = grad log q(x_1 | x_t) of the SDE, the score of the bridge's p_t is s + h, and the
    drift of eta is f x - g^2 ((1 + eta) s - (1 - eta) h) / 2. So samplers are given
    s - (1 - eta) / (1 + eta) h. At eta = 1 it is s: x_1 need not be known.

    Args:
        sde: the reference.
        score_fn: s, of a model that was trained on bridges.
        x1: the ends [B, ...] of the samples' bridges, if they are known and the model knows them;
            or their mean given x_t as a function of (x, t), such as the denoised data of a model
            of the bridges from the other side.
        eta: of the sampler.

    Raises:
        ValueError: a negative eta.
    """
    check_positive(or_zero=True, eta=eta)

    def score(x: Array, t: Array) -> Array:
        end = x1(x, t) if callable(x1) else x1
        return score_fn(x, t) - (1 - eta) / (1 + eta) * towards(sde, x, t, end)

    return score


def towards(sde: SDE, x: Batch, t: PerSample, x1: Batch) -> Batch:
    """h = grad log q(x_1 | x_t) of the SDE, in x_t; 0 at t_max, where it has no limit."""
    end = as_float(sde.t_max)
    factor = sde.alpha(end) / sde.alpha(t)
    log_ratio = jnp.minimum(sde.log_snr(end) - sde.log_snr(t), 0.0)
    variance = -(sde.sigma(end) ** 2) * jnp.expm1(log_ratio)
    inverse = jnp.where(variance > 0, factor / jnp.where(variance > 0, variance, 1.0), 0.0)
    return expand(inverse, x) * (x1 - expand(factor, x) * x)
