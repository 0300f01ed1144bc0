"""Stochastic Runge-Kutta (ShARK of diffrax) for the reverse SDE, with fixed or adaptive steps.

The state is v = y / sqrt(1 + l^2), whose size is that of the data at every level l. With the time
s = -log l the reverse SDE is
dv = (l^2 / (1 + l^2) v - (1 + eta) l / sqrt(1 + l^2) eps) ds + sqrt(2 eta l^2 / (1 + l^2)) dw.
The solver's time is s, scaled to [0, 1] between the highest and lowest levels of the model.
"""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Self

import diffrax
import jax.numpy as jnp
import lineax
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from samplers.base import Samples, Start, check_frames
from samplers.euler import Euler
from samplers.noise_levels import Grid, Levels, levels_at
from samplers.solver import BROWNIAN, enter, model_at, warn_of_untrained
from samplers.space_time_path import SpaceTimePath
from samplers.stochastic import MOST_ETA, check_range
from sde_lib import SDE, ScoreFn, check_score_fn, derivatives, loops
from sde_lib.batch import Batch, expand, fold_in, numpy_of, sample_keys
from sde_lib.checks import check_at_least, check_known, check_tolerance, check_types, known
from sde_lib.solve import MAX_STEPS, worst_sample

Times = Float[np.ndarray, " times"]
Terms = Callable[[Any], diffrax.MultiTerm]
"""The terms of the SDE, as a function of the arrays that its drift depends on."""

LEAST_STEP = 1e-4  # relative to the whole: the Brownian path has little noise in shorter steps
SOLVER = diffrax.ShARK(scan_kind="lax")  # which has all derivatives
EVALUATIONS = 2  # per step


@dataclasses.dataclass(frozen=True)
class _RungeKutta(abc.ABC):
    """Base class of solvers by ShARK (Foster et al. 2023, arXiv 2210.17543), of strong order 1.5.

    Attributes:
        eta: amount of noise: 0 is the probability flow, 1 the reverse SDE.
        sigma_max: first noise level sigma / alpha; None for that of the prior.
        sigma_min: last noise level sigma / alpha; None for that of t_min.
        denoise: return E[x_0 | x] (one more evaluation) in place of x at sigma_min.
    """

    eta: float = dataclasses.field(default=1.0, kw_only=True)
    sigma_max: float | None = dataclasses.field(default=None, kw_only=True)
    sigma_min: float | None = dataclasses.field(default=None, kw_only=True)
    denoise: bool = dataclasses.field(default=True, kw_only=True)

    def __post_init__(self):
        check_types(self)
        check_range(MOST_ETA, eta=self.eta)
        self._ends()

    def _ends(self) -> Euler:
        return Euler(sigma_max=self.sigma_max, sigma_min=self.sigma_min)

    @property
    def noise_share(self) -> float | None:
        return self.eta

    @abc.abstractmethod
    def levels(self, sde: SDE, high: float, low: float) -> Levels:
        """Noise levels between which the solver steps, from high to low."""

    @abc.abstractmethod
    def solve(
        self, terms: Terms, hoisted: Any, v: Batch, times: Times, n_frames: int
    ) -> tuple[Batch, Float[Array, "frames *shape"], Times, int | Int[Array, ""]]:
        """Solves terms(hoisted) from times[0] to times[-1].

        Returns:
            (v, frames, times of the frames, number of steps).
        """

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
        """Draws samples of `shape` = (B, ...). The arguments are those of PredictorCorrector."""
        check_score_fn(score_fn, shape)
        check_at_least(0, n_frames=n_frames)
        ends = self._ends().grid, self.sigma_max, self.sigma_min
        y, high, low = enter(key, sde, shape, first_index, start, *ends)
        levels = self.levels(sde, high, low)
        warn_of_untrained(sde, levels)
        least, most = levels_at(sde, [sde.train_t_min, sde.t_max])
        visited = {"a noise level": (levels, least, most)}
        check_known("a Brownian path has no derivative by its times", **visited)
        most, span = max(most, levels[0]), np.log(most / min(least or np.inf, levels[-1]))
        keys = fold_in(sample_keys(key, shape[0], first_index), BROWNIAN)

        def drift(time, v):
            level = most * jnp.exp(-span * time)
            size = _size(level)
            noise = model_at(sde, score_fn, level[None]).noise(size * v)
            return span * ((level / size) ** 2 * v - (1 + self.eta) * level / size * noise)

        def std_at(time):
            level = most * jnp.exp(-span * time)
            return jnp.sqrt(2 * self.eta * span) * level / _size(level)

        times, v = np.log(most / levels) / span, y / _size(levels[0])
        drift, of_drift = derivatives.hoisted(drift, times[0], v)
        std_at, of_std = derivatives.hoisted(std_at, times[0])
        path = SpaceTimePath(keys=keys, shape=tuple(shape))

        def terms(hoisted: Any) -> diffrax.MultiTerm:
            of_drift, of_std = hoisted

            def diffusion(time, v, _):
                std = jnp.full(v.shape, std_at(time, *of_std))
                return lineax.DiagonalLinearOperator(std)

            field = diffrax.ODETerm(lambda time, v, _: drift(time, v, *of_drift))
            return diffrax.MultiTerm(field, diffrax.ControlTerm(diffusion, path))

        v, frames, seen, n_steps = self.solve(terms, (of_drift, of_std), v, times, n_frames)

        seen = most * np.exp(-span * seen)
        scale = model_at(sde, score_fn, seen).alpha * _size(seen)
        model, y = model_at(sde, score_fn, levels[-1:]), _size(levels[-1]) * v
        x = model.denoised(y) if self.denoise else model.alpha[0] * y
        return Samples(x, EVALUATIONS * n_steps + self.denoise, expand(scale, frames) * frames)


@dataclasses.dataclass(frozen=True)
class StochasticRungeKutta(_RungeKutta):
    """Stochastic Runge-Kutta sampler with n_steps steps on a fixed grid of noise levels.

    Attributes:
        n_steps: number of steps, of two evaluations each. With `denoise` the last step is to the
            model's estimate of x_0, and takes one.
        grid: grid of noise levels, as in NoiseLevelSolver. Steps of more than 2 / (1 + eta) in log
            level are unstable.
        rho: parameter of the grid; None for the default of the grid.

    Raises:
        ValueError: an unknown grid, or a number out of range.
    """

    n_steps: int = 25
    grid: Grid = "log_snr"
    rho: float | None = None

    def _ends(self) -> Euler:
        return Euler(
            self.n_steps, self.grid, self.rho, self.sigma_max, self.sigma_min, self.denoise
        )

    @property
    def n_levels(self) -> int:
        """Number of levels in the grid."""
        return self._ends().n_levels

    def own_levels(self, sde: SDE) -> Levels:
        """Noise levels at which the steps from the prior begin, and the one where the last ends."""
        return self._ends().own_levels(sde)

    def from_levels(self, levels: Levels) -> Self:
        """A copy whose steps are between these levels, the last ones of own_levels."""
        made = self._ends().from_levels(levels)
        ends: dict[str, Any] = dict.fromkeys(("rho", "sigma_max", "sigma_min"))
        return dataclasses.replace(self, n_steps=made.n_steps, grid=made.grid, **ends)

    def levels(self, sde: SDE, high: float, low: float) -> Levels:
        return self._ends().levels(sde, high, low)

    def solve(
        self, terms: Terms, hoisted: Any, v: Batch, times: Times, n_frames: int
    ) -> tuple[Batch, Float[Array, "frames *shape"], Times, int]:
        n_moves = len(times) - 1
        check_frames(n_frames, n_moves)
        at = jnp.asarray(times, float)

        def body(k, carry):
            v, frames = carry
            v, *_ = SOLVER.step(terms(hoisted), at[k], at[k + 1], v, None, None, False)
            if n_frames:
                frames = frames.at[k * n_frames // n_moves].set(v)
            return v, frames

        v, frames = loops.fori_loop(n_moves, body, (v, jnp.zeros((n_frames, *v.shape))))
        last = -(-np.arange(1, n_frames + 1) * n_moves // max(n_frames, 1))
        return v, frames, times[last], n_moves


@dataclasses.dataclass(frozen=True)
class AdaptiveSDE(_RungeKutta):
    """Stochastic Runge-Kutta sampler with adaptive step sizes.

    Samples of one batch share their steps, so a sample depends on its batch to solver tolerance.
    A solve that fails returns NaN. Derivatives (jax.grad, jax.jvp) are those at the steps that were
    taken, by one solve more; there are no second ones.

    Attributes:
        rtol: relative tolerance of one step.
        atol: absolute tolerance of one step, in units of x / sqrt(alpha^2 + sigma^2).

    Raises:
        ValueError: a number out of range.
    """

    rtol: float = 0.05
    atol: float = 0.05

    def __post_init__(self):
        super().__post_init__()
        if known(self.rtol, self.atol) and not (0 < self.rtol < 1 and 0 < self.atol < 1):
            raise ValueError(f"rtol = {self.rtol}, atol = {self.atol}: both must be in (0, 1)")
        check_tolerance(rtol=self.rtol, atol=self.atol)

    def levels(self, sde: SDE, high: float, low: float) -> Levels:
        return numpy_of(high, low).stack([high, low])

    def solve(
        self, terms: Terms, hoisted: Any, v: Batch, times: Times, n_frames: int
    ) -> tuple[Batch, Float[Array, "frames *shape"], Times, Int[Array, ""]]:
        first, last = times
        recorded = np.linspace(first, last, n_frames + 1)[1:]

        def solve(diffeqsolve, v, hoisted, rtol, atol):
            solution = diffeqsolve(
                terms(hoisted),
                SOLVER,
                first,
                last,
                dt0=0.01 * (last - first),  # an initial guess only
                y0=v,
                saveat=diffrax.SaveAt(ts=jnp.append(jnp.asarray(recorded), last)),
                stepsize_controller=diffrax.PIDController(
                    rtol,
                    atol,
                    pcoeff=0.1,  # for SDEs: Burrage et al. 2004
                    icoeff=0.3,
                    norm=worst_sample,
                    dtmin=LEAST_STEP * (last - first),
                    force_dtmin=False,
                ),
                max_steps=MAX_STEPS,
                throw=False,  # raising from compiled code needs a host callback
            )
            failed = solution.result != diffrax.RESULTS.successful
            v = jnp.where(failed, jnp.nan, jnp.asarray(solution.ys))
            return v[-1], v[:-1], solution.stats["num_steps"]

        about = v, hoisted, self.rtol, self.atol
        v, frames, n_steps = derivatives.of_diffrax(solve, *about)
        return v, frames, recorded, n_steps


def _size(level: Array | Levels | float) -> Array:
    """The scale sqrt(1 + l^2) of y / v."""
    return jnp.sqrt(1 + jnp.square(jnp.asarray(level, float)))
