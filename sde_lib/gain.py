"""The gain of guidance by a discriminator: by how many nats the guided model is nearer to the data.

p_t and q_t are the marginals of data and model under one SDE. A discriminator d(x, t) gives the
ratio r = d / (1 - d), and guidance of weight w the score s_q + w grad log r (Kim et al. 2023, arXiv
2211.17091). The optimal d has r = p_t / q_t. There are two gains:

- of the scores, between the times a < b. The reverse processes bound KL(data || model) by
  1/2 int g^2 E_p |grad log p_t - s|^2 dt, and guidance lowers the bound by

      1/2 int_a^b g^2 E_p[ |grad log p_t - s_q|^2 - |grad log p_t - s_q - w grad log r|^2 ] dt.

  For the optimal d and w = 1 the last term is 0. As d KL(p_t || q_t) / dt is
  -g^2 / 2 E_p |grad log p_t / q_t|^2, the gain is then KL(p_a || q_a) - KL(p_b || q_b): all of
  KL(data || model) that diffusion from a to b removes.
- of the density at one time, for any discriminator: the guided density is q r^w / Z, and

      KL(p || q) - KL(p || q r^w / Z) = w E_p[log r] - log E_q[r^w],

  which is E_data[log d / (1 - d)] = KL(p || q) for the optimal d and w = 1.

With l = sigma / alpha, g^2 dt / 2 is sigma^2 d log l: the first gain is the area between two errors
of the predicted noise over log l, whatever the SDE.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sde_lib.batch import Batch, PerSample, expand
from sde_lib.mixture import GaussianMixture
from sde_lib.sde import SDE, ScoreFn

N_LEVELS = 96  # nodes of the integral over log l


def log_levels(
    low: float, high: float, n: int = N_LEVELS
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Noise levels from low to high, and weights for integrals over log l (Gauss-Legendre)."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    half = 0.5 * np.log(high / low)
    return np.exp(np.log(low) + half * (nodes + 1)), half * weights


def noise_gain(
    sde: SDE, target: Batch, model_score: Batch, guided_score: Batch, t: PerSample
) -> PerSample:
    """The fall of the squared error of the predicted noise by guidance, [B].

    Its mean over x of p_t, integrated over log l, is the gain of the scores. The target is the
    score of p_t, or that of x_t given x_0, -eps / sigma: the gains are equal on average, since the
    second is the first and noise of mean 0 that the model does not know.
    """

    def error(score: Batch) -> PerSample:
        away = expand(sde.sigma(t), score) * (score - target)
        return jnp.sum(away.reshape(len(away), -1) ** 2, axis=1)

    return error(model_score) - error(guided_score)


def score_gain(
    sde: SDE,
    data: GaussianMixture,
    model_score: ScoreFn,
    guided_score: ScoreFn,
    order: int = 16,
    ends: tuple[float, float] | None = None,
) -> float:
    """The gain of the scores in nats, for data from a mixture.

    Args:
        sde: the forward SDE.
        data: the distribution of x_0.
        model_score: s_q(x, t).
        guided_score: s_q + w grad log r.
        order: nodes of the quadrature over x_t, for each axis and component.
        ends: noise levels of a and b; None: those at train_t_min and t_max.
    """
    if ends is None:
        low, high = map(float, sde.noise_level(jnp.array([sde.train_t_min, sde.t_max])))
    else:
        low, high = ends
    levels, steps = log_levels(low, high)
    points, weights = GaussianMixture(data.weights, data.means, 1.0).quadrature(order)
    means = jnp.repeat(jnp.asarray(data.means, float), len(points) // len(data.means), axis=0)

    @jax.jit
    def at(level: Array) -> Array:
        t = jnp.full(len(points), sde.inverse_noise_level(level[None])[0])
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        std = jnp.hypot(alpha * data.std, sigma)
        x = expand(alpha, means) * means + expand(std, means) * (points - means)
        scores = data.score_fn(sde)(x, t), model_score(x, t), guided_score(x, t)
        return jnp.dot(jnp.asarray(weights), noise_gain(sde, *scores, t))

    return float(np.dot(steps, [at(level) for level in jnp.asarray(levels, float)]))


def optimal_log_ratio(
    sde: SDE, data: GaussianMixture, model: GaussianMixture
) -> Callable[[Array, Array], PerSample]:
    """log p_t / q_t as a function of x and t: log d / (1 - d) of the optimal discriminator."""
    ours, theirs = (each.noisy_log_prob(sde) for each in (data, model))
    return lambda x, t: ours(x, t) - theirs(x, t)


def kl_divergence(p: GaussianMixture, q: GaussianMixture, order: int = 32) -> float:
    """KL(p || q) in nats, by quadrature."""
    x, weights = p.quadrature(order)
    x = jnp.asarray(x, float)
    return float(np.dot(weights, np.asarray(p.log_prob(x) - q.log_prob(x), np.float64)))


def density_gain(
    p: GaussianMixture,
    q: GaussianMixture,
    log_ratio: Callable[[Batch], PerSample],
    weight: float = 1.0,
    order: int = 32,
) -> float:
    """The gain of the density in nats: w E_p[log r] - log E_q[r^w], for any log ratio of x."""
    (x, of_p), (y, of_q) = p.quadrature(order), q.quadrature(order)
    logs = np.asarray(log_ratio(jnp.asarray(x, float)), np.float64)
    tilts = weight * np.asarray(log_ratio(jnp.asarray(y, float)), np.float64)
    most = tilts.max()
    return weight * np.dot(of_p, logs) - (most + np.log(np.dot(of_q, np.exp(tilts - most))))
