"""Mean flows (Geng et al. 2025, arXiv 2505.13447).

The average velocity of the probability flow from t to r < t is

    u(x_t, r, t) = 1 / (t - r)  int_r^t v(x_s, s) ds = (x_t - x_r) / (t - r),

so one evaluation of u is a step of any length. It satisfies

    u = v - (t - r) d/dt u,    d/dt u = v du/dx + du/dt    (Eq. 6),

in which the loss puts the velocity of a single path, dx_t/dt of (x_0, z), in place of v.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from sde_lib.batch import Batch, PerSample, fold_in, normal, sample_keys
from sde_lib.checks import check_in
from sde_lib.few_steps.consistency import check_scalar
from sde_lib.losses import draw_uniform, time_at
from sde_lib.noise_density import Quantile
from sde_lib.sde import SDE, ScoreFn

OFFSET = 1e-3  # of the squared error in the adaptive weight


@dataclasses.dataclass(frozen=True)
class MeanFlow:
    """A score function whose network gives average velocities too.

    As a plain ScoreFn it is the score, by the velocity at r = t.

    Attributes:
        score: score(x, t).
        average: average(x, r, t) = u, of the shape of x, with r and t of [B].
    """

    score: ScoreFn
    average: Callable[[Array, Array, Array], Array]

    def __call__(self, x: Batch, t: PerSample) -> Batch:
        return self.score(x, t)


def mean_flow_loss(
    key: PRNGKeyArray,
    sde: SDE,
    score_fn: Any,
    x0: Batch,
    interval_share: float = 0.25,
    power: float = 1.0,
    noise_density: Quantile | None = None,
    stratified: bool = False,
    first_index: int | Array = 0,
    n_strata: int | None = None,
) -> tuple[PerSample, dict[str, PerSample]]:
    """The loss of a mean flow: the mean square of u - (v - (t - r) d/dt u), weighted.

    The part in brackets has no gradient. The weight is 1 / (error + 0.001)^power, without gradient
    (Geng et al. 2025, Section 4.3).

    Args:
        key: randomness of the noise and the two times; sample i's depends on key and i alone
            unless stratified.
        sde: the forward SDE, whose state is the data.
        score_fn: the model, a MeanFlow.
        x0: [B, ...] data.
        interval_share: share of the samples with r < t; in the others r = t, and u learns v.
        power: of the adaptive weight; 0: the mean square itself.
        noise_density: density of both times (sde_lib.noise_density); None: uniform.
        stratified: draw one of the two times in each of B equally probable strata.
        first_index: index of the first sample in its batch.
        n_strata: strata; None: B.

    Returns:
        The losses [B], and metrics [B]: the later time "t", and "error", the mean square.

    Raises:
        ValueError: an option out of range, a score_fn without average velocities, or an SDE whose
            state is not the data.
    """
    check_in("[0, 1]", **{"config.objective.interval_share": interval_share})
    check_in("[0, inf)", **{"config.objective.power": power})
    check_scalar(sde, "a mean flow")
    average, keys = average_velocity(score_fn), sample_keys(key, len(x0), first_index)
    u = draw_uniform(keys, stratified, first_index, n_strata), draw_uniform(fold_in(keys, 2))
    times = [time_at(each, sde, noise_density) for each in u]
    t, z = jnp.maximum(*times), normal(fold_in(keys, 1), x0.shape)
    apart = jax.vmap(jax.random.uniform)(fold_in(keys, 3)) < interval_share
    r = jnp.where(apart, jnp.minimum(*times), t)
    x, v = jax.jvp(lambda t: sde.noised(x0, t, z), (t,), (jnp.ones_like(t),))
    own, target = average_and_target(average, x, v, r, t)
    error = jnp.mean((own - target) ** 2, axis=tuple(range(1, x.ndim)))
    weight = jax.lax.stop_gradient((error + OFFSET) ** -power)
    return weight * error, {"t": t, "error": error}


def average_and_target(
    average: Callable[[Array, Array, Array], Array],
    x: Batch,
    v: Batch,
    r: PerSample,
    t: PerSample,
) -> tuple[Batch, Batch]:
    """u(x, r, t), and its target v - (t - r) d/dt u, which has no gradient (Eq. 9 and 10)."""
    own, rate = jax.jvp(lambda x, t: average(x, r, t), (x, t), (v, jnp.ones_like(t)))
    length = (t - r).reshape(-1, *(1,) * (x.ndim - 1))
    return own, jax.lax.stop_gradient(v - length * rate)


def average_velocity(score_fn: Any) -> Callable[[Array, Array, Array], Array]:
    """The function average(x, r, t) of a MeanFlow.

    Raises:
        ValueError: a score function without it.
    """
    if not isinstance(score_fn, MeanFlow):
        raise ValueError(
            "average velocities need a model trained with config.objective.name='mean_flow', "
            "without guidance, and a score_fn that is a MeanFlow: take another sampler, such as "
            "'edm'"
        )
    return score_fn.average
