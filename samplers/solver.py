"""Solvers that go from noise level to noise level: one loop, and a step function for each.

With y = x / alpha and the level l = sigma / alpha every diffusion is y = x_0 + l eps, and its
probability flow dy / dl = eps(y, l), where eps = -sigma score is the noise that the model sees in
y (Karras et al. 2022, Eq. 4). All that a solver computes of the levels alone, it computes in
float64 before the loop.
"""

import abc
import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PRNGKeyArray

from samplers.base import Samples, Scores, Start, check_frames, starting_point
from samplers.brownian import Draw, increments
from samplers.noise_levels import (
    SLACK,
    Grid,
    Levels,
    check_grid,
    levels_at,
    noise_levels,
    time_of,
)
from sde_lib import SDE, ScoreFn, check_score_fn
from sde_lib.batch import Batch, fold_in, normal, sample_keys
from sde_lib.checks import check_at_least
from sde_lib.sde import score_and_variance

BROWNIAN = 1 << 24  # folded into a sample's key: no step has this number


class Plan(NamedTuple):
    """What is known of N steps before they are taken; all but `rate` have a row for each.

    Attributes:
        evaluations: [N, S] levels at which a step evaluates the model.
        coefficients: pytree of [N, ...], the step's own.
        stops: [N, M] levels, decreasing, up to which a step draws noise.
        rate: of the Brownian path that the noise comes from.
    """

    evaluations: Float[np.ndarray, "steps evaluations"]
    coefficients: Any
    stops: Float[np.ndarray, "steps stops"] | None = None
    rate: float = 0.0


class Model(NamedTuple):
    """Score functions at S noise levels: all but the functions are [S], or [N, S] for N steps."""

    score_fns: tuple[ScoreFn, ...]
    level: Array
    t: Array
    alpha: Array

    def noise(self, y: Batch, i: int = 0) -> Batch:
        """eps(y) at the i-th level."""
        score_fn = self.score_fns[min(i, len(self.score_fns) - 1)]
        score = score_fn(self.alpha[i] * y, jnp.full(len(y), self.t[i]))
        return -self.alpha[i] * self.level[i] * score

    def noise_and_variance(self, y: Batch) -> tuple[Batch, Batch]:
        """eps(y) at the first level, and v, as of ScoreAndVariance."""
        both = score_and_variance(self.score_fns[0])
        score, v = both(self.alpha[0] * y, jnp.full(len(y), self.t[0]))
        return -self.alpha[0] * self.level[0] * score, v

    def denoised(self, y: Batch, i: int = 0) -> Batch:
        """E[x_0 | y] at the i-th level."""
        return y - self.level[i] * self.noise(y, i)

    def row(self, k: Array) -> "Model":
        """Of the k-th step."""
        return Model(self.score_fns, self.level[k], self.t[k], self.alpha[k])


def model_at(sde: SDE, score_fn: Scores, levels: np.ndarray | Array) -> Model:
    """The model at noise levels, [S] or [N, S]."""
    level = jnp.asarray(levels, jnp.float32)
    t = sde.inverse_noise_level(level)
    return Model(_all(score_fn), level, t, sde.alpha(t))


@dataclasses.dataclass(frozen=True)
class NoiseLevelSolver(abc.ABC):
    """n_steps steps through decreasing noise levels.

    Attributes:
        n_steps: the last is, with `denoise`, the model's estimate of x_0, one evaluation.
        grid: of the levels: a name in noise_levels.GRIDS, or the levels, as many as n_steps
            (without `denoise` one more).
        rho: the grid's parameter; None for its own default.
        sigma_max: sigma / alpha to start from; None for the prior's, or the given grid's.
        sigma_min: sigma / alpha of the last level; None for that of t_min, or the given grid's.
        denoise: end with x_0; otherwise x at sigma_min.

    Raises:
        ValueError: an unknown grid, an impossible number, too few steps for the order.
    """

    n_steps: int = 18
    grid: Grid = "karras"
    rho: float | None = None
    sigma_max: float | None = None
    sigma_min: float | None = None
    denoise: bool = True

    least_steps: ClassVar[int] = 1
    evaluations: ClassVar[int] = 1  # a step
    n_past: ClassVar[int] = 0  # evaluations kept for later steps
    takes_tuple: ClassVar[bool] = True  # of score functions

    def __post_init__(self):
        object.__setattr__(self, "grid", check_grid(self.grid, self.rho))
        self.check_steps(self.least_steps)
        if not isinstance(self.grid, str) and len(self.grid) != self.n_levels:
            raise ValueError(
                f"grid gives {len(self.grid)} noise levels: n_steps = {self.n_steps}, with denoise "
                f"= {self.denoise}, takes {self.n_levels}"
            )
        for name in ("sigma_min", "sigma_max"):
            value = getattr(self, name)
            if value is not None and not 0 < value < np.inf:
                raise ValueError(f"{name} is {value:g}: it must be positive, or None for the SDE's")
            if value is not None and not isinstance(self.grid, str):
                raise ValueError(
                    f"{name} is {value:g}: with levels given as grid, leave it at None"
                )
        if self.sigma_min is not None and self.grid == "ddim" and self.denoise:
            raise ValueError("the grid 'ddim' ends a stride before x_0: leave sigma_min at None")

    def check_steps(self, least: int) -> None:
        """Raises ValueError where `least` steps, the one to x_0 apart, are not made."""
        check_at_least(least + (self.denoise and least > 1), n_steps=self.n_steps)

    @abc.abstractmethod
    def plan(self, now: Levels, then: Levels) -> Plan:
        """The plan of the steps from now[k] to then[k]."""

    @abc.abstractmethod
    def step(self, model: Model, y: Batch, c: Any, past: Array, z: Array) -> Any:
        """(y, past) after a step.

        Args:
            model: at the levels of the step's row of the plan.
            y: [B, ...], x / alpha.
            c: that row of the plan's coefficients.
            past: [n_past, B, ...], what earlier steps keep; zeros at first.
            z: for each stop a standard normal draw: the increment of one Brownian path from the
                start of the step, scaled; zeros without stops.
        """

    def inflated(self, levels: Levels) -> tuple[Levels, Levels]:
        """(levels, std): what states at `levels` are brought up to by noise before a step."""
        return levels, np.zeros_like(levels)

    @property
    def n_levels(self) -> int:
        """Levels of the grid."""
        return self.n_steps + 1 - self.denoise

    def levels(self, sde: SDE, high: float, low: float) -> Levels:
        """The levels that the loop's steps go through, from `high` to `low`: the grid's."""
        return noise_levels(sde, self.grid, high, low, self.n_levels, self.rho, self.denoise)

    @property
    def n_moves(self) -> int:
        """Steps of the loop: all but the last, to x_0."""
        return self.n_steps - self.denoise

    @property
    def nfe(self) -> int:
        """Network evaluations a sample."""
        return self.evaluations * self.n_moves + self.denoise

    def __call__(
        self,
        key: PRNGKeyArray,
        sde: SDE,
        score_fn: Scores,
        shape: Sequence[int],
        first_index: int | Array = 0,
        n_frames: int = 0,
        start: Start | None = None,
    ) -> Samples:
        """Draws samples of `shape` = (B, ...); arguments as for PredictorCorrector.

        score_fn may be a tuple: its first is evaluated first in a step, and for x_0 at the end; its
        second second, and so on; its last in all that follow.

        Warns of noise levels beyond those of training.

        Raises:
            ValueError: a score_fn or start of another shape; more frames than steps; a grid whose
                levels do not decrease, or begin elsewhere than `start`.
        """
        for each in _all(score_fn) if self.takes_tuple else [score_fn]:
            check_score_fn(each, shape)
        n_moves = self.n_moves
        check_frames(n_frames, n_moves)
        ends = self.grid, self.sigma_max, self.sigma_min
        y, high, low = enter(key, sde, shape, first_index, start, *ends)
        levels = self.levels(sde, high, low)
        warn_of_untrained(sde, self.inflated(levels)[0])
        keys = sample_keys(key, shape[0], first_index)
        alpha = model_at(sde, score_fn, levels).alpha
        frames = jnp.zeros((n_frames, *shape))
        if n_moves:
            move, w = self.mover(sde, score_fn, keys, levels, shape)

            def body(k, carry):
                y, past, w, frames = carry
                y, past, w = move(k, y, past, w)
                if n_frames:
                    frames = frames.at[k * n_frames // n_moves].set(alpha[k + 1] * y)
                return y, past, w, frames

            past = jnp.zeros((self.n_past, *shape))
            y, *_, frames = jax.lax.fori_loop(0, n_moves, body, (y, past, w, frames))

        if not self.denoise:
            return Samples(alpha[-1] * y, self.nfe, frames)
        level, std = self.inflated(levels[-1:])
        if std[0] > 0:
            y += std[0] * normal(fold_in(keys, n_moves), shape)
        return Samples(model_at(sde, score_fn, level).denoised(y), self.nfe, frames)

    def mover(
        self,
        sde: SDE,
        score_fn: Scores,
        keys: Key[Array, " batch"],
        levels: Levels,
        shape: Sequence[int],
    ) -> tuple[Callable[[Array, Batch, Array, Array], tuple[Batch, Array, Array]], Array]:
        """The steps between `levels` one by one, for studies that look at the states between them.

        Args:
            sde: the forward SDE.
            score_fn: its score, or a tuple as above.
            keys: of the samples (sde_lib.batch.sample_keys).
            levels: decreasing, such as self.levels(sde, high, low); of a solver without noise they
                may increase, on the way from data to noise.
            shape: of the states.

        Returns:
            move(k, y, past, w) -> (y, past, w), the step from levels[k] to levels[k + 1]: of states
            y = x / alpha, [B, ...], what earlier steps keep, [n_past, B, ...], zeros at first, and
            the Brownian path's value that the step before found. With it, the first w.
        """
        now, std = self.inflated(levels[:-1])
        plan = self.plan(now, levels[1:])
        models = model_at(sde, score_fn, plan.evaluations)
        rows = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (plan.coefficients, std))
        draw, w = self._noise(sde, keys, now, plan, shape)

        def move(k, y, past, w):
            c, added = jax.tree.map(lambda a: a[k], rows)
            if std.any():
                y += added * normal(fold_in(keys, k), y.shape)
            z, w = draw(k, w)
            return *self.step(models.row(k), y, c, past, z), w

        return move, w

    def _noise(
        self, sde: SDE, keys: Key[Array, " batch"], now: Levels, plan: Plan, shape: Sequence[int]
    ) -> tuple[Draw, Array]:
        """draw(k, w), the standard normal draws, [stops, B, ...], of a step; and the first w."""
        if plan.stops is None or plan.rate == 0:
            none = jnp.zeros((self.evaluations, *(1,) * len(shape)))
            return lambda k, w: (none, w), none
        low, high = levels_at(sde, [sde.train_t_min, sde.t_max])
        low, high = min(low or np.inf, plan.stops.min()), max(high, now.max())
        keys = fold_in(keys, BROWNIAN)
        return increments(keys, now, plan.stops, high, low, plan.rate, shape)


def _all(score_fn: Scores) -> tuple[ScoreFn, ...]:
    return score_fn if isinstance(score_fn, tuple) else (score_fn,)


def enter(
    key: PRNGKeyArray,
    sde: SDE,
    shape: Sequence[int],
    first_index: int | Array,
    start: Start | None,
    grid: Grid,
    sigma_max: float | None,
    sigma_min: float | None,
) -> tuple[Batch, float, float]:
    """The states y to start from, their noise level, and the level to end at.

    `start` decides before given levels or sigma_max, and these before the prior.

    Raises:
        ValueError: a start of another shape; an end at level 0, or above the start; a level that
            the SDE has at no time.
    """
    if not isinstance(grid, str):
        sigma_max, sigma_min = grid[0], grid[-1]
    low = sigma_min or float(levels_at(sde, [sde.t_min])[0])
    if start is None and sigma_max is not None:
        high = sigma_max
        y = high / sde.prior_std * sde.prior_sample(key, shape, first_index)
    else:
        x, t = starting_point(key, sde, shape, first_index, start)
        high, y = float(levels_at(sde, [t])[0]), x / sde.alpha(t)
    if not 0 < low <= high:
        raise ValueError(
            f"sampling starts at the noise level {high:g} and ends at {low:g}: set sigma_min to a "
            "positive number below the start's"
        )
    for level in (high, low):
        nearest = levels_at(sde, [time_of(sde, level)])[0]
        if abs(nearest / level - 1) > 100 * SLACK:
            raise ValueError(
                f"{sde} has no time of the noise level {level:g}, the nearest is {nearest:g}: set "
                "sigma_max and sigma_min within its range"
            )
    return y, high, low


def warn_of_untrained(sde: SDE, levels: np.ndarray) -> None:
    """Warns, for the caller's caller, of noise levels beyond those of training."""
    high, low = levels.max(), levels.min()
    least, most = levels_at(sde, [sde.train_t_min, sde.t_max])
    if low < least * (1 - SLACK) or high > most * (1 + SLACK):
        warnings.warn(
            f"sampling visits the noise levels sigma/alpha from {high:g} to {low:g}, training "
            f"those from {most:g} to {least:g}: keep sigma_max, sigma_min and churn within",
            stacklevel=3,
        )
