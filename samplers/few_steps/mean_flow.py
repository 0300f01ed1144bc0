"""Sampling by average velocities (Geng et al. 2025, arXiv 2505.13447, Algorithm 2)."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from samplers.base import Samples, Scores, Start, check_frames, starting_point
from sde_lib import SDE, check_score_fn, loops
from sde_lib.checks import check_at_least, check_types
from sde_lib.few_steps.mean_flow import MeanFlow as Velocities
from sde_lib.few_steps.mean_flow import average_velocity


@dataclasses.dataclass(frozen=True)
class MeanFlow:
    """Steps x_r = x_t - (t - r) u(x_t, r, t) at even times, the last one to r = 0.

    With exact average velocities u the samples are those of the probability flow, whatever the
    number of steps.

    Attributes:
        n_steps: number of steps, each of one network evaluation.

    Raises:
        ValueError: n_steps below 1.
    """

    n_steps: int = 1

    needs: ClassVar[str] = "mean_flow"

    def __post_init__(self):
        check_types(self)
        check_at_least(1, n_steps=self.n_steps)

    def __call__(
        self,
        key: PRNGKeyArray,
        sde: SDE,
        score_fn: Scores | Velocities,
        shape: Sequence[int],
        first_index: int | Array = 0,
        n_frames: int = 0,
        start: Start | None = None,
    ) -> Samples:
        """Draws samples of `shape` = (B, ...). The arguments are those of PredictorCorrector.

        Raises:
            ValueError: a score_fn that is no sde_lib.MeanFlow, a score_fn or start of the wrong
                shape, or more frames than steps.
        """
        average, n = average_velocity(score_fn), self.n_steps
        check_score_fn(score_fn, shape)
        check_frames(n_frames, n)
        x, begin = starting_point(key, sde, shape, first_index, start)
        times = jnp.asarray(sde.times(begin, 0.0, n), float)

        def step(k, state):
            x, frames = state
            t, r = (jnp.full(len(x), times[k + i]) for i in range(2))
            x = x - (times[k] - times[k + 1]) * average(x, r, t)
            if n_frames:
                frames = frames.at[k * n_frames // n].set(x)
            return x, frames

        frames = jnp.zeros((n_frames, *shape))
        x, frames = loops.fori_loop(n, step, (x, frames))
        return Samples(x, n, frames)
