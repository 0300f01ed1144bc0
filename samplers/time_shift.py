"""Time shift: steps from the noise level that fits the variance of each sample (Li et al. 2023).

The states of sampling are not as noisy as their time says: exposure bias (arXiv 2305.15583). The
noise variance sigma(tau)^2 of another time tau near t fits a state x better. Either the model alone
is evaluated there (samplers.guidance.time_shift), or the step begins there too, as published: x is
taken as a state of tau, from which the step goes on to the next level (Shifting).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array

from samplers.solver import Model, NoiseLevelSolver, model_at
from sde_lib import SDE
from sde_lib.batch import Batch, PerSample, expand
from sde_lib.checks import check_positive, known, precision


def shifted_time(
    sde: SDE, x: Batch, t: PerSample, window: float | Array, cutoff: float | Array
) -> PerSample:
    """The time in [t - window / 2, t + window / 2] that fits the variance of each sample of x.

    That is where sigma(tau)^2 is nearest to the variance of a sample over its dimensions; it is not
    below min(t, t_min). Up to the time `cutoff` it is t: the variance of a sample also contains
    alpha^2 Var x_0, which must be small beside the noise.

    Args:
        sde: the forward SDE; its sigma must increase with t.
        x: [B, ...] states.
        t: [B] their times.
        window: width of the interval of times.
        cutoff: time up to which nothing is shifted.
    """
    std = jnp.std(x, axis=tuple(range(1, x.ndim)))

    def halve(_, bracket):
        low, high = bracket
        middle = 0.5 * (low + high)
        above = sde.sigma(middle) > std
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    least = jnp.minimum(t, sde.t_min)
    ends = [jnp.clip(t + way * window, least, sde.t_max) for way in (-0.5, 0.5)]
    low, high = jax.lax.fori_loop(0, precision().nmant + 1, halve, tuple(ends))
    return jnp.where(t > cutoff, 0.5 * (low + high), t)


@dataclasses.dataclass(frozen=True)
class Shifting(NoiseLevelSolver):
    """Base class of solvers whose steps can begin at the time that fits the variance of a sample.

    A step never begins below the level where it ends.

    Attributes:
        shift_window: width of the interval of times around t; 0: no shift.
        shift_cutoff: time up to which nothing is shifted.

    Raises:
        ValueError: a number that is negative or not finite, or a cutoff without a window.
    """

    shift_window: float = dataclasses.field(default=0.0, kw_only=True)
    shift_cutoff: float = dataclasses.field(default=0.0, kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        options = {"shift_window": self.shift_window, "shift_cutoff": self.shift_cutoff}
        check_positive(or_zero=True, **options)
        if known(*options.values()) and self.shift_cutoff and not self.shift_window:
            raise ValueError(
                f"shift_cutoff is {self.shift_cutoff}, which does nothing without shift_window: "
                "give both, or leave it out"
            )

    def advance(
        self, sde: SDE, model: Model, y: Batch, c: object, past: Array, z: Array, then: Array
    ) -> tuple[Batch, Array]:
        if known(self.shift_window) and not self.shift_window:
            return super().advance(sde, model, y, c, past, z, then)
        x, t = model.alpha[0] * y, jnp.full(len(y), model.t[0])
        tau = shifted_time(sde, x, t, self.shift_window, self.shift_cutoff)
        now = jnp.maximum(sde.noise_level(tau), then)
        plan = self.plan(now, jnp.full_like(now, then))  # pyright: ignore[reportArgumentType]
        shifted = model_at(sde, model.score_fns, plan.evaluations.T)
        level, alpha, *_ = (
            jnp.stack([expand(row, y) for row in rows]) for rows in (shifted.level, shifted.alpha)
        )
        shifted = shifted._replace(level=level, alpha=alpha)
        c = jax.tree.map(lambda a: expand(a, y), plan.coefficients)
        return self.step(shifted, x / alpha[0], c, past, z)
