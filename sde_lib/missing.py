"""Missing values: the diffusion of the observed coordinates alone.

A mask [B, ...] is 1 where a coordinate of x_0 is observed and 0 where it is missing. An SDE adds
noise to each coordinate independently, so the observed ones diffuse by the same SDE whatever the
others are. A model of data with missing values gives, for each mask, the score of the marginal of
the observed coordinates. Missing coordinates are 0 in x_0, in x_t and in the score.
"""

import jax
import jax.numpy as jnp

from sde_lib.batch import Batch, PerSample, fold_in, sample_keys
from sde_lib.sde import SDE, ScoreFn

HIDING = 1 << 21  # folded into a sample's key: no draw of a loss or of the data has this number


def split_missing(x: Batch) -> tuple[Batch, Batch]:
    """Data whose missing values are NaN, as data with 0 in their place, and the mask."""
    observed = ~jnp.isnan(x)
    return jnp.where(observed, x, 0.0), observed.astype(x.dtype)


def count_observed(mask: Batch) -> PerSample:
    """The number of observed coordinates of each sample, at least 1."""
    return jnp.maximum(jnp.sum(mask, axis=tuple(range(1, mask.ndim))), 1.0)


def observed_score(score_fn: ScoreFn, mask: Batch) -> ScoreFn:
    """The score function with 0 in place of the missing coordinates of x and of the score."""
    return lambda x, t: mask * score_fn(mask * x, t)


def check_mask(sde: SDE, mask: Batch, x: Batch) -> None:
    """Raises ValueError for a mask of another shape than the data, or an SDE with velocities."""
    if mask.shape != x.shape:
        raise ValueError(
            f"mask has the shape {mask.shape}: it must be that of the data, {x.shape}, with 1 for "
            "each value that is observed and 0 for each that is missing"
        )
    if not sde.is_scalar:
        raise ValueError(
            f"the SDE {type(sde).__name__} has states that are more than the data: missing values "
            "need another SDE, such as VP or VE"
        )


def hide(key: jax.Array, mask: Batch, fraction: float, first_index: int | jax.Array = 0) -> Batch:
    """The mask with some observed coordinates of some samples hidden at random.

    A sample is chosen with probability `fraction`. Each of its observed coordinates is hidden with
    a probability that is uniform on [0, 1] for the sample, so that subsets of every size occur. One
    that would lose all of them keeps them. Sample i depends on key and first_index + i alone.
    """

    def one(key: jax.Array, mask: jax.Array) -> jax.Array:
        chosen, rate, each = jax.random.split(key, 3)
        hidden = jax.random.bernoulli(each, jax.random.uniform(rate), mask.shape)
        kept = jnp.where(hidden & jax.random.bernoulli(chosen, fraction), 0.0, mask)
        return jnp.where(jnp.any(kept), kept, mask)

    return jax.vmap(one)(fold_in(sample_keys(key, len(mask), first_index), HIDING), mask)
