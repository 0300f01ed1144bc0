"""Cross-entropy of data and model, by denoising (Vahdat et al. 2021, LSGM, Eq. 8).

With x_t = alpha x_0 + sigma z, r = sigma score + z, and t_0 = train_t_min, T = t_max,

    E[-log p(x_{t_0})] <= KL(q(x_T | x_0) || prior) + D/2 log(2 pi e sigma(t_0)^2)
                          + 1/2 E_t[g^2 / sigma^2 |r|^2 / density of t].

The bound is tight if the score is that of the reverse SDE's marginals, and it has a gradient in x_0
too: so an encoder can be trained with the score model. Importance sampling draws t with a density
in proportion to d log sigma^2 / dt. Under a variance-preserving SDE, and for standard normal data,
all t then contribute the same.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from sde_lib import noise_density
from sde_lib.batch import Batch, PerSample, sample_keys
from sde_lib.losses import draw_uniform
from sde_lib.noise_density import Quantile
from sde_lib.sde import SDE, ScoreFn
from sde_lib.variational import prior_kl
from sde_lib.vdm import diffusion_terms, mean_diffusion


def cross_entropy_loss(
    key: PRNGKeyArray,
    sde: SDE,
    score_fn: ScoreFn,
    x0: Batch,
    importance_sampling: bool = False,
    stratified: bool = False,
    first_index: int | Array = 0,
    n_strata: int | None = None,
) -> tuple[PerSample, dict[str, PerSample]]:
    """The bound of each sample in nats, at one random noise level.

    Args:
        key: randomness of t and z; sample i's depends on key and i alone unless stratified.
        sde: the forward SDE.
        score_fn: the model's score.
        x0: [B, ...] data, or draws of an encoder.
        importance_sampling: draw t with density proportional to d log sigma^2 / dt, instead of
            uniformly.
        stratified: see sde_lib.perturb; likewise n_strata.
        first_index: index of the first sample in the stream `key`.

    Returns:
        The losses [B], and metrics [B]: "t", and "error", the mean square of sigma score + z.

    Raises:
        ValueError: an SDE without noise at train_t_min or, with importance_sampling, one that does
            not preserve variance.
    """
    times = _times(sde, importance_sampling)
    keys = sample_keys(key, len(x0), first_index)
    u = draw_uniform(keys, stratified, first_index, n_strata)
    diffusion, metrics = diffusion_terms(keys, sde, score_fn, x0, u, times)
    return diffusion + _ends(sde, x0), metrics


def cross_entropy(
    key: PRNGKeyArray,
    sde: SDE,
    score_fn: ScoreFn,
    x0: Batch,
    importance_sampling: bool = False,
    n_times: int = 1000,
    first_index: int | Array = 0,
) -> PerSample:
    """The bound of each sample in nats, from n_times noise levels; see cross_entropy_loss.

    Raises:
        ValueError: n_times < 1, or what cross_entropy_loss refuses.
    """
    times = _times(sde, importance_sampling)
    keys = sample_keys(key, len(x0), first_index)
    return mean_diffusion(keys, sde, score_fn, x0, times, n_times) + _ends(sde, x0)


def _times(sde: SDE, importance_sampling: bool) -> Quantile:
    """The log-SNR as a function of u in [0, 1], for the density of t."""
    noise_density.log_uniform(sde)  # refuses SDEs whose log-SNR is unbounded
    if importance_sampling:
        return noise_density.log_uniform_variance(sde)
    to_log_snr: Callable = sde.log_snr
    return lambda u: to_log_snr(sde.train_t_min + u * (sde.t_max - sde.train_t_min))


def _ends(sde: SDE, x0: Batch) -> PerSample:
    """The prior's term, and the entropy of x at train_t_min given x_0."""
    entropy = jnp.log(sde.sigma(sde.train_t_min)) + 0.5 * math.log(2 * math.pi * math.e)
    return prior_kl(sde, x0, sde.t_max) + math.prod(x0.shape[1:]) * entropy
