"""Explicit and sliced score matching, which need the derivative of the model but no target.

Integration by parts gives E |s - grad log p_t|^2 = E |s|^2 + 2 E div s + a constant (Hyvarinen
2005, JMLR 6, Theorem 1), if p_t is a density that vanishes at infinity. Data on a line in the plane
have no density, and there the loss has no minimum. Only samples x_t are needed, where denoising
score matching needs the score of p(x_t | x_0).
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from sde_lib import probes
from sde_lib.batch import Batch, PerSample, expand, fold_in, sample_keys
from sde_lib.checks import check_at_least, check_name
from sde_lib.losses import Noisy, perturb
from sde_lib.sde import SDE, ScoreFn, check_score_fn

PROJECTION_KEY = 3  # folded into a sample's key to draw projections; perturb uses 0 to 2


def explicit_score_matching(
    key: PRNGKeyArray,
    sde: SDE,
    score_fn: ScoreFn,
    x0: Batch,
    reduce_mean: bool = False,
    **options: Any,
) -> tuple[PerSample, dict[str, PerSample]]:
    """Explicit score matching (Hyvarinen 2005, Eq. 4) of x_t = alpha x_0 + sigma z.

    The loss of a sample is half the sum over its dimensions i (`reduce_mean`: their mean) of
    w sigma^2 (s_i^2 + 2 ds_i / dx_i), where s = score_fn(x_t, t). Its expectation is that of
    denoising_score_matching minus w / 2 per dimension (minus w with `reduce_mean`), a constant
    that does not depend on the model.

    The trace is exact. It costs one derivative per dimension, and all of them are in memory at
    once: use it for data of few dimensions.

    Args:
        key: randomness of t and z; gives the same t and x_t as in denoising_score_matching.
        sde: the forward SDE.
        score_fn: the model's score.
        x0: [B, ...] data.
        reduce_mean: mean over dimensions instead of half the sum.
        options: keyword arguments of perturb, except input_perturbation.

    Returns:
        The losses [B], and metrics [B]: "t", and "error", 1 + the mean over dimensions of
        sigma^2 (s_i^2 + 2 ds_i / dx_i): in expectation, the mean square of sigma s + z.

    Raises:
        ValueError: an option that perturb refuses, input_perturbation, an SDE whose state is more
            than the data (CLD), or a score_fn that changes the shape.
    """
    noisy = _perturb(key, sde, score_fn, x0, **options)
    basis = probes.draw(sample_keys(key, len(x0)), "exact", 1, x0.shape)
    score, _, slopes = _derivatives(score_fn, noisy, basis)
    return _loss(noisy, _inner(score, score) + 2 * jnp.sum(slopes, axis=0), reduce_mean)


def sliced_score_matching(
    key: PRNGKeyArray,
    sde: SDE,
    score_fn: ScoreFn,
    x0: Batch,
    n_projections: int = 1,
    variance_reduction: bool = False,
    projection: probes.Probe = "rademacher",
    reduce_mean: bool = False,
    **options: Any,
) -> tuple[PerSample, dict[str, PerSample]]:
    """Sliced score matching (Song et al. 2019, UAI, Eq. 7): explicit in random directions v.

    |s|^2 + 2 div s is replaced by the mean over v, with E v v^T = I, of (v . s)^2 + 2 v . ds/dx v.
    With `variance_reduction` (their Eq. 8), |s|^2 is kept and only the divergence is estimated.
    The expectation is that of explicit_score_matching, at one derivative per projection, whatever
    the dimension. For a Gaussian in D dimensions, `variance_reduction` divides the variance that
    "gaussian" projections add by (D + 2) / 4, and "rademacher" ones then add none.

    Args:
        key: randomness of t, z and v; gives the same t and x_t as in denoising_score_matching.
            Sample i's projections depend on key and i alone.
        sde: the forward SDE.
        score_fn: the model's score.
        x0: [B, ...] data.
        n_projections: directions v per sample.
        variance_reduction: use the exact |s|^2.
        projection: distribution of v, "rademacher" or "gaussian".
        reduce_mean: mean over dimensions instead of half the sum.
        options: keyword arguments of perturb, except input_perturbation.

    Returns:
        The losses [B] and metrics [B], like explicit_score_matching.

    Raises:
        ValueError: any of explicit_score_matching's, an unknown projection, or n_projections < 1.
    """
    check_name("projection", projection, ("rademacher", "gaussian"))
    check_at_least(1, n_projections=n_projections)
    noisy = _perturb(key, sde, score_fn, x0, **options)
    keys = fold_in(sample_keys(key, len(x0), options.get("first_index", 0)), PROJECTION_KEY)
    directions = probes.draw(keys, projection, n_projections, x0.shape)
    score, along, slopes = _derivatives(score_fn, noisy, directions)
    square = _inner(score, score) if variance_reduction else jnp.mean(along**2, axis=0)
    return _loss(noisy, square + 2 * jnp.mean(slopes, axis=0), reduce_mean)


def _perturb(key: PRNGKeyArray, sde: SDE, score_fn: ScoreFn, x0: Batch, **options: Any) -> Noisy:
    if options.get("input_perturbation"):
        raise ValueError(
            f"input_perturbation is {options['input_perturbation']}: it must be 0 here, because "
            "explicit and sliced score matching have no target and would learn the extra noise"
        )
    if not sde.is_scalar:
        raise ValueError(
            "explicit and sliced score matching need an SDE of the data alone, and the state of "
            f"{sde} has more: use denoising_score_matching"
        )
    check_score_fn(score_fn, x0.shape)
    return perturb(key, sde, x0, **options)


def _derivatives(
    score_fn: ScoreFn, noisy: Noisy, directions: Float[Array, "n batch *shape"]
) -> tuple[Batch, Float[Array, "n batch"], Float[Array, "n batch"]]:
    """The scaled score sigma s, and for each direction v: v . sigma s and sigma^2 v . ds/dx v."""
    scale = expand(noisy.std, noisy.x)

    def directional(v):
        score, slope = jax.jvp(lambda x: score_fn(x, noisy.t), (noisy.x,), (v,))
        return scale * score, _inner(v, scale * score), noisy.std**2 * _inner(v, slope)

    return jax.vmap(directional, out_axes=(None, 0, 0))(directions)


def _inner(a: Batch, b: Batch) -> PerSample:
    return jnp.sum(a * b, axis=tuple(range(1, a.ndim)))


def _loss(
    noisy: Noisy, total: PerSample, reduce_mean: bool
) -> tuple[PerSample, dict[str, PerSample]]:
    mean = total / math.prod(noisy.x.shape[1:])
    loss = noisy.weight * (mean if reduce_mean else 0.5 * total)
    return loss, {"t": noisy.t, "error": mean + 1}
