"""Variational bounds of test data: of DDPM's chain, and of a model of grey levels (VDM)."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

import sde_lib
from experiments.pipeline import analytic
from experiments.pipeline.codec import CODEC
from experiments.pipeline.likelihood import exact_score_fn, grey_values, passes
from experiments.pipeline.model import TrainedModel
from experiments.runs import devices, parts
from sde_lib import variational
from sde_lib.noise_density import preserves_variance


class Bound(NamedTuple):
    """Means over a set in bits/dim: the bound with its standard error, and each of its parts.

    diffusion: [bound_steps - 1], of the steps to the levels 0, 1, ...
    """

    mean: float
    error: float
    prior: float
    diffusion: Float[np.ndarray, " steps"]
    reconstruction: float


def bits_per_dim(
    pipeline: TrainedModel,
    values: tuple[Any, Any],
    variance: variational.Variance,
    part: parts.Part = parts.always,
) -> Bound:
    """The bound of data, each sample once in each pass of pipeline.likelihood.n_repeats.

    The network computes in float32, whatever its dtype. Where the model was trained on dequantised
    data, it is the bound of their density; otherwise that of the grey levels themselves.

    Args:
        pipeline: the trained model.
        values: samples [N, ...] as the data set has them, and their conditions.
        variance: of the steps of the chain, whose levels are pipeline.chain().
        part: keeps finished parts.

    Raises:
        FloatingPointError: a term is not finite.
    """
    scaling, levels = pipeline.scaling, pipeline.chain()
    grey, shape = None if scaling.dequantize else scaling.levels, values[0].shape[1:]
    width = scaling.levels if scaling.dequantize else None

    def bits(nats: jax.Array, width: int | None = None) -> jax.Array:
        return sde_lib.bits_per_dim(-nats, shape, scaling.range, width)

    @jax.jit
    def batch(params, key, values, first_index):
        x, conditions = values
        x = scaling.to_model_each(key, x, first_index)
        score_fn = exact_score_fn(pipeline, params, key, x, conditions, first_index)
        prior, diffusion, reconstruction = sde_lib.variational_bound(
            key, pipeline.sde, score_fn, x, levels, variance, scaling.range, grey, first_index
        )
        return {
            "prior": bits(prior),
            "diffusion": bits(diffusion),
            "reconstruction": bits(reconstruction + scaling.log_volume(shape), width),
        }

    result = passes(pipeline, values, partial(batch, pipeline.params), part, "variational bound")
    total = result["prior"] + result["diffusion"].sum(axis=1) + result["reconstruction"]
    if not np.isfinite(total).all():
        raise FloatingPointError(
            f"{np.sum(~np.isfinite(total))} of {len(total)} bounds are not finite: is the model "
            "trained?"
        )
    means = {name: terms.mean(axis=0) for name, terms in result.items()}
    return Bound(total.mean(), total.std(ddof=1) / np.sqrt(len(total)), **means)


def continuous(
    pipeline: TrainedModel, values: tuple[Any, Any], part: parts.Part = parts.always
) -> dict[str, np.ndarray]:
    """The terms of VDM's bound (sde_lib.continuous_bound) of each sample, [N] in bits/dim by name.

    Each sample is evaluated at pipeline.bound_steps noise levels.
    """
    dims = math.prod(values[0].shape[1:])

    @jax.jit
    def batch(params, key, values, first_index):
        x, conditions = values
        x0, grey = grey_values(pipeline, x)
        score_fn = exact_score_fn(pipeline, params, key, x0, conditions, first_index)
        steps = pipeline.bound_steps
        about = key, pipeline.sde, score_fn, x0, grey, steps, first_index
        bound = sde_lib.continuous_bound(*about)
        return {name: nats / (dims * math.log(2)) for name, nats in bound._asdict().items()}

    return passes(pipeline, values, partial(batch, pipeline.params), part, "VDM's bound")


def cross_entropy(
    pipeline: TrainedModel, values: tuple[Any, Any], part: parts.Part = parts.always
) -> dict[str, np.ndarray]:
    """The terms of the bound of a model with a codec, of each sample, [N] in bits/dim by name.

    "latents" is the cross-entropy of the latents by denoising (sde_lib.cross_entropy), at
    pipeline.bound_steps noise levels; "data" is that of the data given the latents, less the
    latents' entropy: of a flow, minus its log-determinant.
    """
    codec, scaling, shape = pipeline.codec, pipeline.scaling, values[0].shape[1:]
    assert codec is not None
    levels, sde = None if codec.levels else scaling.levels, pipeline.sde
    important = preserves_variance(sde)

    @jax.jit
    def batch(params, key, values, first_index):
        x, conditions = values
        x = scaling.to_model_each(key, x, first_index, dequantize=codec.levels is None)
        score_fn = exact_score_fn(pipeline, params, key, x, conditions, first_index)
        own = devices.gather(pipeline.mesh, params[CODEC])
        encoded = codec.encode(own, sde, key, x, first_index)
        about = key, sde, score_fn, encoded.start, important, pipeline.bound_steps, first_index
        latents = sde_lib.cross_entropy(*about) / (math.prod(shape) * math.log(2))
        log_prob = encoded.log_ratio - scaling.log_volume(shape)
        return {
            "latents": latents,
            "data": sde_lib.bits_per_dim(log_prob, shape, scaling.range, levels),
        }

    return passes(pipeline, values, partial(batch, pipeline.params), part, "bound of latents")


def variance_of(pipeline: TrainedModel) -> variational.Variance:
    """The variance of the model's own steps: learned, or else Analytic-DPM's."""
    learned = pipeline.model.preconditioning.learned_variance
    return "learned" if learned else analytic.variance(pipeline)
