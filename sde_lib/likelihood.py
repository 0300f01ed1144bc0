"""Exact log-likelihoods by the probability-flow ODE (Song et al. 2021, Section 4.3)."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from sde_lib.batch import Batch, PerSample, expand, sample_keys
from sde_lib.probes import Probe, draw
from sde_lib.sde import SDE, ScoreFn, Time, check_score_fn
from sde_lib.solve import solve_ode

DATA_STD = 0.25  # typical of images in [-1, 1]: it decides on the steps, not on the density
FIRST_STEP, PROPORTIONAL = 0.05, 0.2  # measured on Gaussian images and on networks of digits


class LogLikelihood(NamedTuple):
    """log_prob [B] in nats; latent [B, ...], the point that x0 flows to; nfe, field evaluations."""

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
) -> LogLikelihood:
    """Log density of x0 under the model, by integrating its flow and that flow's divergence.

    The divergence is Hutchinson's estimate with the same probes along the whole path (unbiased;
    FFJORD, Grathwohl et al. 2019), or exact, at the cost of one derivative a dimension.
    The ODE runs from sde.train_t_min to sde.t_max. Sample i's probes depend on key and
    first_index + i alone.

    What is solved is y = x / sqrt(alpha^2 s^2 + sigma^2), s being about the sample's root mean
    square: Gaussian data of that scale would rest, and of log|dx_T / dx_0| only what it has more
    than theirs is left to integrate, in nats per dimension. The solver's time is
    1 - (1 + sigma / (alpha DATA_STD))^(-1/2): it gives levels of noise near the data's the most
    room, goes as sigma before and slowly after, and does not depend on the SDE's pace.

    Where a state is more than data (x_0 and velocities v_0 of density q, under CLD), what is solved
    is its own flow, in t, and log_prob is log p(x_0, v_0) - log q(v_0) for a draw v_0 of each
    sample: in the mean a lower bound of log p(x_0) (Dockhorn et al. 2022), and equal to it if the
    model keeps v_0 independent of x_0.

    Args:
        key: randomness of the probes, unused when probe = "exact", and of velocities.
        sde: the forward SDE.
        score_fn: the score of its marginals.
        x0: [B, ...] data.
        rtol: relative tolerance of one solver step, in y and in nats per dimension.
        atol: absolute tolerance of one solver step, likewise.
        probe: distribution of the probes, or "exact" for the exact trace.
        n_probes: probes a sample; the network runs once for all, its derivative for each.
        first_index: index of x0's first sample in its data set.

    Raises:
        ValueError: an unknown probe, n_probes < 1, or a score_fn that changes the shape.
    """
    x, log_added = sde.initial_state(key, x0, first_index)
    check_score_fn(score_fn, x.shape)
    probes = sde.noisy(draw(sample_keys(key, len(x0), first_index), probe, n_probes, x.shape))
    velocity_at, (first, last), (start, end) = _way(sde, score_fn, x)
    axes = tuple(range(1, x.ndim))

    def field(place, state):
        velocity = velocity_at(place)

        def directional(v):
            drift, tangent = jax.jvp(velocity, (state[0],), (v,))
            return drift, jnp.mean(v * tangent, axis=axes)

        drift, projections = jax.vmap(directional, out_axes=(None, 0))(probes)
        combine = jnp.sum if probe == "exact" else jnp.mean
        return drift, combine(projections, axis=0)

    y0 = (x / expand(start, x), jnp.zeros(len(x)))
    (y, excess), _, nfe = solve_ode(
        field, y0, first, last, rtol, atol, None, FIRST_STEP, PROPORTIONAL
    )
    latent, dims = expand(end, y) * y, math.prod(x.shape[1:])
    log_det = dims * (jnp.log(end / start) + excess)
    return LogLikelihood(sde.prior_logp(latent) + log_det - log_added, latent, nfe)


def _way(sde: SDE, score_fn: ScoreFn, x: Batch) -> tuple[Callable, tuple, tuple]:
    """velocity_at(place)(y), dy / dplace of y = x / std; the first and last place and std."""
    if not sde.is_scalar:
        one = jnp.ones(len(x))
        times = sde.train_t_min, sde.t_max
        return lambda t: lambda y: sde.flow_drift(y, t, score_fn(y, t)), times, (one, one)
    scale = _scale(x)

    def velocity_at(place):
        t = _time(sde, place)
        std, rate = expand(_std(sde, t, scale), x), expand(_rate(sde, t), x)
        return lambda y: -rate / std * (score_fn(std * y, t) + y / std)

    stds = _std(sde, sde.train_t_min, scale), _std(sde, sde.t_max, scale)
    return velocity_at, _ends(sde), stds


def _scale(x0: Batch) -> PerSample:
    """Root mean square of a sample's values and DATA_STD, which keeps it from 0."""
    squares = jnp.sum(x0**2, axis=tuple(range(1, x0.ndim)))
    return jnp.sqrt((squares + DATA_STD**2) / (math.prod(x0.shape[1:]) + 1))


def _std(sde: SDE, t: Time, scale: PerSample) -> PerSample:
    """Standard deviation of x_t, for x_0 of that scale."""
    return jnp.hypot(sde.alpha(t) * scale, sde.sigma(t))


def _ends(sde: SDE) -> tuple[float, float]:
    """The places of train_t_min and t_max."""
    with jax.ensure_compile_time_eval():
        levels = (float(sde.noise_level(t)) for t in (sde.train_t_min, sde.t_max))
        low, high = (-math.expm1(-0.5 * math.log1p(level / DATA_STD)) for level in levels)
    return low, high


def _time(sde: SDE, place: PerSample) -> PerSample:
    t = sde.inverse_noise_level(DATA_STD * place * (2 - place) / (1 - place) ** 2)
    return jnp.clip(t, sde.train_t_min, sde.t_max)


def _rate(sde: SDE, t: PerSample) -> PerSample:
    """g^2 / 2 dt / dplace."""
    rise = (1 + sde.noise_level(t) / DATA_STD) ** 1.5
    return 2 * DATA_STD * sde.alpha(t) * sde.sigma(t) * rise


def bits_per_dim(
    log_prob: PerSample,
    shape: Sequence[int],
    data_range: tuple[float, float] = (-1.0, 1.0),
    levels: int | None = 256,
) -> PerSample:
    """Negative log-likelihood in bits per dimension.

    Grey level k of `levels`, dequantised to (k + u) / levels with u uniform on [0, 1) and scaled
    to `data_range`, fills an interval of width (high - low) / levels: the density times that
    width is the probability of the grey level (Theis et al. 2016, Section 3.1).

    Args:
        log_prob: [B] log density of the scaled data, in nats.
        shape: of one sample, without the batch.
        data_range: values that grey levels 0 and `levels` are scaled to.
        levels: number of grey levels; None for continuous data (then bits of a density).

    Raises:
        ValueError: an empty data_range, or levels < 1.
    """
    low, high = data_range
    if not low < high:
        raise ValueError(f"data_range is {data_range}: it must be (low, high) with low < high")
    if levels is not None and levels < 1:
        raise ValueError(f"levels is {levels}: it must be at least 1")
    log_width = math.log((high - low) / levels) if levels else 0.0
    return -(log_prob / math.prod(shape) + log_width) / math.log(2)
