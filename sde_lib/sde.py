"""Forward SDE, defined by alpha(t) and sigma(t): drift, diffusion, marginals and prior.

The marginals x_t | x_0 ~ N(alpha(t) x_0, sigma(t)^2 I) are those of the linear SDE
dx = f(t) x dt + g(t) dw with f = alpha'/alpha and g^2 = 2 sigma sigma' - 2 f sigma^2.
"""

import abc
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from sde_lib.batch import (
    Batch,
    PerSample,
    as_float,
    as_number,
    expand,
    math_of,
    normal,
    numpy_of,
    sample_keys,
)
from sde_lib.checks import check_types, known

ScoreFn = Callable[[Array, Array], Array]
"""A score function: score_fn(x, t) = grad_x log p_t(x), of the shape of x, with t of shape [B]."""

Time = Float[Array, "..."] | float
LEAST_ALPHA = 1e-7  # in the prior: below it, alpha is 0 up to float32's rounding


@dataclasses.dataclass(frozen=True)
class ScorePair:
    """A score function whose evaluation gives a second array too.

    It can be used as a plain ScoreFn; code that needs the second array calls `both`, which
    evaluates the network once.

    Attributes:
        both: both(x, t) = (score, second array).
    """

    both: Callable[[Array, Array], tuple[Array, Array]]

    def __call__(self, x: Array, t: Array) -> Array:
        return self.both(x, t)[0]


@dataclasses.dataclass(frozen=True)
class ScoreAndVariance(ScorePair):
    """A score function whose network also predicts the variance of DDPM's step.

    Guidance changes the score and keeps the variance: that of the conditional model under
    classifier-free guidance, as ADM and DiT were published.

    Attributes:
        both: both(x, t) = (score, v), with v of the shape of x. The log variance of the step is
            v log beta + (1 - v) log beta-tilde (Nichol & Dhariwal 2021, arXiv 2102.09672, Eq. 15).
    """


@dataclasses.dataclass(frozen=True)
class ScoreAndEnergy(ScorePair):
    """The score of an energy model, which is the gradient of a log density that is known too.

    Attributes:
        both: both(x, t) = (score, log p), with log p [B] in nats, up to a constant of t.
    """

    @classmethod
    def of(cls, log_density: Callable[[Array, Array], PerSample]) -> Self:
        """The gradient of log_density(x, t), [B], whose value i depends on x[i] and t[i] alone."""

        def both(x: Array, t: Array) -> tuple[Array, PerSample]:
            values, pullback = jax.vjp(lambda x: log_density(x, t), x)
            return pullback(jnp.ones_like(values))[0], values

        return cls(both)


@dataclasses.dataclass(frozen=True)
class SDE(abc.ABC):
    """A diffusion from data (t = 0) to prior (t = t_max). Subclasses define alpha and sigma.

    The variable that diffuses is called the state. Here it is the data; a subclass may extend it,
    as sde_lib.CLD does by velocities.

    Attributes:
        t_max: time of the prior.
        t_min: time at which sampling ends.
        train_t_min: smallest time of training, and the time at which likelihoods start.

    Raises:
        ValueError: a field of a wrong type, unless 0 < t_max < inf and 0 <= t_min, train_t_min <
            t_max.
    """

    is_scalar: ClassVar[bool] = True  # the state is the data, with one alpha and sigma for all

    t_max: float = dataclasses.field(default=1.0, kw_only=True)
    t_min: float = dataclasses.field(default=1e-3, kw_only=True)
    train_t_min: float = dataclasses.field(default=1e-5, kw_only=True)

    def __post_init__(self):
        check_types(self)
        if known(self.t_max) and not 0 < self.t_max < math.inf:
            raise ValueError(f"t_max is {self.t_max}: it must be a positive number")
        for name in ("t_min", "train_t_min"):
            value = getattr(self, name)
            if known(value, self.t_max) and not 0 <= value < self.t_max:
                raise ValueError(f"{name} is {value}: it must lie in [0, t_max = {self.t_max})")

    @abc.abstractmethod
    def alpha(self, t: Time) -> Array:
        """Factor of x_0 in the mean of x_t; t of any shape."""

    @abc.abstractmethod
    def sigma(self, t: Time) -> Array:
        """Standard deviation of x_t given x_0; t of any shape."""

    def drift_coefficient(self, t: Time) -> Array:
        """Coefficient f(t) = d log alpha / dt of the drift."""
        return _derivative(self.alpha, t) / self.alpha(t)

    def diffusion(self, t: Time) -> Array:
        """Diffusion coefficient g(t), of the shape of t."""
        sigma = self.sigma(t)
        variance_rate = _derivative(self.sigma, t) - self.drift_coefficient(t) * sigma
        return jnp.sqrt(2 * sigma * variance_rate)

    def drift(self, x: Batch, t: Time) -> Batch:
        """Drift f(t) x of the forward SDE, of the shape of x; t is [B]."""
        return expand(self.drift_coefficient(t), x) * x

    def marginal(self, x0: Batch, t: Time) -> tuple[Batch, Array]:
        """Mean (shape of x0) and standard deviation ([B]) of x_t given x_0."""
        return expand(self.alpha(t), x0) * x0, self.sigma(t)

    def noised(self, x0: Batch, t: Time, z: Batch) -> Batch:
        """State x_t of data x0 with standard normal noise z, which has the state's shape."""
        mean, std = self.marginal(x0, t)
        return mean + expand(std, x0) * z

    def noisy(self, x: Batch) -> Batch:
        """Sets the components of x that receive no noise to 0; for most SDEs there are none.

        Under sde_lib.CLD these are the positions: only the velocities have noise and a score.
        """
        return x

    def state_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the states for data of `shape` = (B, ...)."""
        return tuple(shape)

    def initial_state(
        self, key: PRNGKeyArray, x0: Batch, first_index: int | Array = 0
    ) -> tuple[Batch, PerSample | float]:
        """State of data x0 at train_t_min, and the log density of the variables drawn to extend it.

        Under most SDEs it is x0 itself, with log density 0.
        """
        return x0, 0.0

    def data_of(self, x: Batch) -> Batch:
        """The part of the states [..., B, ...] that is the data at t = 0."""
        return x

    def reverse_drift(self, x: Batch, t: Time, score: Batch) -> Batch:
        """Drift of the reverse-time SDE, f x - g^2 score (Song et al. 2021, Eq. 6)."""
        return self.drift(x, t) - expand(self.diffusion(t) ** 2, x) * self.noisy(score)

    def flow_drift(self, x: Batch, t: Time, score: Batch) -> Batch:
        """Drift of the probability-flow ODE, f x - g^2 score / 2 (Song et al. 2021, Eq. 13)."""
        return self.drift(x, t) - 0.5 * expand(self.diffusion(t) ** 2, x) * self.noisy(score)

    def denoise(self, x: Batch, t: Time, score: Batch) -> Batch:
        """Tweedie's formula, E[x_0 | x_t] = (x + sigma^2 score) / alpha."""
        return (x + expand(self.sigma(t) ** 2, x) * score) / expand(self.alpha(t), x)

    @property
    def prior_std(self) -> float:
        """Standard deviation of the prior, N(0, prior_std^2 I)."""
        with jax.ensure_compile_time_eval():
            return as_number(self.sigma(self.t_max))

    def prior_sample(
        self, key: PRNGKeyArray, shape: Sequence[int], first_index: int | Array = 0
    ) -> Batch:
        """Draws states of `shape` = (B, ...) from the prior.

        Sample i depends on key and first_index + i alone.
        """
        return self.prior_std * normal(sample_keys(key, shape[0], first_index), shape)

    def prior_logp(self, x: Batch) -> PerSample:
        """Log density of each x under the prior, in nats."""
        return log_normal(x, self.prior_std)

    def discretize(self, x: Batch, t: Time, n_steps: float) -> tuple[Batch, Array]:
        """f(x) and G ([B]) of one step x <- x + f + G z of the forward chain of n_steps, at t.

        The default is an Euler step, f = drift dt and G = diffusion sqrt(dt). Some SDEs, such as VE
        and VP, define their own chain.
        """
        dt = self.t_max / n_steps
        return self.drift(x, t) * dt, self.diffusion(t) * jnp.sqrt(dt)

    def ancestral(self, t: Time, n_steps: float) -> tuple[Array, Array, Array]:
        """(a, v, std) of the ancestral step x_s = (x_t + v score) / a + std z, s one step before t.

        N(a x_s, v I) is the forward transition from s to t. The mean is that of q(x_s | x_t, x_0)
        with x_0 from Tweedie's formula, and std^2 = v sigma_s^2 / sigma_t^2 is its variance (DDPM,
        Ho et al. 2020, Eq. 7).
        """
        s = jnp.maximum(t - self.t_max / n_steps, 0.0)
        a = self.alpha(t) / self.alpha(s)
        v = self.sigma(t) ** 2 - (a * self.sigma(s)) ** 2
        return a, v, jnp.sqrt(v) * self.sigma(s) / self.sigma(t)

    def times(self, start: float, end: float, n_steps: int) -> Float[np.ndarray, " times"]:
        """The n_steps + 1 times between which samplers step in t, from start down to end: even."""
        return numpy_of(start, end).linspace(start, end, n_steps + 1)

    def levels(self, n_levels: int) -> Float[np.ndarray, " n_levels"]:
        """log-SNRs of a network trained at n_levels discrete times, in the order of its labels.

        Raises:
            ValueError: an SDE without published discrete levels, or too few levels.
        """
        raise ValueError(
            f"{type(self).__name__} has no discrete noise levels: train continuously, or choose VE "
            "(SMLD), VP (DDPM), Cosine, Sigmoid, Linear or LogLinear"
        )

    def log_snr(self, t: Time) -> Array:
        """log-SNR, log(alpha^2 / sigma^2); decreasing in t, with derivative -g^2 / sigma^2."""
        return 2 * (jnp.log(self.alpha(t)) - jnp.log(self.sigma(t)))

    def inverse_log_snr(self, log_snr: Float[Array, "..."]) -> Array:
        """The t in [0, t_max] with log_snr(t) = log_snr, by bisection to the last bit."""

        def halve(_, bracket):
            low, high = bracket
            middle = 0.5 * (low + high)
            before = self.log_snr(middle) > log_snr
            return jnp.where(before, middle, low), jnp.where(before, high, middle)

        log_snr = as_float(log_snr)
        low, halvings = jnp.zeros_like(log_snr), 2 * jnp.finfo(log_snr.dtype).nmant + 2
        low, high = jax.lax.fori_loop(0, halvings, halve, (low, jnp.full_like(low, self.t_max)))
        return 0.5 * (low + high)

    def noise_level(self, t: Time) -> Array:
        """Noise level sigma / alpha, increasing in t: the std of x_t / alpha given x_0."""
        return self.sigma(t) / self.alpha(t)

    def inverse_noise_level(self, level: Float[Array, "..."]) -> Array:
        """The t with noise_level(t) = level; level > 0 of any shape."""
        return self.inverse_log_snr(-2 * jnp.log(level))


def log_normal(x: Batch, std: float, dims: PerSample | int | None = None) -> PerSample:
    """Log density of each x under N(0, std^2 I), in nats.

    `dims` are its dimensions, if some values of x are missing and 0; None: all of them.
    """
    axes = tuple(range(1, x.ndim))
    dims = math.prod(x.shape[1:]) if dims is None else dims
    log_norm = dims * (math_of(std).log(std) + 0.5 * math.log(2 * math.pi))
    return -0.5 * jnp.sum((x / std) ** 2, axis=axes) - log_norm


def score_and_variance(score_fn: ScoreFn) -> Callable[[Array, Array], tuple[Array, Array]]:
    """The function `both` of a ScoreAndVariance.

    Raises:
        ValueError: a score function without a learned variance.
    """
    if not isinstance(score_fn, ScoreAndVariance):
        raise ValueError(
            "variance 'learned' needs a model trained with config.model.learned_variance, and a "
            "score_fn that is a ScoreAndVariance: choose another variance"
        )
    return score_fn.both


def score_and_energy(score_fn: ScoreFn) -> Callable[[Array, Array], tuple[Array, PerSample]]:
    """The function `both` of a ScoreAndEnergy.

    Raises:
        ValueError: a score function without an energy.
    """
    if not isinstance(score_fn, ScoreAndEnergy):
        raise ValueError(
            "the corrector 'mala' needs an energy: a score_fn that is a ScoreAndEnergy, as of "
            "config.model.parametrization='energy', without classifier-free guidance, clipping and "
            "time shift; or take 'ald', which needs none"
        )
    return score_fn.both


def check_score_fn(score_fn: ScoreFn | tuple[ScoreFn, ...], shape: Sequence[int]) -> None:
    """Raises ValueError unless score_fn maps x of `shape` and t of [B] to the shape of x.

    The function is traced, not run. A tuple of score functions, which only some solvers support,
    is refused.
    """
    if isinstance(score_fn, tuple):
        raise ValueError(
            "score_fn is a tuple, one function for each evaluation in a step: take a solver of "
            "such steps (Heun, EDM, DPM2), or give a single function, such as discriminator "
            "guidance with equal weights"
        )
    shape = tuple(shape)
    x = jax.ShapeDtypeStruct(shape, jnp.result_type(float))
    out = jax.eval_shape(score_fn, x, jax.ShapeDtypeStruct(shape[:1], x.dtype))
    if getattr(out, "shape", None) != shape:
        raise ValueError(
            f"score_fn returned {getattr(out, 'shape', type(out).__name__)} for x of shape {shape}"
            f" and t of shape {shape[:1]}: it must return the shape of x"
        )


def check_ends(sde: SDE) -> None:
    """Raises ValueError for an SDE without data, or without noise, in its prior.

    There sigma / alpha is infinite or 0, and neither samplers nor likelihoods can start.
    """
    if not sde.is_scalar:
        return
    with jax.ensure_compile_time_eval():
        ends = [as_number(fn(as_float(sde.t_max))) for fn in (sde.alpha, sde.sigma)]
    if not known(ends):
        return
    alpha, sigma = ends
    if not LEAST_ALPHA < alpha < math.inf:
        raise ValueError(
            f"alpha(t_max) of {sde} is {alpha:g}: it must be positive, so that the noise level "
            f"sigma / alpha is finite; give a t_max below {sde.t_max:g}, such as "
            f"{0.999 * sde.t_max:g}"
        )
    if not 0 < sigma < math.inf:
        raise ValueError(f"sigma(t_max) of {sde} is {sigma:g}: it must be positive, and finite")


def _derivative(fn: Callable[[Array], Array], t: Time) -> Array:
    t = as_float(t)
    return jax.jvp(fn, (t,), (jnp.ones_like(t),))[1]
