"""The probability flow of the mixture, in float64, and how near a solver gets to its end."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from closed_forms import Mixture
from scipy.integrate import solve_ivp

import samplers
import sde_lib

HIGH, LOW, N = 10.0, 0.1, 32
SDE = sde_lib.EDM()  # where a time is a noise level


def noise(y, level):
    """eps of the mixture, in float64."""
    data = Mixture()
    variance = data.std**2 + level**2
    away = y[:, None] - data.means
    logits = np.log(data.weights) - 0.5 * (away**2).sum(-1) / variance
    weights = np.exp(logits - logits.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    return level / variance * (weights[..., None] * away).sum(1)


def denoised(y, level):
    """D of the mixture, in float64."""
    return y - level * noise(y, level)


@functools.cache
def flow(low=LOW):
    """States at HIGH and where the flow takes them: at `low`."""
    start = HIGH * np.random.RandomState(0).randn(N, 2).astype(np.float32).astype(np.float64)

    def rate(level, y):
        return noise(y.reshape(N, 2), level).ravel()

    end = solve_ivp(rate, (HIGH, low), start.ravel(), "DOP853", rtol=1e-9, atol=1e-9).y[:, -1]
    return start, end.reshape(N, 2)


def run(sampler, sde=SDE, score_fn=None, shape=(N, 2), **options):
    """The sampler's result, compiled in a hurry: from the flow's start."""
    options.setdefault("start", samplers.Start(jnp.asarray(flow()[0], jnp.float32), HIGH))
    score_fn = score_fn or Mixture().score_fn(sde)
    program = jax.jit(lambda key: sampler(key, sde, score_fn, shape, **options))
    compiled = program.lower(jax.random.key(0)).compile({"xla_backend_optimization_level": 0})
    return compiled(jax.random.key(0))


def error(sampler):
    """Root mean square error at the flow's end."""
    return np.sqrt(np.mean((run(sampler).x - flow()[1]) ** 2))


def order(name, n, **options):
    """The observed order of convergence: from n steps to 2 n, from HIGH to LOW."""
    make = functools.partial(samplers.create, name, sigma_min=LOW, denoise=False, **options)
    return np.log2(error(make(n_steps=n)) / error(make(n_steps=2 * n)))
