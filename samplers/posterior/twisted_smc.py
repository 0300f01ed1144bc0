"""The twisted diffusion sampler: sequential Monte Carlo (Wu et al. 2023, arXiv 2306.17775).

Particles follow the reverse chain, z = x / alpha from the noise level l to the next level s:

    p(z_s | z_l) = N(z_l + (l^2 - s^2) score, v I),  v = w s^2 + w^2 r_l^2,  w = 1 - s^2 / l^2,

with the score in z. The mean is exact, and so is v if the variance of x_0 given z_l is r_l^2; with
r_l^2 = l^2 / (1 + l^2) it is DDPM's beta. With m(z_l) = E[x_0 | z_l] the twisting function
p~(y | z_l) = N(y; operator(m(z_l)), (noise_std^2 + r_l^2) I) stands for p(y | z_l), and is
p(y | x_0) at the end (Eq. 8). Its gradient guides the proposals,

    q(z_s | z_l, y) = N(z_l + (l^2 - s^2) (score + grad log p~(y | z_l)), v I),

and weights p p~(y | z_s) / (q p~(y | z_l)) correct them (Eq. 11). So the samples are of the chain's
posterior in the limit of many particles, whatever the twisting function.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PRNGKeyArray

from samplers.base import Samples, Scores
from samplers.noise_levels import Levels, levels_at, time_of
from samplers.posterior.base import Draw, Measurement, PosteriorMethod, variance_given_x
from samplers.posterior.checks import one_score
from samplers.solver import enter
from sde_lib import SDE, loops
from sde_lib.batch import Batch, PerSample, fold_in, sample_keys
from sde_lib.checks import check_at_least, check_in, check_positive

PARTICLES = 1 << 22  # folded into a sample's key, for the start; no step has this number
CHOICE = PARTICLES + 1
RESAMPLING = PARTICLES + 2

Particles = Float[Array, "particles batch *shape"]
Weights = Float[Array, "particles batch"]


class Cloud(NamedTuple):
    """Weighted particles of each sample.

    Attributes:
        z: the particles; at the end of the chain their x_0.
        log_weights: up to a constant of each sample.
        twist: log p~(y | z) at the level before, which the next weight divides by.
    """

    z: Particles
    log_weights: Weights
    twist: Weights


class Rows(NamedTuple):
    """Numbers of each step of the chain, [N].

    Attributes:
        t: time of the level l.
        alpha: alpha(t).
        variance: of the twisting function.
        length: l^2 - s^2, by which the score moves z.
        guided: that by which the twisting function's gradient moves z: 0 in the step to x_0.
        std: of the transition.
    """

    t: Array
    alpha: Array
    variance: Array
    length: Array
    guided: Array
    std: Array


@dataclasses.dataclass(frozen=True)
class TwistedSMC(PosteriorMethod):
    """Draws each sample from its own weighted particles: exact in the limit of many particles.

    The noise levels are those of the sampler, its steps are not: the chain is the one above, and
    ends with E[x_0 | x] at the last level. It takes any differentiable operator. In each step the
    network is evaluated for all particles of all samples at once, with a backward derivative:
    memory is that of a batch n_particles times as large.

    Attributes:
        n_particles: particles of each sample.
        data_std: standard deviation of the data, for r_l^2 as in PiGDM. Whatever it is, v lies
            between the two variances of DDPM, and the limit of many steps is the same.
        resample_below: the particles of a sample are resampled when their effective number falls
            below this part of n_particles: 0 never, 1 in each step.

    Raises:
        ValueError: a number out of range.
    """

    n_particles: int = 64
    data_std: float = 1.0
    resample_below: float = 0.5

    def __post_init__(self):
        check_at_least(1, n_particles=self.n_particles)
        check_positive(data_std=self.data_std)
        check_in("[0, 1]", resample_below=self.resample_below)

    @property
    def needs_noise(self) -> bool:
        """True: the twisting function at the end is p(y | x_0)."""
        return True

    @property
    def products(self) -> int:
        """One, with the transpose."""
        return 1

    def draw(self, measured: Measurement, score_fn: Scores, draw: Draw) -> Samples:
        """One of each sample's particles. `nfe` counts the evaluations of all of them.

        Raises:
            ValueError: a sampler without noise levels, or scores for each evaluation of a step.
        """
        shape = draw.shape
        cloud, n_levels = self.particles(measured, score_fn, draw)
        keys = fold_in(sample_keys(draw.key, shape[0], draw.first_index), CHOICE)
        chosen = jax.vmap(jax.random.categorical)(keys, cloud.log_weights.T)
        x = jax.vmap(lambda z, k: z[k], (1, 0))(cloud.z, chosen)
        return Samples(x, n_levels * self.n_particles, jnp.zeros((0, *shape)))

    def particles(self, measured: Measurement, score_fn: Scores, draw: Draw) -> tuple[Cloud, int]:
        """(weighted particles of x_0 given y, steps). The arguments are those of `draw`."""
        sde, operator, y, noise_std = measured
        key, _, shape, first_index, start = draw
        self.check_operator(measured, shape)
        score_fn = one_score(score_fn, shape)
        z, levels = _enter(sde, draw)
        keys = sample_keys(key, shape[0], first_index)
        if start is None:
            z = levels[0] * _draws(fold_in(keys, PARTICLES), self.n_particles, shape)
        else:
            z = jnp.broadcast_to(z, (self.n_particles, *shape))
        rows = self._rows(sde, levels, noise_std)

        def twist(row: Rows, z: Batch) -> tuple[PerSample, Batch]:
            """log p~(y | z), and the score in z."""
            score = row.alpha * score_fn(row.alpha * z, jnp.full(len(z), row.t))
            level = sde.noise_level(row.t)
            residual = y - operator(z + level**2 * score)
            squares = jnp.sum(residual**2, axis=tuple(range(1, y.ndim)))
            size = np.prod(y.shape[1:])
            log = -0.5 * (squares / row.variance + size * jnp.log(row.variance))
            return log, score

        def step(k: Array, cloud: Cloud) -> Cloud:
            now = jax.tree.map(lambda a: a[k], rows)
            return self._step(partial(twist, now), now, fold_in(keys, k), cloud)

        none = jnp.zeros(z.shape[:2])
        return loops.fori_loop(len(levels), step, Cloud(z, none, none)), len(levels)

    def _rows(self, sde: SDE, levels: Levels, noise_std: float) -> Rows:
        """The numbers of each step, the last of which is to x_0."""
        level = jnp.asarray(levels, float)
        t = sde.inverse_noise_level(level)
        then = np.append(levels[1:], 0.0)
        spread = variance_given_x(sde, t, self.data_std)
        length = (levels - then) * (levels + then)
        guided = np.where(then > 0, length, 0.0)
        way = length / levels**2
        length, guided, way, then = (jnp.asarray(a, float) for a in (length, guided, way, then))
        std = jnp.sqrt(way * then**2 + way**2 * spread)
        spread, std = spread.at[-1].set(0.0), std.at[-1].set(0.0)
        return Rows(t, sde.alpha(t), noise_std**2 + spread, length, guided, std)

    def _step(self, twist: Any, row: Rows, keys: Key[Array, " batch"], cloud: Cloud) -> Cloud:
        """Weights at a level, resampling, and the proposals at the next one."""

        def evaluate(z: Batch) -> tuple[PerSample, Batch, Batch]:
            log, backward, score = jax.vjp(twist, z, has_aux=True)
            return log, score, backward(jnp.ones_like(log))[0]

        log, score, gradient = jax.vmap(evaluate)(cloud.z)
        log_weights = cloud.log_weights + log - cloud.twist
        taken, log_weights = jax.vmap(partial(resample, below=self.resample_below), (0, 1), (1, 1))(
            fold_in(keys, RESAMPLING), log_weights
        )

        def take(a: Array) -> Array:
            return jax.vmap(lambda each, index: each[index], (1, 1), 1)(a, taken)

        z, log, score, gradient = map(take, (cloud.z, log, score, gradient))
        noise = _draws(keys, len(z), z.shape[1:])
        shift = row.guided * gradient
        z = z + row.length * score + shift + row.std * noise
        scaled = shift / jnp.where(row.std > 0, row.std, 1.0)
        axes = tuple(range(2, z.ndim))
        correction = jnp.sum(0.5 * scaled**2 + scaled * noise, axis=axes)
        return Cloud(z, log_weights - correction, log)


def resample(
    key: PRNGKeyArray, log_weights: Float[Array, " particles"], below: float
) -> tuple[Array, Float[Array, " particles"]]:
    """Systematic resampling, if the effective number of particles is below a part of them.

    Returns:
        (indices of the particles that go on, their log weights).
    """
    n = len(log_weights)
    weights = jax.nn.softmax(log_weights)
    points = (jnp.arange(n) + jax.random.uniform(key)) / n
    drawn = jnp.minimum(jnp.searchsorted(jnp.cumsum(weights), points), n - 1)
    few = 1 / jnp.sum(weights**2) < below * n
    taken = jnp.where(few, drawn, jnp.arange(n))
    return taken, jnp.where(few, 0.0, log_weights)


def _enter(sde: SDE, draw: Draw) -> tuple[Batch, Levels]:
    """Initial states x / alpha of one particle, and the sampler's noise levels.

    Raises:
        ValueError: a sampler whose steps adapt, without levels of its own.
    """
    key, sampler, shape, first_index, start = draw
    n_steps = getattr(sampler, "n_steps", None)
    if n_steps is None:
        raise ValueError(
            f"twisted_smc makes steps between the sampler's noise levels, and "
            f"{type(sampler).__name__} has none: choose a sampler with a number of steps"
        )
    if hasattr(sampler, "levels"):
        ends = sampler.grid, sampler.sigma_max, sampler.sigma_min
        z, high, low = enter(key, sde, shape, first_index, start, *ends)
        return z, sampler.levels(sde, high, low)
    z, high, low = enter(key, sde, shape, first_index, start, "uniform", None, None)
    return z, levels_at(sde, sde.times(time_of(sde, high), time_of(sde, low), n_steps - 1))


def _draws(keys: Key[Array, " batch"], n: int, shape: Sequence[int]) -> Particles:
    """Standard normal draws for n particles of each sample."""
    one = jax.vmap(lambda key: jax.random.normal(key, (n, *shape[1:])), out_axes=1)
    return one(keys)
