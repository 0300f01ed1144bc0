"""Mode likelihood: bits/dim of the test set by the probability-flow ODE."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

import models
import sde_lib
from experiments import build, data
from models.config import Config
from sde_lib.batch import sample_keys


class BitsPerDim(NamedTuple):
    """Mean over a set, its standard error, and the solver's mean number of evaluations."""

    mean: float
    error: float
    nfe: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} +- {self.error:.3f} (nfe {self.nfe})"


def bits_per_dim(
    config: Config, model: nn.Module, params: Any, dataset: data.Dataset
) -> BitsPerDim:
    """Bits/dim of dataset.test, every sample once, each dequantised by its own key.

    Raises:
        FloatingPointError: a likelihood is not finite.
    """
    sde = build.make_sde(config)
    values, shape = dataset.test, dataset.test.shape[1:]
    size = min(config.eval.batch_size, len(values))

    @jax.jit
    def batch(params, key, x, first_index):
        def dequantize(key, sample):
            unit_key = jax.random.fold_in(key, 1)
            return data.to_model_space(config, dataset.levels, unit_key, sample, dequantize=True)

        x = jax.vmap(dequantize)(sample_keys(key, size, first_index), x)
        result = sde_lib.log_likelihood(
            key,
            sde,
            models.score_fn(config, sde, model, params),
            x,
            config.eval.rtol,
            config.eval.atol,
            config.eval.probe,
            config.eval.n_probes,
            first_index,
        )
        bits = sde_lib.bits_per_dim(result.log_prob, shape, data.data_range(config), dataset.levels)
        return bits, result.nfe

    key, bits, nfes = jax.random.key(config.seed), [], []
    for first in range(0, len(values), size):
        part = values[first : first + size]
        padding = [(0, size - len(part))] + [(0, 0)] * len(shape)
        result, nfe = batch(params, key, np.pad(part, padding, mode="edge"), first)
        bits.append(np.asarray(result[: len(part)], np.float64))
        nfes.append(int(nfe))
    bits = np.concatenate(bits)
    if not np.isfinite(bits).all():
        raise FloatingPointError(
            f"{np.sum(~np.isfinite(bits))} of {len(bits)} likelihoods are not finite: the solver "
            "failed; is the model trained?"
        )
    return BitsPerDim(bits.mean(), bits.std(ddof=1) / np.sqrt(len(bits)), round(np.mean(nfes)))
