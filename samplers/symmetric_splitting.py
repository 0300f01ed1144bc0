"""The symmetric splitting sampler of CLD (Dockhorn et al. 2022, Section 3.3)."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from samplers import evaluations
from samplers.base import Samples, Start, check_frames, starting_point
from samplers.evaluations import Steps
from sde_lib import CLD, SDE, ScoreFn, check_score_fn
from sde_lib.batch import fold_in, normal, sample_keys
from sde_lib.checks import check_at_least, check_name, check_types

POWERS = {"uniform": 1, "quadratic": 2}


@dataclasses.dataclass(frozen=True)
class SymmetricSplitting:
    """Symmetric splitting sampler of critically damped Langevin diffusion (CLD).

    The reverse SDE is split in two: the SDE with the prior's score, which has an exact solution,
    and the rest of the score. A step is half a step of the first, an Euler step of the second with
    the score at the middle of the step, and another half step of the first. At high noise the rest
    is nearly 0, and the steps are nearly exact.

    Attributes:
        n_steps: number of evaluations, one per step. With `denoise` the last one is at t_min.
        grid: grid of times: "uniform" has even steps in t; "quadratic" has even steps in sqrt(t),
            denser at low noise (recommended by the paper for few steps).
        denoise: return E[x_0 | x, v] at t_min for the positions.

    Raises:
        ValueError: an unknown grid, or too few steps.
    """

    n_steps: int = 1000
    grid: Literal["uniform", "quadratic"] = "uniform"
    denoise: bool = True

    def __post_init__(self):
        check_types(self)
        check_name("grid", self.grid, POWERS)
        check_at_least(1 + self.denoise, n_steps=self.n_steps)

    @property
    def n_moves(self) -> int:
        """Number of steps in the loop."""
        return self.n_steps - self.denoise

    def __call__(
        self,
        key: PRNGKeyArray,
        sde: SDE,
        score_fn: ScoreFn,
        shape: Sequence[int],
        first_index: int | Array = 0,
        n_frames: int = 0,
        start: Start | None = None,
    ) -> Samples:
        """Draws states of `shape` = (B, ...). The arguments are those of PredictorCorrector.

        Raises:
            ValueError: an SDE other than CLD, and the errors of PredictorCorrector.
        """
        if not isinstance(sde, CLD):
            raise ValueError(
                f"'symmetric_splitting' is a sampler of CLD: under {type(sde).__name__} take "
                "'euler_maruyama', or set config.training.sde='cld' to train such a model"
            )
        check_score_fn(score_fn, shape)
        check_frames(n_frames, self.n_moves)
        x, t_start = starting_point(key, sde, shape, first_index, start)
        keys, power = sample_keys(key, shape[0], first_index), POWERS[self.grid]
        ends = t_start ** (1 / power), sde.t_min ** (1 / power)
        times = jnp.linspace(*ends, self.n_moves + 1) ** power

        def step(k, state, score_fns):
            x, path = state
            dt, middle = times[k] - times[k + 1], 0.5 * (times[k] + times[k + 1])
            z, z_after = (normal(fold_in(fold_in(keys, k), i), shape) for i in range(2))
            x = sde.reverse_free(x, 0.5 * dt, z)
            t = jnp.full(shape[0], middle)
            x += dt * sde.diffusion(middle) ** 2 * sde.noisy(score_fns[0](x, t) + x / sde.mass)
            x = sde.reverse_free(x, 0.5 * dt, z_after)
            if n_frames:
                path = path.at[k * n_frames // self.n_moves].set(x)
            return x, path

        def denoise(_, state, score_fns):
            x, path = state
            t = jnp.full(shape[0], sde.t_min)
            return sde.denoise(x, t, score_fns[0](x, t)), path

        state = x, jnp.zeros((n_frames, *shape))
        parts = Steps(step, self.n_moves), Steps(denoise, int(self.denoise))
        x, path = evaluations.run(score_fn, state, parts)
        return Samples(x, self.n_steps, path)
