"""The probability-flow ODE, solved with adaptive steps (Song et al. 2021, Section 4.3)."""

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar, get_args

import jax.numpy as jnp
from jaxtyping import Array, Key, PRNGKeyArray

from samplers.base import Samples, Start, starting_point
from sde_lib import SDE, ScoreFn, check_score_fn, solve_ode
from sde_lib.batch import fold_in, sample_keys
from sde_lib.checks import (
    check_at_least,
    check_known,
    check_name,
    check_tolerance,
    check_types,
    known,
)
from sde_lib.probes import Probe, draw, with_divergence

PROBES = 1 << 25  # folded into the key of a sample: its probes do not depend on its noise
EXACT_DIMS = 64  # the most dimensions whose trace is exact by default


@dataclasses.dataclass(frozen=True)
class ProbabilityFlow:
    """Solver of the probability flow dx/dt = f x - g^2 score / 2 from t_max, or a start, to t_min.

    Samples of one batch share their steps, so a sample depends on its batch to solver tolerance.

    With log_prob the same solve integrates the flow's divergence: log p(x_t) changes by minus the
    divergence along the path, from the prior's at t_max. The solve then ends at train_t_min, where
    likelihoods start, so that the result is the log_likelihood of the sample. An evaluation takes
    a derivative along each probe, all at once: the memory is that of n_probes + 1 evaluations of
    the score.

    jax.grad and jax.jvp give derivatives of the samples and of log_prob, but no second ones. They
    make one solve more. jax.grad keeps up to 140 states along the way, whatever the tolerance.

    Attributes:
        rtol: relative tolerance of one solver step.
        atol: absolute tolerance of one solver step; of log_prob in nats per dimension.
        denoise: return E[x_0 | x] at t_min (one more evaluation) in place of x.
        log_prob: return the log densities of the samples too.
        probe: distribution of the probes for the divergence (sde_lib.log_likelihood), or "exact";
            None: "exact" up to EXACT_DIMS dimensions, otherwise "hierarchical".
        n_probes: probes per sample.

    Raises:
        ValueError: a tolerance that is not positive, an unknown probe, n_probes < 1, or options of
            log_prob without it; log_prob with denoise.
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    denoise: bool = False
    log_prob: bool = False
    probe: Probe | None = None
    n_probes: int = 1

    noise_share: ClassVar[float | None] = 0.0

    def __post_init__(self):
        check_types(self)
        if known(self.rtol, self.atol) and not (self.rtol > 0 and self.atol > 0):
            raise ValueError(f"rtol = {self.rtol}, atol = {self.atol}: both must be positive")
        check_tolerance(rtol=self.rtol, atol=self.atol)
        check_at_least(1, n_probes=self.n_probes)
        if self.probe is not None:
            check_name("probe", self.probe, get_args(Probe))
        if not self.log_prob and (self.probe, self.n_probes) != (None, 1):
            raise ValueError(
                f"probe = {self.probe!r} and n_probes = {self.n_probes} do nothing without "
                "log_prob: set it to True, or leave them out"
            )
        if self.log_prob and self.denoise:
            raise ValueError(
                "log_prob is of the flow's samples, and denoise changes them: leave out one"
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

        Raises:
            ValueError: log_prob with an SDE whose state is more than the data, or from a start
                before t_max, whose density is not known; and the errors of PredictorCorrector.
        """
        check_score_fn(score_fn, shape)
        x, t_start = starting_point(key, sde, shape, first_index, start)
        t_end = sde.train_t_min if self.log_prob else sde.t_min
        times = jnp.linspace(t_start, t_end, n_frames + 1)[1:]
        options = self.rtol, self.atol, times

        def velocity(t, x):
            return sde.flow_drift(x, t, score_fn(x, t))

        if self.log_prob:
            self._check_density(sde, start)
            keys, dims = sample_keys(key, shape[0], first_index), math.prod(shape[1:])
            probes, exact = self._probes(keys, shape)

            def both(t, state):
                about = state[0], probes, exact, dims
                drift, rates = with_divergence(lambda x: velocity(t, x), *about)
                return drift, -jnp.mean(rates, axis=1)

            state = x, sde.prior_logp(x) / dims
            (x, each), (path, _), nfe = solve_ode(both, state, t_start, t_end, *options)
            return Samples(x, nfe, path, dims * each)
        x, path, nfe = solve_ode(velocity, x, t_start, t_end, *options)
        if self.denoise:
            t = jnp.full(shape[0], sde.t_min)
            x, nfe = sde.denoise(x, t, score_fn(x, t)), nfe + 1
        return Samples(x, nfe, path)

    def _probes(self, keys: Key[Array, " batch"], shape: Sequence[int]) -> tuple[Array, bool]:
        """The probes [n, B, ...], and whether they are the standard basis."""
        few = math.prod(shape[1:]) <= EXACT_DIMS
        probe = self.probe or ("exact" if few else "hierarchical")
        return draw(fold_in(keys, PROBES), probe, self.n_probes, shape), probe == "exact"

    def _check_density(self, sde: SDE, start: Start | None) -> None:
        """Raises ValueError unless the density of the state at the start is the prior's."""
        if not sde.is_scalar:
            raise ValueError(
                f"log_prob needs an SDE whose state is the data, and that of {type(sde).__name__} "
                "has velocities too: take another SDE, or sde_lib.log_likelihood for a bound"
            )
        check_known("log_prob needs states of the prior", **({"start.t": start.t} if start else {}))
        if start is not None and start.t != sde.t_max:
            raise ValueError(
                f"start.t is {start.t}, but log_prob needs states of the prior, at t_max = "
                f"{sde.t_max}: set log_prob=False"
            )
