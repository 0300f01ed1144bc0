"""Solvers that step between noise levels: one loop for all, and one step function for each.

With y = x / alpha and the noise level l = sigma / alpha every diffusion is y = x_0 + l eps. Its
probability flow is dy / dl = eps(y, l), where eps = -sigma score is the predicted noise (Karras et
al. 2022, Eq. 4). The denoised data are D = y - l eps. Coefficients that depend on the levels only
are computed in float64 before the loop.
"""

import abc
import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.errors import ConcretizationTypeError, TracerArrayConversionError
from jaxtyping import Array, Float, Key, PRNGKeyArray

from samplers import evaluations
from samplers.base import Samples, Scores, Start, check_frames, starting_point
from samplers.brownian import Draw, increments
from samplers.evaluations import Steps
from samplers.noise_levels import (
    SLACK,
    Grid,
    Levels,
    check_grid,
    leading_time,
    levels_at,
    noise_levels,
    time_of,
)
from sde_lib import SDE, ScoreFn, check_score_fn
from sde_lib.batch import Batch, as_number, fold_in, normal, numpy_of, sample_keys
from sde_lib.checks import check_at_least, check_types, known
from sde_lib.sde import check_ends, score_and_variance

TRACEABLE = "'euler', 'heun', 'edm', 'dpm_2', 'dpmpp_2s', 'dpmpp_2m' or 'predictor_corrector'"
BROWNIAN = 1 << 24  # folded into the key of a sample; larger than any step number


class Plan(NamedTuple):
    """Coefficients of N steps, computed before the loop. All but `rate` have one row per step.

    Attributes:
        evaluations: [N, S] noise levels at which a step evaluates the model.
        coefficients: pytree of [N, ...] coefficients of the solver.
        stops: [N, M] decreasing levels at which the noise increments of a step end; None for a
            solver without noise.
        rate: rate of the Brownian path (samplers/brownian.py); 0 for no noise.
    """

    evaluations: Float[np.ndarray, "steps evaluations"]
    coefficients: Any
    stops: Float[np.ndarray, "steps stops"] | None = None
    rate: float = 0.0


class Model(NamedTuple):
    """The model at S noise levels. Level, t and alpha are [S], or [N, S] for N steps."""

    score_fns: tuple[ScoreFn, ...]
    level: Array
    t: Array
    alpha: Array

    def noise(self, y: Batch, i: int = 0) -> Batch:
        """Predicted noise eps(y) at the i-th level."""
        score_fn = self.score_fns[min(i, len(self.score_fns) - 1)]
        score = score_fn(self.alpha[i] * y, jnp.full(len(y), self.t[i]))
        return -self.alpha[i] * self.level[i] * score

    def noise_and_variance(self, y: Batch) -> tuple[Batch, Batch]:
        """Predicted noise eps(y) at the first level, and v of a ScoreAndVariance."""
        both = score_and_variance(self.score_fns[0])
        score, v = both(self.alpha[0] * y, jnp.full(len(y), self.t[0]))
        return -self.alpha[0] * self.level[0] * score, v

    def denoised(self, y: Batch, i: int = 0) -> Batch:
        """Denoised data D = E[x_0 | y] at the i-th level."""
        return y - self.level[i] * self.noise(y, i)

    def row(self, k: Array) -> "Model":
        """The model at the levels of the k-th step."""
        return Model(self.score_fns, self.level[k], self.t[k], self.alpha[k])


def model_at(sde: SDE, score_fn: Scores, levels: np.ndarray | Array) -> Model:
    """The model at given noise levels, [S] or [N, S]."""
    level = jnp.asarray(levels, float)
    t = sde.inverse_noise_level(level)
    return Model(_all(score_fn), level, t, sde.alpha(t))


@dataclasses.dataclass(frozen=True)
class NoiseLevelSolver(abc.ABC):
    """Base class of solvers that make n_steps steps through decreasing noise levels.

    Attributes:
        n_steps: number of steps. With `denoise` the last step is to the model's estimate of x_0,
            and takes one evaluation.
        grid: grid of noise levels: a name in noise_levels.GRIDS, or the levels themselves, which
            are n_steps levels with `denoise` and n_steps + 1 without.
        rho: parameter of the grid; None for the default of the grid.
        sigma_max: first noise level sigma / alpha; None for that of the prior or the given grid.
        sigma_min: last noise level sigma / alpha; None for that of t_min or the given grid.
        denoise: return E[x_0 | x] in place of x at sigma_min.

    Raises:
        ValueError: an unknown grid, a number out of range, or too few steps for the order.
    """

    n_steps: int = 18
    grid: Grid = "karras"
    rho: float | None = None
    sigma_max: float | None = None
    sigma_min: float | None = None
    denoise: bool = True

    least_steps: ClassVar[int] = 1
    evaluations: ClassVar[int] = 1  # per step
    n_past: ClassVar[int] = 0  # evaluations kept for later steps
    takes_tuple: ClassVar[bool] = True  # a tuple of score functions is accepted

    def __post_init__(self):
        check_types(self)
        object.__setattr__(self, "grid", check_grid(self.grid, self.rho))
        self.check_steps(self.least_steps)
        if not isinstance(self.grid, str) and len(self.grid) != self.n_levels:
            raise ValueError(
                f"grid gives {len(self.grid)} noise levels: n_steps = {self.n_steps}, with denoise "
                f"= {self.denoise}, takes {self.n_levels}"
            )
        for name in ("sigma_min", "sigma_max"):
            value = getattr(self, name)
            if value is not None and known(value) and not 0 < value < np.inf:
                raise ValueError(f"{name} is {value:g}: it must be positive, or None for the SDE's")
            if value is not None and not isinstance(self.grid, str):
                shown = f"{value:g}" if known(value) else "traced"
                raise ValueError(f"{name} is {shown}: with levels given as grid, leave it at None")
        if self.sigma_min is not None and self.grid == "ddim" and self.denoise:
            raise ValueError("the grid 'ddim' has its own last level: leave sigma_min at None")

    def check_steps(self, least: int) -> None:
        """Raises ValueError if the steps, without the one to x_0, are fewer than `least`."""
        check_at_least(least + (self.denoise and least > 1), n_steps=self.n_steps)

    @abc.abstractmethod
    def plan(self, now: Levels, then: Levels) -> Plan:
        """Coefficients of the steps from the noise level now[k] to the next one, then[k]."""

    @abc.abstractmethod
    def step(self, model: Model, y: Batch, c: Any, past: Array, z: Array) -> Any:
        """One step of the solver.

        Args:
            model: the model at the levels in the step's row of plan.evaluations.
            y: [B, ...], x / alpha at the start of the step.
            c: the step's row of plan.coefficients.
            past: [n_past, B, ...], arrays kept by earlier steps; zeros at first.
            z: [M, B, ...], for each stop the increment of the Brownian path since the start of the
                step, divided by its standard deviation; zeros without stops.

        Returns:
            (y, past) after the step.
        """

    def advance(
        self, sde: SDE, model: Model, y: Batch, c: Any, past: Array, z: Array, then: Array
    ) -> Any:
        """The step to the level `then`; a subclass may begin it elsewhere (samplers/time_shift)."""
        return self.step(model, y, c, past, z)

    def estimate(self, model: Model, y: Batch) -> Batch:
        """E[x_0 | y], in which the last step ends."""
        return model.denoised(y)

    def inflated(self, levels: Levels) -> tuple[Levels, Levels]:
        """(raised levels, std): levels after churn, and the noise added to states at `levels`."""
        return levels, numpy_of(levels).zeros_like(levels)

    @property
    def noise_share(self) -> float | None:
        """The eta of the equation that it solves (samplers.base.check_noise_share)."""
        return 0.0

    @property
    def n_levels(self) -> int:
        """Number of levels in the grid."""
        return self.n_steps + 1 - self.denoise

    def levels(self, sde: SDE, high: float, low: float) -> Levels:
        """Noise levels between which the loop steps, from `high` to `low`."""
        return noise_levels(sde, self.grid, high, low, self.n_levels, self.rho, self.denoise)

    def own_levels(self, sde: SDE) -> Levels:
        """Noise levels at which the steps from the prior begin, and the one where the last ends."""
        given = self.grid if not isinstance(self.grid, str) else None
        floor = float(levels_at(sde, [sde.t_min])[0])
        high, low = (given[0], given[-1]) if given else (self.sigma_max, self.sigma_min)
        if high is None:
            leads = self.grid == "leading"
            first = leading_time(sde, self.n_steps, self.denoise) if leads else sde.t_max
            high = float(levels_at(sde, [first])[0])
        about = self.n_levels, self.rho, self.denoise
        levels = noise_levels(sde, self.grid, high, low or floor, *about)
        return np.append(levels, min(levels[-1], floor)) if self.denoise else levels

    def from_levels(self, levels: Levels) -> Self:
        """A copy whose steps are between these levels, the last ones of own_levels.

        There are more of them if they are fewer than the solver needs.
        """
        least = self.fewest_steps + (self.denoise and self.fewest_steps > 1)
        grid = levels[:-1] if self.denoise else levels
        if len(levels) <= least:
            grid = np.geomspace(grid[0], min(grid[-1], max(levels[1:])), least + 1 - self.denoise)
        ends: dict[str, Any] = dict.fromkeys(("rho", "sigma_max", "sigma_min"))
        return dataclasses.replace(
            self, n_steps=self._steps_of(len(grid)), grid=tuple(grid), **ends
        )

    @property
    def fewest_steps(self) -> int:
        """The fewest steps, without the one to x_0, that the order needs."""
        return self.least_steps

    def _steps_of(self, n_levels: int) -> int:
        """The n_steps of a copy with this number of levels."""
        return n_levels - 1 + self.denoise

    @property
    def n_moves(self) -> int:
        """Number of steps in the loop: all but the final step to x_0."""
        return self.n_steps - self.denoise

    @property
    def nfe(self) -> int:
        """Number of network evaluations per sample."""
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
        """Draws samples of `shape` = (B, ...). The arguments are those of PredictorCorrector.

        score_fn may be a tuple. Its i-th function is used for the i-th evaluation of a step, and
        its last for all later ones. The final step to x_0 uses the first.

        Warns if a noise level is outside the range of training.

        Raises:
            ValueError: a score_fn or start of the wrong shape, more frames than steps, or a grid
                that does not decrease or does not begin at the level of `start`.
        """
        for each in _all(score_fn) if self.takes_tuple else [score_fn]:
            check_score_fn(each, shape)
        n_moves = self.n_moves
        check_frames(n_frames, n_moves)
        ends = self.grid, self.sigma_max, self.sigma_min
        if self.grid == "leading" and start is None and self.sigma_max is None:
            first = leading_time(sde, self.n_steps, self.denoise)
            start = Start(sde.prior_sample(key, shape, first_index), first)
        y, high, low = enter(key, sde, shape, first_index, start, *ends)
        with self._on_host():
            levels = self.levels(sde, high, low)
        warn_of_untrained(sde, self.inflated(levels)[0])
        keys = sample_keys(key, shape[0], first_index)
        alpha = model_at(sde, score_fn, levels).alpha
        move, w = self.mover(sde, score_fn, keys, levels, shape)

        def step(k, state, score_fns):
            y, past, w, frames = state
            y, past, w = move(k, y, past, w, score_fns)
            if n_frames:
                frames = frames.at[k * n_frames // n_moves].set(alpha[k + 1] * y)
            return y, past, w, frames

        def last(_, state, score_fns):
            level, std = self.inflated(levels[-1:])
            y, *rest = state
            if not known(std) or std[0] > 0:
                y += std[0] * normal(fold_in(keys, n_moves), shape)
            return self.estimate(model_at(sde, score_fns, level), y), *rest

        state = y, jnp.zeros((self.n_past, *shape)), w, jnp.zeros((n_frames, *shape))
        parts = Steps(step, n_moves, self.evaluations), Steps(last, int(self.denoise))
        y, *_, frames = evaluations.run(score_fn, state, parts)
        return Samples(y if self.denoise else alpha[-1] * y, self.nfe, frames)

    def mover(
        self,
        sde: SDE,
        score_fn: Scores,
        keys: Key[Array, " batch"],
        levels: Levels,
        shape: Sequence[int],
    ) -> tuple[Callable[..., tuple[Batch, Array, Array]], Array]:
        """Single steps between `levels`, for the loop and for studies of intermediate states.

        Args:
            sde: the forward SDE.
            score_fn: score function, or a tuple as in __call__.
            keys: random keys, one per sample (sde_lib.batch.sample_keys).
            levels: decreasing noise levels, such as self.levels(sde, high, low). For a solver
                without noise they may increase, from data to noise.
            shape: shape of the states, (B, ...).

        Returns:
            (move, w). move(k, y, past, w, score_fn=score_fn) -> (y, past, w) is the step from
            levels[k] to levels[k + 1]. y = x / alpha is [B, ...]. past, [n_past, B, ...], is kept
            by earlier steps, and zeros at first. w is the value of the Brownian path at levels[k];
            the w that is returned is the first.
        """
        now, std = self.inflated(levels[:-1])
        with self._on_host():
            plan = self.plan(now, levels[1:])
            self._check_plan(plan, len(now))
            draw, w = self._noise(sde, keys, now, plan, shape)
        models = model_at(sde, score_fn, plan.evaluations)
        rows = jax.tree.map(lambda a: jnp.asarray(a, float), (plan.coefficients, std))
        ends = jnp.asarray(levels[1:], float)

        def move(k, y, past, w, score_fn=score_fn):
            c, added = jax.tree.map(lambda a: a[k], rows)
            if not known(std) or std.any():
                y += added * normal(fold_in(keys, k), y.shape)
            z, w = draw(k, w)
            model = models.row(k)._replace(score_fns=_all(score_fn))
            made = self.advance(sde, model, y, c, past, z, ends[k])
            if jax.tree.map(jnp.shape, made) != (y.shape, past.shape):
                raise ValueError(
                    f"{type(self).__name__}.step returned {jax.tree.map(jnp.shape, made)}: it must "
                    f"return (y, past), of the shapes {y.shape} and {past.shape}"
                )
            return *made, w

        return move, w

    @contextlib.contextmanager
    def _on_host(self) -> Iterator[None]:
        """Raises ValueError where coefficients that are computed on the host are traced."""
        try:
            yield
        except (TracerArrayConversionError, ConcretizationTypeError) as error:
            raise ValueError(
                f"{type(self).__name__} computes its coefficients on the host, so noise levels "
                "(sigma_max, sigma_min, rho, start.t, numbers of the SDE) and eta must not be "
                f"traced: give numbers, or take {TRACEABLE}"
            ) from error

    def _check_plan(self, plan: Plan, n_steps: int) -> None:
        """Raises ValueError for a plan that has not one row of finite numbers for each step."""
        name = f"{type(self).__name__}.plan"
        parts = [("evaluations", plan.evaluations)]
        parts += [] if plan.stops is None else [("stops", plan.stops)]
        parts += [("coefficients", leaf) for leaf in jax.tree.leaves(plan.coefficients)]
        for part, values in parts:
            shape = np.shape(values)
            if shape[:1] != (n_steps,) or (part != "coefficients" and len(shape) != 2):
                expected = "..." if part == "coefficients" else "columns"
                raise ValueError(
                    f"{name} returned {part} of the shape {shape}: it must be [{n_steps}, "
                    f"{expected}], a row for each step"
                )
            if known(values) and not np.isfinite(values).all():
                raise ValueError(f"{name} returned {part} that are not finite numbers")
        if known(plan.evaluations) and not (np.asarray(plan.evaluations) > 0).all():
            raise ValueError(f"{name} returned evaluations at noise levels that are not positive")

    def _noise(
        self, sde: SDE, keys: Key[Array, " batch"], now: Levels, plan: Plan, shape: Sequence[int]
    ) -> tuple[Draw, Array]:
        """(draw, w) as of brownian.increments; the draws are zeros for a plan without noise."""
        if plan.stops is None or plan.rate == 0 or not plan.stops.size:
            none = jnp.zeros((self.evaluations, *(1,) * len(shape)))
            return lambda k, w: (none, w), none
        low, high = levels_at(sde, [sde.train_t_min, sde.t_max])
        low, high = min(low or np.inf, plan.stops.min()), max(high, now.max())
        keys = fold_in(keys, BROWNIAN)
        return increments(keys, now, plan.stops, high, low, plan.rate, shape)


def _all(score_fn: Scores) -> tuple[ScoreFn, ...]:
    """The score functions as a tuple."""
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
    """Initial states y, their noise level, and the last noise level.

    The initial level is that of `start`; without a start the first given level or sigma_max;
    without these that of the prior.

    Raises:
        ValueError: a start of the wrong shape, a last level that is 0 or above the first, or a
            level outside the range of the SDE.
    """
    check_ends(sde)
    if not isinstance(grid, str):
        sigma_max, sigma_min = grid[0], grid[-1]
    low = as_number(levels_at(sde, [sde.t_min])[0]) if sigma_min is None else sigma_min
    if start is None and sigma_max is not None:
        high = sigma_max
        y = high / sde.prior_std * sde.prior_sample(key, shape, first_index)
    else:
        x, t = starting_point(key, sde, shape, first_index, start)
        high, y = as_number(levels_at(sde, [t])[0]), x / sde.alpha(t)
    if not known(low, high, levels_at(sde, [sde.t_max])):
        return y, high, low
    if not 0 < low <= high * (1 + SLACK):
        raise ValueError(
            f"sampling starts at the noise level {high:g} and ends at {low:g}: set sigma_min to a "
            f"positive number up to {high:g}"
        )
    for level in (high, low):
        nearest = levels_at(sde, [time_of(sde, level)])[0]
        if abs(nearest / level - 1) > 100 * SLACK:
            raise ValueError(
                f"the noise level {level:g} is outside the range of {sde}, the nearest is "
                f"{nearest:g}: set sigma_max and sigma_min within the range"
            )
    return y, high, low


def warn_of_untrained(sde: SDE, levels: np.ndarray) -> None:
    """Warns, at the caller's caller, if noise levels are outside the range of training."""
    high, low = levels.max(), levels.min()
    least, most = levels_at(sde, [sde.train_t_min, sde.t_max])
    if not known(high, low, most):
        return
    if low < least * (1 - SLACK) or high > most * (1 + SLACK):
        warnings.warn(
            f"sampling visits the noise levels sigma/alpha from {high:g} to {low:g}, training "
            f"those from {most:g} to {least:g}: set sigma_max, sigma_min and churn within these",
            stacklevel=3,
        )
