"""Exact log-likelihood by the probability-flow ODE (Song et al. 2021, Section 4.3).

log p_0(x_0) = log p_T(x_T) + the integral of the flow's divergence along the path from x_0 to x_T.

The solver integrates y = x / sqrt(alpha^2 s^2 + sigma^2), where s is about the root mean square of
the sample, so y is constant for Gaussian data of that scale. The log determinant is integrated as
its difference from this Gaussian's, in nats per dimension. The solver's time depends on the noise
level alone, u = sigma / (alpha DATA_STD), and spends most steps where u is near 1:

| given | solver | time |
| --- | --- | --- |
| accuracy | Adams' on an even grid, made finer until the densities are accurate | arctan(sqrt(u)) |
| rtol, atol | Tsitouras 5(4), adaptive | 1 - (1 + u)^(-1/2) |

The first measures the error of what is asked for, in which the errors of single steps cancel. The
second keeps the error of every step small, which a network that is rough in time makes expensive.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from sde_lib import derivatives, loops
from sde_lib.batch import Batch, PerSample, as_float, as_number, expand, math_of, sample_keys
from sde_lib.checks import check_in, check_known, check_tolerance, precision
from sde_lib.missing import check_mask, count_observed, observed_score
from sde_lib.multistep import MOST_STEPS, even_steps, solve_even
from sde_lib.probes import Probe, draw, with_divergence
from sde_lib.sde import SDE, ScoreFn, Time, check_ends, check_score_fn, log_normal
from sde_lib.solve import solve_ode

DATA_STD = 0.25  # typical of images in [-1, 1]; it affects the solver's steps, not the density
FIRST_STEP, PROPORTIONAL = 0.05, 0.2  # tuned on Gaussian images and on networks trained on digits
TOLERANCE = 1e-5  # of rtol and atol, unless they or an accuracy are given
LEAST_ACCURACY = {"float32": 1e-5, "float64": 1e-8}  # bits/dim
WORST = 10  # times the accuracy, allowed as the error of a single sample
N_STEPS = 48  # the first grid for 0.001 bits/dim; the finest one has MOST_STEPS
GROWTH = 1.5, 3.0  # of the number of steps, from one grid to the next


class LogLikelihood(NamedTuple):
    """Result of log_likelihood.

    Attributes:
        log_prob: [B] log density, in nats.
        latent: [B, ...] end of the flow at sde.t_max.
        nfe: number of evaluations of the score, the same for the whole batch. Each also takes its
            derivative along every probe.
        probe_error: [B] standard error of log_prob from the random probes, in nats: from their
            spread, so NaN for one probe; 0 for the exact trace. Of "hierarchical" probes, whose
            errors cancel in part, it is an upper bound.
    """

    log_prob: PerSample
    latent: Batch
    nfe: Int[Array, ""]
    probe_error: PerSample | float = math.nan


def log_likelihood(
    key: PRNGKeyArray,
    sde: SDE,
    score_fn: ScoreFn,
    x0: Batch,
    rtol: float | None = None,
    atol: float | None = None,
    probe: Probe = "rademacher",
    n_probes: int = 1,
    first_index: int | Array = 0,
    mask: Batch | None = None,
    accuracy: float | None = None,
) -> LogLikelihood:
    """Log density of x0 under the model, from the probability flow and its divergence.

    The divergence is Hutchinson's estimate with the same probes along the path (unbiased; FFJORD,
    Grathwohl et al. 2019), or the exact trace by a derivative per dimension. t >= sde.train_t_min.

    Under CLD the state is x_0 with velocities v_0 drawn from q, and the solver integrates the
    state in t. log_prob is log p(x_0, v_0) - log q(v_0) for one draw of v_0: its mean is a lower
    bound of log p(x_0) (Dockhorn et al. 2022), tight if v_0 and x_0 are independent in the model.

    An evaluation takes the memory of n_probes + 1 of score_fn ("exact": of dimensions + 1).
    jax.grad and jax.jvp give derivatives at the solver's steps, by one solve more, but no second
    ones; jax.grad keeps at most about 140 states of the flow.

    With a mask it is the density of each sample's observed coordinates: flow, probes and prior are
    theirs alone, and score_fn must give the score of their marginal (sde_lib.missing).

    Args:
        key: randomness of the probes (unused when probe = "exact") and of the velocities; sample
            i's depends on key and first_index + i alone.
        sde: the forward SDE.
        score_fn: the model's score.
        x0: [B, ...] data.
        rtol: relative tolerance of a solver step, in y and nats per dimension; atol: absolute.
            None: TOLERANCE.
        probe: distribution of the probes, or "exact" for the exact trace.
        n_probes: probes per sample, each of which costs a derivative in every evaluation.
        first_index: index of x0's first sample in its data set.
        mask: 1 for each value of x0 that is observed, 0 for each that is missing; None: all are
            observed. Missing values count as 0.
        accuracy: in place of rtol and atol, the solver's mean error in bits/dim over the batch;
            that of each sample is at most WORST times as much. The errors are estimates. If
            MOST_STEPS do not reach it, log_prob is NaN. Under CLD it sets tolerances of a tenth.

    Raises:
        ValueError: an unknown probe, n_probes < 1, tolerances or an accuracy below rounding
            errors, or both given, a score_fn that changes the shape, an SDE with alpha(t_max) = 0,
            or a mask that does not go with x0 or the SDE.
    """
    check_precision(rtol, atol, accuracy)
    check_ends(sde)
    if mask is not None:
        check_mask(sde, mask, x0)
        x0, score_fn = mask * x0, observed_score(score_fn, mask)
    x, log_added = sde.initial_state(key, jnp.asarray(x0, float), first_index)
    check_score_fn(score_fn, x.shape)
    probes = sde.noisy(draw(sample_keys(key, len(x0), first_index), probe, n_probes, x.shape))
    dims = jnp.full(len(x), float(math.prod(x.shape[1:])))
    if mask is not None:
        probes, dims = mask * probes, count_observed(mask)
    time = TAU if accuracy is None else THETA
    velocity_at, ends, (start, end) = _scaled_flow(sde, score_fn, x, dims, time)
    exact = probe == "exact"

    def field(tau, state):
        return with_divergence(velocity_at(tau), state[0], probes, exact, dims)

    def result(state, nfe) -> LogLikelihood:
        latent, each = expand(end, x) * state[0], dims[:, None] * state[1]
        prior = sde.prior_logp(latent) if mask is None else log_normal(latent, sde.prior_std, dims)
        log_prob = prior + dims * jnp.log(end / start) + jnp.mean(each, axis=1) - log_added
        spread = jnp.zeros(len(x)) if exact else jnp.std(each, axis=1, ddof=1)
        return LogLikelihood(log_prob, latent, nfe, spread / math.sqrt(each.shape[1]))

    y0 = (x / expand(start, x), jnp.zeros((len(x), 1 if exact else len(probes))))
    if accuracy is not None and sde.is_scalar:
        n_steps = 2 * math.ceil(N_STEPS / 2 * (1e-3 / accuracy) ** (1 / 3))  # third order
        allowed = accuracy * math.log(2) * dims
        return _refine(field, result, y0, ends, n_steps, allowed)
    least = TOLERANCE if accuracy is None else accuracy / 10
    rtol, atol = (least if given is None else given for given in (rtol, atol))
    state, _, nfe = solve_ode(field, y0, *ends, rtol, atol, None, FIRST_STEP, PROPORTIONAL)
    return result(state, nfe)


def _refine(
    field: Callable,
    result: Callable[..., LogLikelihood],
    y0: tuple[Batch, Array],
    ends: tuple[float | Array, float | Array],
    first_steps: int,
    allowed: PerSample,
) -> LogLikelihood:
    """Solves on finer and finer grids, until the estimated errors are as small as allowed, in nats.

    The error of the first grid is its difference from the coarser solution; that of a later one is
    estimated by the difference d from the grid before, whose points are others. In a field that is
    random in time the errors are independent, with variances in proportion to 1 / n. So d^2 is
    1 + r times the square of the finer grid's error, where r is the ratio of the numbers of steps.
    In a smoother field the error is smaller than that. Derivatives are those of the last grid.
    """
    time = jnp.full(len(y0[0]), as_float(ends[0]))
    field, of_field = derivatives.hoisted(field, time, y0)
    result, of_result = derivatives.hoisted(result, y0, jnp.asarray(0))

    def search(y0, ends, of_field, of_result):
        own = (lambda *point: field(*point, *of_field)), (lambda *end: result(*end, *of_result))
        return _search(*own, y0, ends, first_steps, allowed)

    def last(backward, known, y0, ends, of_field, of_result):
        (n, found), (start, end) = known, ends
        own = lambda *point: field(*point, *of_field)  # noqa: E731
        fine, _ = solve_even(own, y0, start, end, n, backward)
        made = result(fine, found.nfe, *of_result)
        return n, made._replace(probe_error=jax.lax.stop_gradient(made.probe_error))

    ways = partial(last, False), partial(last, True)
    return derivatives.both_ways(search, *ways, y0, ends, of_field, of_result)[1]


class _Grid(NamedTuple):
    """The state of a search for a grid that is fine enough.

    Attributes:
        i: index of the next step on this grid.
        n: number of its steps.
        solution: the state of solve_even on it.
        n_before, error, found: of the grid before, its steps, the error as a share of what is
            allowed, and the result, with all evaluations so far.
    """

    i: Array
    n: Array
    solution: Any
    n_before: Array
    error: Array
    found: LogLikelihood


def _search(
    field: Callable,
    result: Callable[..., LogLikelihood],
    y0: tuple[Batch, Array],
    ends: tuple[float | Array, float | Array],
    first_steps: int,
    allowed: PerSample,
) -> tuple[Array, LogLikelihood]:
    """The number of steps of the first grid that is fine enough, and its result: see _refine.

    It is one loop over all evaluations, so that it can be run in segments.
    """

    def size(difference):
        ratio = jnp.abs(difference) / allowed
        return jnp.maximum(jnp.mean(ratio), jnp.max(ratio) / WORST)

    def finer(grid):
        (fine, coarse, _), n, before = grid.solution, grid.n, grid.found
        found = result(fine, before.nfe + n + 1)
        by_coarse = size(found.log_prob - result(coarse, n).log_prob)
        by_before = size(found.log_prob - before.log_prob) / jnp.sqrt(1 + n / grid.n_before)
        error = jnp.where(before.nfe == 0, by_coarse, by_before)
        more = 2 * (n * jnp.clip(error, *GROWTH) / 2).astype(n.dtype) + 2
        return _Grid(jnp.zeros_like(n), more, first_state, n, error, found)

    def step(grid):
        one, _ = even_steps(field, y0, *ends, grid.n)
        moved = grid._replace(i=grid.i + 1, solution=one(grid.i, grid.solution))
        return jax.lax.cond(grid.i == grid.n, finer, lambda grid: grid, moved)

    def unfinished(grid):
        return (grid.error > 1) & (grid.n <= MOST_STEPS)

    def share(grid):
        made = grid.found.nfe
        return jnp.where(unfinished(grid), (made + grid.i) / (made + grid.n + 1), 1.0)

    n, zero = jnp.asarray(first_steps), jnp.zeros_like(allowed)
    _, first_state = even_steps(field, y0, *ends, n)
    nothing = LogLikelihood(zero, jnp.zeros_like(y0[0]), jnp.asarray(0), zero)
    start = _Grid(jnp.asarray(0), n, first_state, jnp.asarray(1), jnp.asarray(jnp.inf), nothing)
    end = loops.while_loop(unfinished, step, start, share)
    log_prob = jnp.where(end.error <= 1, end.found.log_prob, jnp.nan)
    return end.n_before, end.found._replace(log_prob=log_prob)


class _Time(NamedTuple):
    """The solver's time as a function of the ratio u = sigma / (alpha DATA_STD).

    Attributes:
        at: the time at u, a Python number.
        ratio: u at a time.
        slope: du / dtime at u.
    """

    at: Callable[[float], float]
    ratio: Callable[[Array], Array]
    slope: Callable[[Array], Array]


TAU = _Time(
    lambda u: -math_of(u).expm1(-0.5 * math_of(u).log1p(u)),
    lambda tau: tau * (2 - tau) / (1 - tau) ** 2,
    lambda u: 2 * (1 + u) ** 1.5,
)
THETA = _Time(
    lambda u: math_of(u).atan(math_of(u).sqrt(u)),
    lambda theta: jnp.tan(theta) ** 2,
    lambda u: 2 * jnp.sqrt(u) * (1 + u),
)


def _scaled_flow(
    sde: SDE, score_fn: ScoreFn, x: Batch, dims: PerSample, time: _Time
) -> tuple[Callable, tuple[float, float], tuple[Array, Array]]:
    """velocity_at(time)(y) = dy / dtime of y = x / std, with the times and std [B] of both ends."""
    if not sde.is_scalar:
        one = jnp.ones(len(x))
        times = sde.train_t_min, sde.t_max
        return lambda t: lambda y: sde.flow_drift(y, t, score_fn(y, t)), times, (one, one)
    scale = _scale(x, dims)

    def velocity_at(now):
        t = sde.inverse_noise_level(DATA_STD * time.ratio(now))
        t = jnp.clip(t, sde.train_t_min, sde.t_max)
        slope = DATA_STD * time.slope(sde.noise_level(t) / DATA_STD)
        rate = expand(sde.alpha(t) * sde.sigma(t) * slope, x)  # g^2 / 2 dt / dtime
        std = expand(_std(sde, t, scale), x)
        return lambda y: -rate / std * (score_fn(std * y, t) + y / std)

    with jax.ensure_compile_time_eval():
        levels = [as_number(sde.noise_level(t)) for t in (sde.train_t_min, sde.t_max)]
    ends = time.at(levels[0] / DATA_STD), time.at(levels[1] / DATA_STD)
    stds = _std(sde, sde.train_t_min, scale), _std(sde, sde.t_max, scale)
    return velocity_at, ends, stds


def _scale(x0: Batch, dims: PerSample) -> PerSample:
    """Root mean square of each sample's dims values and DATA_STD, which is included to avoid 0."""
    squares = jnp.sum(x0**2, axis=tuple(range(1, x0.ndim)))
    return jnp.sqrt((squares + DATA_STD**2) / (dims + 1))


def _std(sde: SDE, t: Time, scale: PerSample) -> PerSample:
    """Standard deviation of x_t for x_0 of standard deviation `scale`."""
    return jnp.hypot(sde.alpha(t) * scale, sde.sigma(t))


def check_precision(
    rtol: float | None, atol: float | None, accuracy: float | None, prefix: str = ""
) -> None:
    """Raises ValueError for tolerances or an accuracy below rounding errors, and for both."""
    tolerances = {prefix + k: v for k, v in (("rtol", rtol), ("atol", atol)) if v is not None}
    check_tolerance(**tolerances)
    if accuracy is None:
        return
    check_known("it decides the number of steps", **{f"{prefix}accuracy": accuracy})
    check_in("(0, inf)", **{f"{prefix}accuracy": accuracy})
    kind = str(precision().dtype)
    if accuracy < LEAST_ACCURACY[kind]:
        raise ValueError(
            f"{prefix}accuracy is {accuracy!r} bits/dim, which {kind} cannot reach: it must be at "
            f"least {LEAST_ACCURACY[kind]:g}, better 0.001"
        )
    for name, value in tolerances.items():
        raise ValueError(
            f"{name} is {value!r} and {prefix}accuracy is {accuracy!r}, but the accuracy takes the "
            "place of the tolerances: leave out one or the other"
        )


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
