"""Exact moments of predictor-corrector sampling where every step is affine in state and noise.

For Gaussian data the score is affine in x, and a step of a predictor or of "ald" is
x' = A x + b + C z. Evaluating the step at 0 and at unit vectors, at all times in one batch, gives
A, b and C. The mean and the covariance of the samples follow in float64, without drawing any.
"""

import jax
import jax.numpy as jnp
import numpy as np

import samplers


def parts(step, times, shape):
    """(A, b, C), [K, D, D], [K, D] and [K, D, D], of step(x, t, z) at K times; x is [B, *shape]."""
    n, d = len(times), int(np.prod(shape))
    units, none = np.eye(d), np.zeros((d, d))
    x = np.concatenate([none[:1], units, none]).repeat(n, 0).reshape(-1, *shape)
    z = np.concatenate([none[:1], none, units]).repeat(n, 0).reshape(-1, *shape)
    x, t, z = (jnp.asarray(a, jnp.float32) for a in (x, np.tile(times, 1 + 2 * d), z))
    out = np.asarray(jax.jit(step)(x, t, z), np.float64).reshape(-1, n, d).swapaxes(0, 1)
    responses = (out[:, 1:] - out[:, :1]).swapaxes(1, 2)
    return responses[..., :d], out[:, 0], responses[..., d:]


def moments(sampler, sde, score_fn, shape=(1,), prior_std=None):
    """Mean and covariance of the samples of a PredictorCorrector, each of `shape`."""
    d, n = int(np.prod(shape)), sampler.n_steps
    times = np.linspace(sde.t_max, sde.t_min, n if sampler.denoise else n + 1)
    dt = times[0] - times[1]
    predictor = samplers.PREDICTORS[sampler.predictor]
    corrector = samplers.CORRECTORS[sampler.corrector]

    def predict(x, t, z):
        flow = sampler.probability_flow
        return predictor(sde, score_fn, x, t, dt, z, probability_flow=flow)[0]

    def correct(x, t, z):
        return corrector(sde, score_fn, x, t, z, sampler.snr)[0]

    def denoise(x, t, z):
        return sde.denoise(x, t, score_fn(x, t))

    mean, std = np.zeros(d), sde.prior_std if prior_std is None else np.asarray(prior_std)
    covariance = std**2 * np.eye(d)
    predictions, corrections = (parts(step, times, shape) for step in (predict, correct))
    n_corrections = 0 if sampler.corrector == "none" else sampler.n_corrector_steps
    path = []
    for k in range(n - sampler.denoise):
        path += n_corrections * [(corrections, k)] + [(predictions, k)]
    if sampler.denoise:
        path += n_corrections * [(corrections, -1)] + [(parts(denoise, times[-1:], shape), 0)]
    for (a, b, c), k in path:
        mean = a[k] @ mean + b[k]
        covariance = a[k] @ covariance @ a[k].T + c[k] @ c[k].T
    return mean, covariance
