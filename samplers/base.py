"""Interface of the samplers: their result, their starting point, their recorded frames."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from sde_lib import SDE, ScoreFn
from sde_lib.batch import Batch, PerSample
from sde_lib.checks import check_at_least, known
from sde_lib.sde import check_ends

Scores = ScoreFn | tuple[ScoreFn, ...]
"""One score function, or a tuple of one for the first, second, ... evaluation of each step."""


class Samples(NamedTuple):
    """Result of a sampler.

    Attributes:
        x: [B, ...] samples.
        nfe: number of network evaluations per sample.
        path: [n_frames, B, ...] states at even intervals, from just after the start to t_min.
        log_prob: [B] log densities of the samples, in nats; None unless the sampler is asked.
    """

    x: Float[Array, "batch *shape"]
    nfe: int | Int[Array, ""]
    path: Float[Array, "frames batch *shape"]
    log_prob: PerSample | None = None


class Start(NamedTuple):
    """Starting point other than the prior: states x, [B, ...], at the time t, a number."""

    x: Float[Array, "batch *shape"]
    t: float


def starting_point(
    key: PRNGKeyArray,
    sde: SDE,
    shape: Sequence[int],
    first_index: int | Array,
    start: Start | None,
) -> tuple[Batch, float]:
    """Initial states and their time: `start` if it is given, otherwise draws from the prior.

    Raises:
        ValueError: start.x whose shape is not `shape`, start.t outside (t_min, t_max], or an SDE
            with alpha(t_max) = 0.
    """
    check_ends(sde)
    if start is None:
        return sde.prior_sample(key, shape, first_index), sde.t_max
    x, t = jnp.asarray(start.x, float), start.t
    if x.shape != tuple(shape):
        raise ValueError(
            f"start.x has the shape {x.shape}: it must be that of the samples, {tuple(shape)}"
        )
    if known(t, sde.t_min, sde.t_max) and not sde.t_min < t <= sde.t_max:
        raise ValueError(f"start.t is {t}: it must lie in (t_min, t_max] = {sde.t_min, sde.t_max}")
    return x, t


EQUATIONS = {0.0: "the probability flow (eta = 0)", 1.0: "the reverse SDE (eta = 1)"}


def check_noise_share(sampler: Any, only: float | None, why: str) -> None:
    """Raises ValueError unless a sampler's noise_share is `only`; None allows any.

    noise_share is the eta of the equation that a sampler solves: 0 is the probability flow, 1 the
    reverse SDE. None, or a sampler without it, is another equation: Langevin steps, churn. With
    couplings score_fn gives the flow, but is not the gradient of log p_t, which the noise of other
    samplers needs; with bridges it gives the reverse SDE alone (sde_lib.transport).

    Args:
        sampler: any sampler.
        only: the only eta of samplers that suit the model.
        why: the cause, for the error.
    """
    if only is None or getattr(sampler, "noise_share", None) == only:
        return
    samples = {0.0: "'heun', 'edm', 'dpmpp_2m' or 'probability_flow'"}
    instead = samples.get(only, "'euler_maruyama', or 'dpmpp_2m_sde' with config.sampling.eta=1")
    raise ValueError(
        f"{type(sampler).__name__} does not sample by {EQUATIONS[only]}, the only equation for "
        f"{why}: set config.sampling.method to {instead}, without churn and correctors"
    )


def check_frames(n_frames: int, n_moves: int) -> None:
    """Raises ValueError if n_frames is negative or above the number of steps, n_moves."""
    check_at_least(0, n_frames=n_frames)
    if n_frames > n_moves:
        raise ValueError(f"n_frames is {n_frames}: there are only {n_moves} steps to record")
