"""Annealed Langevin dynamics (Song & Ermon 2019, arXiv 1907.05600, Algorithm 1)."""

import dataclasses
from collections.abc import Sequence
from typing import Self

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from samplers import evaluations
from samplers.base import Samples, Start, check_frames, starting_point
from samplers.evaluations import Steps
from samplers.noise_levels import Levels, levels_at
from samplers.predictor_corrector import langevin_step
from sde_lib import SDE, ScoreFn, check_score_fn
from sde_lib.batch import expand, fold_in, normal, sample_keys
from sde_lib.checks import check_at_least, check_in, check_types


@dataclasses.dataclass(frozen=True)
class AnnealedLangevin:
    """Langevin dynamics at a decreasing sequence of noise levels, from t_max down to t_min.

    One step at level i is x + size score + sqrt(2 size) z with size = step_size sigma_i^2, as in
    NCSNv2. The levels are geometric in sigma / alpha, and x / alpha is carried from one level to
    the next. So the dynamics under any SDE are those of the paper, whose alpha is 1.

    Published settings, under VE: the defaults are NCSNv2 on CIFAR-10. NCSN (sigma from 1 to 0.01)
    has n_levels = 10, n_steps_each = 100, step_size = 0.1 (= epsilon / (2 sigma_L^2) with its
    epsilon = 2e-5).

    Attributes:
        n_levels: number of noise levels; 1 is plain Langevin dynamics at t_min.
        n_steps_each: number of Langevin steps at each level.
        step_size: step size in units of sigma^2; None chooses it by balanced_step_size.
        denoise: return E[x_0 | x] at t_min (one more evaluation) in place of x.

    Raises:
        ValueError: a number out of range, or n_levels = 1 without a step_size.
    """

    n_levels: int = 232
    n_steps_each: int = 5
    step_size: float | None = None
    denoise: bool = True

    def __post_init__(self):
        check_types(self)
        check_at_least(1, n_levels=self.n_levels, n_steps_each=self.n_steps_each)
        if self.step_size is None and self.n_levels == 1:
            raise ValueError("n_levels is 1: step_size must be given, or n_levels at least 2")
        check_in("(0, inf)", True, step_size=self.step_size)

    def own_levels(self, sde: SDE) -> Levels:
        """Noise levels from that of the prior on; the last one twice, where it begins and ends."""
        first, last = levels_at(sde, [sde.t_max, sde.t_min])
        return np.append(np.geomspace(first, last, self.n_levels), last)

    def from_levels(self, levels: Levels) -> Self:
        """A copy with as many of these levels, the last of own_levels; the step size needs two."""
        return dataclasses.replace(self, n_levels=max(len(levels) - 1, min(2, self.n_levels)))

    @property
    def nfe(self) -> int:
        """Number of network evaluations per sample."""
        return self.n_levels * self.n_steps_each + self.denoise

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
        """Draws samples of `shape` = (B, ...). Arguments and errors: see PredictorCorrector."""
        check_score_fn(score_fn, shape)
        n_moves = self.n_levels * self.n_steps_each
        check_frames(n_frames, n_moves)
        x, t_start = starting_point(key, sde, shape, first_index, start)
        # From t_min upwards, then reversed: a single level is that of t_min.
        log_snr = jnp.linspace(sde.log_snr(sde.t_min), sde.log_snr(t_start), self.n_levels)[::-1]
        times = jnp.clip(sde.inverse_log_snr(log_snr), sde.t_min, t_start)
        step_size = self.step_size
        if step_size is None:
            ratio = jnp.exp(0.5 * (log_snr[1] - log_snr[0]))
            step_size = balanced_step_size(ratio, self.n_steps_each)
        keys = sample_keys(key, shape[0], first_index)

        def step(k, state, score_fns):
            scaled, path = state
            t = jnp.full(shape[0], times[k // self.n_steps_each])
            alpha = expand(sde.alpha(t), scaled)
            x = alpha * scaled
            z = normal(fold_in(keys, k), shape)
            x, _ = langevin_step(x, score_fns[0](x, t), step_size * sde.sigma(t) ** 2, z)
            if n_frames:
                path = path.at[k * n_frames // n_moves].set(x)
            return x / alpha, path

        def denoise(_, state, score_fns):
            t = jnp.full(shape[0], sde.t_min)
            x = sde.alpha(sde.t_min) * state[0]
            return sde.denoise(x, t, score_fns[0](x, t)) / sde.alpha(sde.t_min), state[1]

        state = x / sde.alpha(t_start), jnp.zeros((n_frames, *shape))
        parts = Steps(step, n_moves), Steps(denoise, int(self.denoise))
        scaled, path = evaluations.run(score_fn, state, parts)
        x = sde.alpha(sde.t_min) * scaled
        return Samples(x, self.nfe, path)


def balanced_step_size(ratio: float | Array, n_steps_each: int) -> Float[Array, ""]:
    """Step size in units of sigma^2 by Technique 4 of Song & Ermon 2020 (arXiv 2006.09011).

    `ratio` is the quotient of two consecutive noise levels sigma / alpha, above 1. For data that
    are one point, samples enter a level with ratio^2 times its variance. The step size is the one
    with which they leave it with a variance nearest to the level's own.
    """
    size = jnp.geomspace(1e-5, 1.0, 8192)
    stationary = 2 / (2 - size)  # variance of the stationary state: finite steps overshoot
    variance = (1 - size) ** (2 * n_steps_each) * (ratio**2 - stationary) + stationary
    return size[jnp.argmin(jnp.abs(variance - 1))]
