"""The probability-flow ODE, solved with adaptive steps (Song et al. 2021, Section 4.3)."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from samplers.base import Samples, Start, starting_point
from sde_lib import SDE, ScoreFn, check_score_fn, solve_ode
from sde_lib.checks import check_tolerance, check_types


@dataclasses.dataclass(frozen=True)
class ProbabilityFlow:
    """Solver of the probability flow dx/dt = f x - g^2 score / 2 from t_max, or a start, to t_min.

    Samples of one batch share their steps, so a sample depends on its batch to solver tolerance.

    Attributes:
        rtol: relative tolerance of one solver step.
        atol: absolute tolerance of one solver step.
        denoise: return E[x_0 | x] at t_min (one more evaluation) in place of x.

    Raises:
        ValueError: a tolerance that is not positive.
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    denoise: bool = False

    def __post_init__(self):
        check_types(self)
        if not (self.rtol > 0 and self.atol > 0):
            raise ValueError(f"rtol = {self.rtol}, atol = {self.atol}: both must be positive")
        check_tolerance(rtol=self.rtol, atol=self.atol)

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
        x, t_start = starting_point(key, sde, shape, first_index, start)

        def velocity(t, x):
            return sde.flow_drift(x, t, score_fn(x, t))

        x, path, nfe = solve_ode(
            velocity,
            x,
            t_start,
            sde.t_min,
            self.rtol,
            self.atol,
            path_times=jnp.linspace(t_start, sde.t_min, n_frames + 1)[1:],
        )
        if self.denoise:
            t = jnp.full(shape[0], sde.t_min)
            x, nfe = sde.denoise(x, t, score_fn(x, t)), nfe + 1
        return Samples(x, nfe, path)
