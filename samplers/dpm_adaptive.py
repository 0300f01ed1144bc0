"""DPM-Solver with adaptive step sizes (Lu et al. 2022, arXiv 2206.00927, Appendix C)."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from samplers import evaluations
from samplers.base import Samples, Start
from samplers.dpm_solver import STAGES, stage_weights
from samplers.evaluations import Steps
from samplers.lms import check_order, combine
from samplers.solver import Model, enter, model_at, warn_of_untrained
from sde_lib import SDE, ScoreFn, check_score_fn, derivatives, loops
from sde_lib.batch import Batch, expand, numpy_of
from sde_lib.checks import (
    check_at_least,
    check_in,
    check_name,
    check_tolerance,
    check_types,
    known,
    precision,
)

TOLERANCES = {"safe": (3e-4, 1e-4), "k_diffusion": (0.05, 0.0078)}
"""(relative, absolute) tolerances of a step."""
MAX_TRIES = 10_000
LEAST_STEP = 1e-5  # relative to the whole interval; a model that is not finite gets here at once


class _State(NamedTuple):
    """Solution y at half the log-SNR s, that of the lower order, and frames of y, [F, B, ...]."""

    y: Batch
    lower: Batch
    s: Array
    frames: Array


class _Control(NamedTuple):
    """Size h of the next step, 1 / error of the last two accepted steps, number of tries so far."""

    h: Array
    gains: Float[Array, "2"]
    tries: Array


@dataclasses.dataclass(frozen=True)
class DPMAdaptive:
    """DPM-Solver-12 or -23 with adaptive steps (Lu et al. 2022, arXiv 2206.00927, Appendix C).

    The error of a step is the difference of the two orders, relative to max(atol, rtol |y|). The
    error of a batch is the largest root mean square of one sample. All samples share their steps,
    so a sample depends on its batch, to tolerance. The PID controller of the step size (Soederlind
    2003) and its defaults are those of k-diffusion. A solve that fails (a model that is not finite,
    more than MAX_TRIES steps) ends early and returns NaN. Derivatives (jax.grad, jax.jvp) are those
    at the steps that were taken, by one solve more; there are no second ones.

    With the default tolerances, Gaussian data of standard deviation 0.05 or 0.5 get samples whose
    standard deviation is right to 4% under VP, VE, EDM, Cosine and LinearFlow. k-diffusion's
    tolerances are for starts at about sigma = 15: from the prior, it is 10% to 190% too large.

    Attributes:
        order: 3 for DPM-Solver-23, 2 for DPM-Solver-12.
        rtol: relative tolerance of a step; None: that of the variant.
        atol: absolute tolerance of a step, in units of y = x / alpha; None: likewise.
        h_init: size of the first step, in half the log-SNR.
        pcoeff: proportional coefficient of the controller.
        icoeff: integral coefficient of the controller.
        dcoeff: derivative coefficient of the controller.
        accept_safety: a step is accepted if the factor for the next step size is at least this.
        sigma_max: first noise level sigma / alpha; None for that of the prior.
        sigma_min: last noise level sigma / alpha; None for that of t_min.
        denoise: return E[x_0 | x] (one more evaluation) in place of x at sigma_min.
        norm: "sample" for the error above; "batch" for k-diffusion's, the root mean square over
            the whole batch.
        variant: "safe" or "k_diffusion", a name in TOLERANCES.

    Raises:
        ValueError: an unknown order, norm or variant, or a number out of range.
    """

    order: int = 3
    rtol: float | None = None
    atol: float | None = None
    h_init: float = 0.05
    pcoeff: float = 0.0
    icoeff: float = 1.0
    dcoeff: float = 0.0
    accept_safety: float = 0.81
    sigma_max: float | None = None
    sigma_min: float | None = None
    denoise: bool = False
    norm: Literal["sample", "batch"] = "sample"
    variant: str = "safe"

    noise_share: ClassVar[float | None] = 0.0

    def __post_init__(self):
        check_types(self)
        check_order(self.order, (2, 3))
        check_name("norm", self.norm, ("sample", "batch"))
        check_name("variant", self.variant, TOLERANCES)
        rtol, atol = self.tolerances
        check_tolerance(rtol=rtol, atol=atol)
        if self.variant != "safe" and None not in (self.rtol, self.atol):
            raise ValueError(
                f"variant is {self.variant!r}, but rtol = {rtol} and atol = {atol} are given: "
                "leave out one or the other"
            )
        check_in("(0, inf)", h_init=self.h_init)
        check_in("(0, inf)", True, sigma_max=self.sigma_max, sigma_min=self.sigma_min)
        check_in("(0, inf)", accept_safety=self.accept_safety)
        if not known(self.pcoeff, self.icoeff, self.dcoeff, self.accept_safety):
            return
        if not (min(self.pcoeff, self.icoeff, self.dcoeff) >= 0 and self.accept_safety < 1):
            raise ValueError(
                f"pcoeff = {self.pcoeff}, icoeff = {self.icoeff}, dcoeff = {self.dcoeff}, "
                f"accept_safety = {self.accept_safety}: none may be negative, and accept_safety "
                "must be below 1"
            )

    @property
    def tolerances(self) -> tuple[float, float]:
        """The relative and the absolute tolerance of a step."""
        rtol, atol = TOLERANCES[self.variant]
        return (
            rtol if self.rtol is None else self.rtol,
            atol if self.atol is None else self.atol,
        )

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
        """Draws samples of `shape` = (B, ...). The arguments are those of PredictorCorrector.

        Frames are at even intervals of the log-SNR, by interpolation. Warns if a noise level is
        outside the range of training.

        Raises:
            ValueError: a score_fn or start of the wrong shape, or sigma_min above the start.
        """
        check_score_fn(score_fn, shape)
        check_at_least(0, n_frames=n_frames)
        grid = "log_snr", self.sigma_max, self.sigma_min
        y, high, low = enter(key, sde, shape, first_index, start, *grid)
        xp = numpy_of(high, low)
        warn_of_untrained(sde, xp.stack([high, low]))
        first, end = (xp.asarray(-xp.log(level), precision().dtype) for level in (high, low))
        marks = xp.linspace(first, end, n_frames + 1)[1:]
        ends = jax.lax.stop_gradient((first, end))

        def unfinished(carry):
            state, control = carry
            moving = control.h > LEAST_STEP * (ends[1] - ends[0])  # False for NaN
            return (state.s < ends[1]) & moving & (control.tries < MAX_TRIES)

        def share(carry):
            return (carry[0].s - ends[0]) / (ends[1] - ends[0])

        def attempt(carry):
            state, control = carry
            y, last = state.y, control.h >= end - state.s
            h = jnp.where(last, end - state.s, control.h)
            levels = jnp.exp(-state.s - h * np.array(STAGES[self.order]))

            def step(_, ends, score_fns):
                return self._step(model_at(sde, score_fns, levels), ends[0], h)

            lower, higher = evaluations.run(score_fn, (y, y), [Steps(step, 1, self.order)])
            s = jnp.where(last, end, state.s + h)
            way = expand(jnp.expm1(state.s - marks) / jnp.expm1(-h), state.frames)
            passed = expand((state.s < marks) & (marks <= s), state.frames)
            frames = jnp.where(passed, y + way * (higher - y), state.frames)
            steps = jax.lax.stop_gradient((lower, higher, state, control._replace(h=h)))
            accepted, control = self._control(*steps)
            after = _State(higher, lower, s, frames)
            return jax.tree.map(lambda a, b: jnp.where(accepted, a, b), after, state), control

        state = _State(y, y, jnp.asarray(first), jnp.zeros((n_frames, *shape)))
        control = _Control(jnp.asarray(self.h_init, float), jnp.ones(2), jnp.int32(0))
        attempt, hoisted = derivatives.hoisted(attempt, (state, control))

        def solve(backward, carry, hoisted):
            each = lambda carry: attempt(carry, *hoisted)  # noqa: E731
            if backward:
                return derivatives.while_loop(unfinished, each, carry, MAX_TRIES)
            return loops.while_loop(unfinished, each, carry, share)

        state, control = derivatives.of_loop(solve, (state, control), hoisted)

        failure = jnp.where(state.s < end, jnp.nan, 1.0)
        alphas = model_at(sde, score_fn, xp.exp(-marks)).alpha
        frames = failure * expand(alphas, state.frames) * state.frames
        model, y = model_at(sde, score_fn, xp.stack([low])), failure * state.y
        x = model.denoised(y) if self.denoise else model.alpha[0] * y
        return Samples(x, self.order * control.tries + self.denoise, frames)

    def _step(self, model: Model, y: Batch, h: Array) -> tuple[Batch, Batch]:
        """Results of one step of size h from y: (lower order, higher order), with shared stages."""
        rows = stage_weights(model.level[0], h, self.order, jnp.expm1)
        noises, stage = [], y
        for i, row in enumerate(rows):
            noises.append(model.noise(stage, i))
            stage = y + combine(row, noises)
        slope = noises[0]
        if self.order == 3:
            slope += (noises[1] - noises[0]) / (2 * STAGES[3][1])
        return y + model.level[0] * jnp.expm1(-h) * slope, stage

    def _control(
        self, lower: Batch, higher: Batch, state: _State, control: _Control
    ) -> tuple[Array, _Control]:
        """Accepts or rejects a step: (accepted, control of the next step)."""
        size = jnp.maximum(jnp.abs(lower), jnp.abs(state.lower))
        rtol, atol = self.tolerances
        errors = (lower - higher) / jnp.maximum(atol, rtol * size)
        squares = jnp.mean(errors**2, axis=tuple(range(1, errors.ndim)))
        error = jnp.sqrt(jnp.max(squares) if self.norm == "sample" else jnp.mean(squares))
        gain = 1 / (error + 1e-8)
        p, i, d = (k / self.order for k in (self.pcoeff, self.icoeff, self.dcoeff))
        last, before = control.gains
        factor = gain ** (p + i + d) * last ** -(p + 2 * d) * before**d
        factor = 1 + jnp.arctan(factor - 1)  # limits it to between 0.2 and 2.6
        accepted = factor >= self.accept_safety
        gains = jnp.where(accepted, jnp.stack([gain, last]), control.gains)
        return accepted, _Control(control.h * factor, gains, control.tries + 1)
