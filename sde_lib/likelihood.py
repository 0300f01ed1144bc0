"""Exact log-likelihood by the probability-flow ODE (Song et al. 2021, Section 4.3).

log p_0(x_0) = log p_T(x_T) + the integral of the flow's divergence along the path from x_0 to x_T.

The solver integrates y = x / sqrt(alpha^2 s^2 + sigma^2), where s is about the root mean square of
the sample, so y is constant for Gaussian data of that scale. The log determinant is integrated as
its difference from this Gaussian's, in nats per dimension. The solver's time is
tau = 1 - (1 + sigma / (alpha DATA_STD))^(-1/2). It spends most steps at noise levels near the
data's scale and does not depend on how the SDE's noise level grows with t.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from sde_lib.batch import Batch, PerSample, expand, sample_keys
from sde_lib.missing import check_mask, count_observed, observed_score
from sde_lib.probes import Probe, draw
from sde_lib.sde import SDE, ScoreFn, Time, check_ends, check_score_fn, log_normal
from sde_lib.solve import solve_ode

DATA_STD = 0.25  # typical of images in [-1, 1]; it affects the solver's steps, not the density
FIRST_STEP, PROPORTIONAL = 0.05, 0.2  # tuned on Gaussian images and on networks trained on digits


class LogLikelihood(NamedTuple):
    """Result of log_likelihood.

    Attributes:
        log_prob: [B] log density, in nats.
        latent: [B, ...] end of the flow at sde.t_max.
        nfe: number of evaluations of the score, the same for the whole batch.
    """

    log_prob: PerSample
    latent: Batch
    nfe: Int[Array, ""]


def log_likelihood(
    key: PRNGKeyArray,
    sde: SDE,
    score_fn: ScoreFn,
    x0: Batch,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    probe: Probe = "rademacher",
    n_probes: int = 1,
    first_index: int | Array = 0,
    mask: Batch | None = None,
) -> LogLikelihood:
    """Log density of x0 under the model, from the probability flow and its divergence.

    The divergence is Hutchinson's estimate with the same probes along the path (unbiased; FFJORD,
    Grathwohl et al. 2019), or the exact trace by a derivative per dimension. t >= sde.train_t_min.

    Under CLD the state is x_0 with velocities v_0 drawn from q, and the solver integrates the
    state in t. log_prob is log p(x_0, v_0) - log q(v_0) for one draw of v_0: its mean is a lower
    bound of log p(x_0) (Dockhorn et al. 2022), tight if v_0 and x_0 are independent in the model.

    With a mask it is the density of each sample's observed coordinates: flow, probes and prior are
    theirs alone, and score_fn must give the score of their marginal (sde_lib.missing).

    Args:
        key: randomness of the probes (unused when probe = "exact") and of the velocities; sample
            i's depends on key and first_index + i alone.
        sde: the forward SDE.
        score_fn: the model's score.
        x0: [B, ...] data.
        rtol: relative tolerance of a solver step, in y and nats per dimension; atol: absolute.
        probe: distribution of the probes, or "exact" for the exact trace.
        n_probes: probes per sample, each of which costs a derivative in every evaluation.
        first_index: index of x0's first sample in its data set.
        mask: 1 for each value of x0 that is observed, 0 for each that is missing; None: all are
            observed. Missing values count as 0.

    Raises:
        ValueError: an unknown probe, n_probes < 1, tolerances out of float32's reach, a score_fn
            that changes the shape, an SDE with alpha(t_max) = 0, or a mask that does not go with x0
            or the SDE.
    """
    check_ends(sde)
    if mask is not None:
        check_mask(sde, mask, x0)
        x0, score_fn = mask * x0, observed_score(score_fn, mask)
    x, log_added = sde.initial_state(key, x0, first_index)
    check_score_fn(score_fn, x.shape)
    probes = sde.noisy(draw(sample_keys(key, len(x0), first_index), probe, n_probes, x.shape))
    dims: PerSample | int = math.prod(x.shape[1:])
    if mask is not None:
        probes, dims = mask * probes, count_observed(mask)
    velocity_at, (first, last), (start, end) = _scaled_flow(sde, score_fn, x, dims)
    axes = tuple(range(1, x.ndim))

    def field(tau, state):
        velocity = velocity_at(tau)

        def directional(v):
            drift, tangent = jax.jvp(velocity, (state[0],), (v,))
            return drift, jnp.sum(v * tangent, axis=axes) / dims

        drift, projections = jax.vmap(directional, out_axes=(None, 0))(probes)
        combine = jnp.sum if probe == "exact" else jnp.mean
        return drift, combine(projections, axis=0)

    y0 = (x / expand(start, x), jnp.zeros(len(x)))
    (y, excess), _, nfe = solve_ode(
        field, y0, first, last, rtol, atol, None, FIRST_STEP, PROPORTIONAL
    )
    latent, log_det = expand(end, y) * y, dims * (jnp.log(end / start) + excess)
    prior = sde.prior_logp(latent) if mask is None else log_normal(latent, sde.prior_std, dims)
    return LogLikelihood(prior + log_det - log_added, latent, nfe)


def _scaled_flow(
    sde: SDE, score_fn: ScoreFn, x: Batch, dims: PerSample | int
) -> tuple[Callable, tuple, tuple]:
    """velocity_at(tau)(y) = dy / dtau of y = x / std, with tau and std [B] at both ends."""
    if not sde.is_scalar:
        one = jnp.ones(len(x))
        times = sde.train_t_min, sde.t_max
        return lambda t: lambda y: sde.flow_drift(y, t, score_fn(y, t)), times, (one, one)
    scale = _scale(x, dims)

    def velocity_at(tau):
        t = _time(sde, tau)
        std, rate = expand(_std(sde, t, scale), x), expand(_rate(sde, t), x)
        return lambda y: -rate / std * (score_fn(std * y, t) + y / std)

    stds = _std(sde, sde.train_t_min, scale), _std(sde, sde.t_max, scale)
    return velocity_at, _tau_ends(sde), stds


def _scale(x0: Batch, dims: PerSample | int) -> PerSample:
    """Root mean square of each sample's dims values and DATA_STD, which is included to avoid 0."""
    squares = jnp.sum(x0**2, axis=tuple(range(1, x0.ndim)))
    return jnp.sqrt((squares + DATA_STD**2) / (dims + 1))


def _std(sde: SDE, t: Time, scale: PerSample) -> PerSample:
    """Standard deviation of x_t for x_0 of standard deviation `scale`."""
    return jnp.hypot(sde.alpha(t) * scale, sde.sigma(t))


def _tau_ends(sde: SDE) -> tuple[float, float]:
    """The solver's times tau of train_t_min and t_max."""
    with jax.ensure_compile_time_eval():
        levels = (float(sde.noise_level(t)) for t in (sde.train_t_min, sde.t_max))
        low, high = (-math.expm1(-0.5 * math.log1p(level / DATA_STD)) for level in levels)
    return low, high


def _time(sde: SDE, tau: PerSample) -> PerSample:
    """The SDE's time t at the solver's time tau."""
    t = sde.inverse_noise_level(DATA_STD * tau * (2 - tau) / (1 - tau) ** 2)
    return jnp.clip(t, sde.train_t_min, sde.t_max)


def _rate(sde: SDE, t: PerSample) -> PerSample:
    """The rate g^2 / 2 dt / dtau."""
    rise = (1 + sde.noise_level(t) / DATA_STD) ** 1.5
    return 2 * DATA_STD * sde.alpha(t) * sde.sigma(t) * rise


def bits_per_dim(
    log_prob: PerSample,
    shape: Sequence[int],
    data_range: tuple[float, float] = (-1.0, 1.0),
    levels: int | None = 256,
    dims: PerSample | None = None,
) -> PerSample:
    """Negative log-likelihood in bits per dimension (bits/dim).

    Grey level k, dequantised to (k + u) / levels with u uniform on [0, 1) and scaled to
    `data_range`, fills an interval of width (high - low) / levels. The density times that width
    is the probability of the grey level (Theis et al. 2016, Section 3.1).

    Args:
        log_prob: [B] log density of the scaled data, in nats.
        shape: shape of one sample, without the batch axis.
        data_range: values to which grey levels 0 and `levels` are scaled.
        levels: number of grey levels; None for continuous data, whose bits/dim are of a density.
        dims: [B] number of observed values of each sample, if some are missing; None: all of them.

    Raises:
        ValueError: an empty data_range, or levels < 1.
    """
    low, high = data_range
    if not low < high:
        raise ValueError(f"data_range is {data_range}: it must be (low, high) with low < high")
    if levels is not None and levels < 1:
        raise ValueError(f"levels is {levels}: it must be at least 1")
    log_width = math.log((high - low) / levels) if levels else 0.0
    return -(log_prob / (math.prod(shape) if dims is None else dims) + log_width) / math.log(2)
