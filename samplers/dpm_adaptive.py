"""DPM-Solver with steps that its error decides on."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from samplers.base import Samples, Start
from samplers.dpm_solver import STAGES, stage_weights
from samplers.lms import check_order, combine
from samplers.solver import Model, enter, model_at, warn_of_untrained
from sde_lib import SDE, ScoreFn, check_score_fn
from sde_lib.batch import Batch, expand
from sde_lib.checks import check_at_least, check_name

MAX_TRIES = 10_000
LEAST_STEP = 1e-5  # of the whole: a model that is not finite gets here at once


class _State(NamedTuple):
    """y at half the log-SNR s; `lower`, the lower order's; frames, y's, [F, B, ...]."""

    y: Batch
    lower: Batch
    s: Array
    frames: Array


class _Control(NamedTuple):
    """The next step's length; 1 / error of the last two steps; tries, accepted or not."""

    h: Array
    gains: Float[Array, "2"]
    tries: Array


@dataclasses.dataclass(frozen=True)
class DPMAdaptive:
    """DPM-Solver-12 or -23 with adaptive steps (Lu et al. 2022, arXiv 2206.00927, Appendix C).

    An error is the difference of the two orders, relative to max(atol, rtol |y|); the batch's is
    the largest over samples of a sample's root mean square, so that no sample hides behind the
    others. A sample depends on its batch to tolerance. The PID controller of step lengths
    (Soederlind 2003) and the numbers are those of k-diffusion. A solve that fails (a model that is
    not finite, more than MAX_TRIES steps) ends early with NaN.

    The default tolerances are k-diffusion's, for starts at about sigma = 15. From VP's 150 they are
    too loose (a standard deviation of 0.5 becomes 0.7): take rtol = atol = 0.001.

    Attributes:
        order: 3 for DPM-Solver-23, 2 for DPM-Solver-12.
        rtol: relative tolerance of a step.
        atol: absolute tolerance of a step, of y = x / alpha.
        h_init: the first step, in half the log-SNR.
        pcoeff: the controller's P.
        icoeff: its I.
        dcoeff: its D.
        accept_safety: a step is accepted where the controller lengthens it at least by this.
        sigma_max: sigma / alpha to start from; None for the prior's.
        sigma_min: sigma / alpha to end at; None for that of t_min.
        denoise: end with x_0, for one evaluation more; otherwise x at sigma_min.
        norm: "sample", or "batch" for k-diffusion's error, the root mean square of all.

    Raises:
        ValueError: another order or norm, or a number that is not positive.
    """

    order: int = 3
    rtol: float = 0.05
    atol: float = 0.0078
    h_init: float = 0.05
    pcoeff: float = 0.0
    icoeff: float = 1.0
    dcoeff: float = 0.0
    accept_safety: float = 0.81
    sigma_max: float | None = None
    sigma_min: float | None = None
    denoise: bool = False
    norm: Literal["sample", "batch"] = "sample"

    def __post_init__(self):
        check_order(self.order, (2, 3))
        check_name("norm", self.norm, ("sample", "batch"))
        for name in ("rtol", "atol", "h_init", "accept_safety", "sigma_max", "sigma_min"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}: it must be positive")
        if not (min(self.pcoeff, self.icoeff, self.dcoeff) >= 0 and self.accept_safety < 1):
            raise ValueError(
                f"pcoeff = {self.pcoeff}, icoeff = {self.icoeff}, dcoeff = {self.dcoeff}, "
                f"accept_safety = {self.accept_safety}: none may be negative, nor the last above 1"
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
        """Draws samples of `shape` = (B, ...); arguments as for PredictorCorrector.

        Frames are even in the log-SNR, and interpolated. Warns of noise levels beyond those of
        training.

        Raises:
            ValueError: a score_fn or start of another shape; a sigma_min above the start.
        """
        check_score_fn(score_fn, shape)
        check_at_least(0, n_frames=n_frames)
        ends = "log_snr", self.sigma_max, self.sigma_min
        y, high, low = enter(key, sde, shape, first_index, start, *ends)
        warn_of_untrained(sde, np.array([high, low]))
        first, end = np.float32(-np.log(high)), np.float32(-np.log(low))
        marks = np.linspace(first, end, n_frames + 1)[1:]

        def unfinished(carry):
            state, control = carry
            moving = control.h > LEAST_STEP * (end - first)  # False for NaN
            return (state.s < end) & moving & (control.tries < MAX_TRIES)

        def attempt(carry):
            state, control = carry
            y, last = state.y, control.h >= end - state.s
            h = jnp.where(last, end - state.s, control.h)
            model = model_at(sde, score_fn, jnp.exp(-state.s - h * np.array(STAGES[self.order])))
            lower, higher = self._step(model, y, h)
            s = jnp.where(last, end, state.s + h)
            way = expand(jnp.expm1(state.s - marks) / jnp.expm1(-h), state.frames)
            passed = expand((state.s < marks) & (marks <= s), state.frames)
            frames = jnp.where(passed, y + way * (higher - y), state.frames)
            accepted, control = self._control(lower, higher, state, control._replace(h=h))
            after = _State(higher, lower, s, frames)
            return jax.tree.map(lambda a, b: jnp.where(accepted, a, b), after, state), control

        state = _State(y, y, jnp.asarray(first), jnp.zeros((n_frames, *shape)))
        control = _Control(jnp.float32(self.h_init), jnp.ones(2), jnp.int32(0))
        state, control = jax.lax.while_loop(unfinished, attempt, (state, control))

        failure = jnp.where(state.s < end, jnp.nan, 1.0)
        alphas = model_at(sde, score_fn, np.exp(-marks)).alpha
        frames = failure * expand(alphas, state.frames) * state.frames
        model, y = model_at(sde, score_fn, np.array([low])), failure * state.y
        x = model.denoised(y) if self.denoise else model.alpha[0] * y
        return Samples(x, self.order * control.tries + self.denoise, frames)

    def _step(self, model: Model, y: Batch, h: Array) -> tuple[Batch, Batch]:
        """y after a step by DPM-Solver-1 or -2, whose r_1 is the other's, and the order above."""
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
        """Whether a step is accepted, and the control of the next."""
        size = jnp.maximum(jnp.abs(lower), jnp.abs(state.lower))
        errors = (lower - higher) / jnp.maximum(self.atol, self.rtol * size)
        squares = jnp.mean(errors**2, axis=tuple(range(1, errors.ndim)))
        error = jnp.sqrt(jnp.max(squares) if self.norm == "sample" else jnp.mean(squares))
        gain = 1 / (error + 1e-8)
        p, i, d = (k / self.order for k in (self.pcoeff, self.icoeff, self.dcoeff))
        last, before = control.gains
        factor = gain ** (p + i + d) * last ** -(p + 2 * d) * before**d
        factor = 1 + jnp.arctan(factor - 1)  # within 0.2 and 2.6
        accepted = factor >= self.accept_safety
        gains = jnp.where(accepted, jnp.stack([gain, last]), control.gains)
        return accepted, _Control(control.h * factor, gains, control.tries + 1)
