"""Annealed Langevin dynamics (Song & Ermon 2019, arXiv 1907.05600, Algorithm 1)."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from samplers.base import Samples, Start, check_frames, starting_point
from samplers.predictor_corrector import langevin_step
from sde_lib import SDE, ScoreFn, check_score_fn
from sde_lib.batch import expand, fold_in, normal, sample_keys
from sde_lib.checks import check_at_least


@dataclasses.dataclass(frozen=True)
class AnnealedLangevin:
    """n_steps_each Langevin steps at each of n_levels noise levels, from t_max down to t_min.

    The levels are geometric in sigma / alpha, and x / alpha is what one level hands to the next:
    under any SDE the dynamics are those of the paper, whose alpha is 1. A step at level i has the
    size step_size sigma_i^2 of NCSNv2: x + size score + sqrt(2 size) z.

    The published settings, under VE: NCSN (sigma from 1 to 0.01) n_levels = 10, n_steps_each = 100,
    step_size = 0.1 (its epsilon / (2 sigma_L^2), epsilon = 2e-5); NCSNv2 on CIFAR-10, the defaults.

    Attributes:
        n_levels: noise levels. With 1, plain Langevin dynamics at t_min.
        n_steps_each: steps at each.
        step_size: of a step in units of sigma^2; None chooses it by balanced_step_size.
        denoise: return E[x_0 | x] at t_min (one more evaluation) in place of x.

    Raises:
        ValueError: an impossible number, or n_levels = 1 without a step_size.
    """

    n_levels: int = 232
    n_steps_each: int = 5
    step_size: float | None = None
    denoise: bool = True

    def __post_init__(self):
        check_at_least(1, n_levels=self.n_levels, n_steps_each=self.n_steps_each)
        if self.step_size is None and self.n_levels == 1:
            raise ValueError("n_levels is 1: step_size must be given, or take more levels")
        if self.step_size is not None and not self.step_size > 0:
            raise ValueError(f"step_size is {self.step_size}: it must be positive, or None")

    @property
    def nfe(self) -> int:
        """Network evaluations a sample."""
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
        """Draws samples of `shape` = (B, ...); arguments and errors as for PredictorCorrector."""
        check_score_fn(score_fn, shape)
        n_moves = self.n_levels * self.n_steps_each
        check_frames(n_frames, n_moves)
        x, t_start = starting_point(key, sde, shape, first_index, start)
        # Laid from the end, so that a single level is the last one.
        log_snr = jnp.linspace(sde.log_snr(sde.t_min), sde.log_snr(t_start), self.n_levels)[::-1]
        times = jnp.clip(sde.inverse_log_snr(log_snr), sde.t_min, t_start)
        step_size = self.step_size
        if step_size is None:
            ratio = jnp.exp(0.5 * (log_snr[1] - log_snr[0]))
            step_size = balanced_step_size(ratio, self.n_steps_each)
        keys = sample_keys(key, shape[0], first_index)

        def step(k, carry):
            scaled, path = carry
            t = jnp.full(shape[0], times[k // self.n_steps_each])
            alpha = expand(sde.alpha(t), scaled)
            x = alpha * scaled
            z = normal(fold_in(keys, k), shape)
            x, _ = langevin_step(x, score_fn(x, t), step_size * sde.sigma(t) ** 2, z)
            if n_frames:
                path = path.at[k * n_frames // n_moves].set(x)
            return x / alpha, path

        carry = (x / sde.alpha(t_start), jnp.zeros((n_frames, *shape)))
        scaled, path = jax.lax.fori_loop(0, n_moves, step, carry)
        t = jnp.full(shape[0], sde.t_min)
        x = expand(sde.alpha(t), scaled) * scaled
        if self.denoise:
            x = sde.denoise(x, t, score_fn(x, t))
        return Samples(x, self.nfe, path)


def balanced_step_size(ratio: float | Array, n_steps_each: int) -> Float[Array, ""]:
    """The step size, in units of sigma^2, by Technique 4 of Song & Ermon 2020 (arXiv 2006.09011).

    `ratio` is that of a level's sigma / alpha to the next. Samples of a point's noise that come to
    a level with ratio^2 times its variance leave it with a variance nearest to its own.
    """
    size = jnp.geomspace(1e-5, 1.0, 8192)
    stationary = 2 / (2 - size)  # Langevin steps of finite size overshoot
    variance = (1 - size) ** (2 * n_steps_each) * (ratio**2 - stationary) + stationary
    return size[jnp.argmin(jnp.abs(variance - 1))]
