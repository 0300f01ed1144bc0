"""Score matching without the kernel's score: explicit and sliced.

Denoising needs the score of p(x_t | x_0); these need draws x_t alone, and the derivative of the
model. By parts, E |s - grad log p_t|^2 = E |s|^2 + 2 E div s + a constant (Hyvarinen 2005, JMLR 6,
Theorem 1), where p_t has a density that vanishes at infinity: data on a line in the plane have
none, and the loss has no minimum.
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

PROJECTION = 3  # folded into a sample's key, for the projections; perturb takes 0 to 2


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
    w sigma^2 (s_i^2 + 2 ds_i / dx_i), s being score_fn(x_t, t). In expectation that is the loss of
    denoising_score_matching less w / 2 a dimension (w), which does not depend on the model.

    For points: the trace is exact, by one derivative a dimension, all held in memory together.

    Args:
        key: as of denoising_score_matching, whose t and x_t are the same.
        sde: the forward SDE.
        score_fn: the model.
        x0: [B, ...] data.
        reduce_mean: mean over dimensions instead of half the sum.
        options: of perturb: how t is drawn, and w; without input_perturbation.

    Returns:
        The losses [B], and metrics [B]: "t" and "error", 1 and the mean over dimensions of
        sigma^2 (s_i^2 + 2 ds_i / dx_i): in expectation, the mean square of sigma s + z.

    Raises:
        ValueError: options that perturb refuses, input_perturbation, or a score_fn that changes
            the shape.
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

    In place of |s|^2 + 2 div s are the means over v, with E v v^T = I, of (v . s)^2 and of
    2 v . ds/dx v; with `variance_reduction` (their Eq. 8) |s|^2 stays, and only the divergence is
    estimated. For a Gaussian in D dimensions, that divides the variance that normal projections add
    by (D + 2) / 4, and signs add none. One derivative a projection, whatever the dimension; in
    expectation, the loss of explicit_score_matching.

    Args:
        key: as of denoising_score_matching, whose t and x_t are the same; sample i's projections
            depend on key and i alone.
        sde: the forward SDE.
        score_fn: the model.
        x0: [B, ...] data.
        n_projections: of a sample.
        variance_reduction: take |s|^2 as it is.
        projection: distribution of v, "rademacher" or "gaussian".
        reduce_mean: mean over dimensions instead of half the sum.
        options: of perturb: how t is drawn, and w; without input_perturbation.

    Returns:
        The losses [B] and metrics [B], as of explicit_score_matching.

    Raises:
        ValueError: as of explicit_score_matching; an unknown projection, or n_projections < 1.
    """
    check_name("projection", projection, ("rademacher", "gaussian"))
    check_at_least(1, n_projections=n_projections)
    noisy = _perturb(key, sde, score_fn, x0, **options)
    keys = fold_in(sample_keys(key, len(x0), options.get("first_index", 0)), PROJECTION)
    directions = probes.draw(keys, projection, n_projections, x0.shape)
    score, along, slopes = _derivatives(score_fn, noisy, directions)
    square = _inner(score, score) if variance_reduction else jnp.mean(along**2, axis=0)
    return _loss(noisy, square + 2 * jnp.mean(slopes, axis=0), reduce_mean)


def _perturb(key: PRNGKeyArray, sde: SDE, score_fn: ScoreFn, x0: Batch, **options: Any) -> Noisy:
    if options.get("input_perturbation"):
        raise ValueError(
            "input_perturbation is noise that denoising's target does not know of; explicit and "
            "sliced score matching have no target, and would learn it: leave it out"
        )
    if not sde.is_scalar:
        raise ValueError(
            f"explicit and sliced score matching are of data that diffuse themselves, which under "
            f"{sde} are a part of its states: take denoising_score_matching"
        )
    check_score_fn(score_fn, x0.shape)
    return perturb(key, sde, x0, **options)


def _derivatives(
    score_fn: ScoreFn, noisy: Noisy, directions: Float[Array, "n batch *shape"]
) -> tuple[Batch, Float[Array, "n batch"], Float[Array, "n batch"]]:
    """sigma s; v . sigma s and sigma^2 v . ds/dx v for each direction v."""
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
