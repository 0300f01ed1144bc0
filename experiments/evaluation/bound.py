"""The variational bound on test data, and Analytic-DPM's variance from training data."""

import math
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Float

import models
import sde_lib
from experiments import build
from experiments.data import confidence, data
from experiments.evaluation import held_out
from experiments.pipeline import cascade, conditions, scores
from experiments.runs import parts, sharding
from models.config import Config
from sde_lib import AnalyticVariance, analytic_variance, variational

LEAST, VALUES = 256, 1 << 14  # samples, and values of them all, that a variance is taken from


class Bound(NamedTuple):
    """Means over a set in bits/dim: of the whole, with its standard error, and of each part.

    diffusion: [bound_steps - 1], of the steps to the levels 0, 1, ...
    """

    mean: float
    error: float
    prior: float
    diffusion: Float[np.ndarray, " steps"]
    reconstruction: float


def log_snrs(config: Config) -> Float[np.ndarray, " levels"]:
    """Of the chain's levels. Raises ValueError unless it has config.eval.bound_steps."""
    n_levels = None if config.training.continuous else config.model.num_scales
    return variational.chain(build.make_sde(config), config.eval.bound_steps, n_levels)


def bits_per_dim(
    config: Config,
    model: nn.Module,
    params: Any,
    dataset: data.Dataset,
    variance: variational.Variance,
    part: parts.Part = parts.always,
) -> Bound:
    """The bound of dataset.test, every sample once in each of config.eval.n_repeats passes.

    In float32, whatever config.model.dtype is. Where the model was trained on dequantised data, it
    is that of their density, as likelihood's; otherwise that of the grey levels themselves.

    Raises:
        FloatingPointError: a term is not finite.
    """
    sde, mesh, levels = build.make_sde(config), sharding.make_mesh(config), log_snrs(config)
    dequantize, interval = config.data.uniform_dequantization, data.data_range(config)
    grey, shape = None if dequantize else dataset.levels, dataset.test.shape[1:]

    def bits(nats: jax.Array, width: int | None = None) -> jax.Array:
        return sde_lib.bits_per_dim(-nats, shape, interval, width)

    @jax.jit
    def batch(params, key, values, first_index):
        x, told = values
        x = data.to_model_space_each(config, dataset.levels, key, x, first_index, dequantize)
        told |= cascade.told_of(config, key, x, first_index, config.sampling.low_res_noise)
        score_fn = scores.score_fn(config, sde, models.in_float32(model), mesh, params, told)
        prior, diffusion, reconstruction = sde_lib.variational_bound(
            key, sde, score_fn, x, levels, variance, interval, grey, first_index
        )
        return {
            "prior": bits(prior),
            "diffusion": bits(diffusion),
            "reconstruction": bits(reconstruction, dataset.levels if dequantize else None),
        }

    values = held_out.values(config, dataset)
    result = parts.passes(config, mesh, values, partial(batch, params), part)
    total = result["prior"] + result["diffusion"].sum(axis=1) + result["reconstruction"]
    if not np.isfinite(total).all():
        raise FloatingPointError(
            f"{np.sum(~np.isfinite(total))} of {len(total)} bounds are not finite: is the model "
            "trained?"
        )
    means = {name: terms.mean(axis=0) for name, terms in result.items()}
    return Bound(total.mean(), total.std(ddof=1) / np.sqrt(len(total)), **means)


def variance_of(
    config: Config, model: nn.Module, params: Any, workdir: Path | None = None
) -> variational.Variance:
    """That of a model's own steps: learned, or else Analytic-DPM's."""
    if config.model.learned_variance:
        return "learned"
    return analytic(config, model, params, workdir)


def analytic(
    config: Config, model: nn.Module, params: Any, workdir: Path | None = None
) -> AnalyticVariance:
    """Analytic-DPM's variance at the levels of log_snrs(config), by some of the training data.

    It is computed once for a run's parameters, and kept in the run's folder if that is given.
    """
    sde, mesh, levels = build.make_sde(config), sharding.make_mesh(config), log_snrs(config)
    kept = parts.always
    if workdir is not None:
        inputs = [config.seed, levels, params, cascade.given(config)]
        kept = parts.Parts(workdir / "analytic_variance", "step", inputs)

    @partial(jax.jit, static_argnums=0)
    def batch(grey, params, values, first_index):
        (x, told), key = values, jax.random.key(config.seed)
        dequantize = config.data.uniform_dequantization
        x = data.to_model_space_each(config, grey, key, x, first_index, dequantize)
        told |= cascade.told_of(config, key, x, first_index, config.sampling.low_res_noise)
        score_fn = scores.score_fn(config, sde, model, mesh, params, told)
        about = key, sde, score_fn, x, levels, first_index
        squares, noise = analytic_variance.mean_squares(*about)
        return {"squares": squares, "noise": noise}

    def compute() -> parts.Arrays:
        dataset = data.load(config)
        if config.model.label_confidence:
            dataset = confidence.load(config, dataset)
        x, told = dataset.train, conditions.of_data(config, dataset, "train")
        n = min(len(x), max(LEAST, VALUES // math.prod(x.shape[1:])))
        rows = np.linspace(0, len(x) - 1, n).astype(int)
        values = jax.tree.map(lambda leaf: leaf[rows], (x, told))
        fn = partial(batch, dataset.levels, params)
        result = parts.over(mesh, values, config.eval.batch_size, fn)
        squares, noise = (result[name].mean(axis=0) for name in ("squares", "noise"))
        interval = None if dataset.levels is None else data.data_range(config)
        made = analytic_variance.from_squares(levels, squares, noise, interval)
        return {"unknown": np.asarray(made.unknown)}

    unknown = kept("unknown", compute)["unknown"]
    return AnalyticVariance(tuple(levels.tolist()), tuple(unknown.tolist()))


def make_sampler(config: Config, model: nn.Module, params: Any, workdir: Path | None) -> Any:
    """build.make_sampler, with the variance "analytic" computed."""
    given = config.sampling.variance == "analytic"
    return build.make_sampler(config, analytic(config, model, params, workdir) if given else None)
