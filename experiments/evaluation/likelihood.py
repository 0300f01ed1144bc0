"""Mode likelihood: bits/dim of the test set by the probability-flow ODE; and VDM's bound."""

import math
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import models
import sde_lib
from experiments import build
from experiments.data import data
from experiments.evaluation import held_out
from experiments.pipeline import cascade, scores
from experiments.runs import parts, sharding
from models.config import Config


class BitsPerDim(NamedTuple):
    """Mean over a set, its standard error, and the solver's mean number of evaluations.

    given: what they are conditional on, if they are more than on classes and texts.
    """

    mean: float
    error: float
    nfe: int
    given: str = ""

    def __str__(self) -> str:
        given = self.given and f", given {self.given}"
        return f"{self.mean:.3f} +- {self.error:.3f} (nfe {self.nfe}{given})"


def name(config: Config) -> str:
    """Of the figure: bits of a density of latents compare with nothing but the same latents'."""
    return "test latent bits/dim" if config.data.autoencoder else "test bits/dim"


def bits_per_dim(
    config: Config,
    model: nn.Module,
    params: Any,
    dataset: data.Dataset,
    part: parts.Part = parts.always,
) -> BitsPerDim:
    """Bits/dim of dataset.test, every sample once in each of config.eval.n_repeats passes.

    In float32, whatever config.model.dtype is.

    The model is told what it takes of each sample. In each pass a sample is dequantised anew, by a
    key of its own; the error is that of the mean over samples. Uniform noise dequantises, but for
    the objective "vdm", whose model has never seen any: there its own least noise does, with its
    own density and decoder (sde_lib.encode_grey_levels). A super-resolution model is given the
    sample's own smaller image with config.sampling.low_res_noise. Without noise, that leaves x a
    subspace, where no density is bounded: such bits tell only how sharply the model knows it.

    Raises:
        FloatingPointError: a likelihood is not finite.
    """
    sde, mesh = build.make_sde(config), sharding.make_mesh(config)
    shape = dataset.test.shape[1:]

    @jax.jit
    def batch(params, key, values, first_index):
        x, told = values
        log_ratio, levels = 0.0, dataset.levels
        if config.training.objective == "vdm":
            x0, grey = _grey_levels(config, dataset, x)
            x, log_q, log_p = sde_lib.encode_grey_levels(key, sde, x0, grey, first_index)
            log_ratio, levels = log_p - log_q, None
        else:
            x = data.to_model_space_each(config, dataset.levels, key, x, first_index, True)
        noise = config.sampling.low_res_noise
        told |= cascade.told_of(config, key, x, first_index, noise)
        result = sde_lib.log_likelihood(
            key,
            sde,
            scores.score_fn(config, sde, models.in_float32(model), mesh, params, told),
            x,
            config.eval.rtol,
            config.eval.atol,
            config.eval.probe,
            config.eval.n_probes,
            first_index,
        )
        log_prob = result.log_prob + log_ratio
        bits = sde_lib.bits_per_dim(log_prob, shape, data.data_range(config), levels)
        return {"bits": bits, "nfe": jnp.full(bits.shape, result.nfe)}

    values = held_out.values(config, dataset)
    result = parts.passes(config, mesh, values, partial(batch, params), part)
    bits = result["bits"]
    if not np.isfinite(bits).all():
        raise FloatingPointError(
            f"{np.sum(~np.isfinite(bits))} of {len(bits)} likelihoods are not finite: the solver "
            "failed; is the model trained?"
        )
    error = bits.std(ddof=1) / np.sqrt(len(bits))
    return BitsPerDim(bits.mean(), error, round(result["nfe"].mean()), cascade.given(config))


def continuous_bound(
    config: Config,
    model: nn.Module,
    params: Any,
    dataset: data.Dataset,
    part: parts.Part = parts.always,
) -> dict[str, np.ndarray]:
    """The terms of sde_lib.continuous_bound, of a model of grey levels, [N] in bits/dim by name.

    At config.eval.bound_steps noise levels of each sample of dataset.test, as bits_per_dim does it.
    """
    sde, mesh = build.make_sde(config), sharding.make_mesh(config)
    dims = math.prod(dataset.test.shape[1:])

    @jax.jit
    def batch(params, key, values, first_index):
        x, told = values
        x0, grey = _grey_levels(config, dataset, x)
        told |= cascade.told_of(config, key, x0, first_index, config.sampling.low_res_noise)
        fn = scores.score_fn(config, sde, models.in_float32(model), mesh, params, told)
        steps = config.eval.bound_steps
        bound = sde_lib.continuous_bound(key, sde, fn, x0, grey, steps, first_index)
        return {name: nats / (dims * math.log(2)) for name, nats in bound._asdict().items()}

    values = held_out.values(config, dataset)
    return parts.passes(config, mesh, values, partial(batch, params), part)


def _grey_levels(config: Config, dataset: data.Dataset, x: jax.Array) -> tuple[jax.Array, Any]:
    """x in model space as it is, without noise, and all the values that it could have there."""
    assert dataset.levels
    to_space = partial(data.to_model_space, config, dataset.levels, jax.random.key(0))
    return to_space(x, False), to_space(jnp.arange(dataset.levels), False)
