"""Analytic-DPM's variance of a model's steps, from training data (Bao et al. 2022)."""

import dataclasses
import math
from functools import partial
from typing import Any

import jax
import numpy as np

from experiments.pipeline.model import TrainedModel
from experiments.runs import devices, parts
from sde_lib import AnalyticVariance, analytic_variance

LEAST, VALUES = 256, 1 << 14  # samples, and values of all of them, that a variance is taken from


def variance(pipeline: TrainedModel) -> AnalyticVariance:
    """The variance at the noise levels of pipeline.chain(), by some of the training data.

    It is computed once for a run's parameters, and kept in the run's folder.
    """
    sde, mesh, levels, scaling = pipeline.sde, pipeline.mesh, pipeline.chain(), pipeline.scaling
    kept = parts.always
    if pipeline.folder is not None:
        inputs = [pipeline.seed, levels, pipeline.params, str(pipeline.super_resolution or "")]
        kept = parts.Parts(pipeline.folder / "analytic_variance", "step", inputs)

    @jax.jit
    def batch(params, values, first_index):
        (x, conditions), key = values, jax.random.key(pipeline.seed)
        x = scaling.to_model_each(key, x, first_index)
        conditions = pipeline.complete(conditions, key, x, first_index)
        x, _ = pipeline.encoded(params, key, x, first_index)
        params = devices.gather(mesh, params)
        score_fn = devices.spread(mesh, pipeline.model.score_fn(params, **conditions))
        about = key, sde, score_fn, x, levels, first_index
        squares, noise = analytic_variance.mean_squares(*about)
        return {"squares": squares, "noise": noise}

    def compute() -> parts.Arrays:
        dataset = pipeline.dataset()
        x, conditions = dataset.train, pipeline.conditions.from_data(dataset, "train")
        n = min(len(x), max(LEAST, VALUES // math.prod(x.shape[1:])))
        rows = np.linspace(0, len(x) - 1, n).astype(int)
        values = jax.tree.map(lambda leaf: leaf[rows], (x, conditions))
        fn, size = partial(batch, pipeline.params), pipeline.likelihood.batch_size
        result = parts.over(mesh, values, size, fn, title="variance of the steps")
        squares, noise = (result[name].mean(axis=0) for name in ("squares", "noise"))
        bounded = scaling.levels is not None and pipeline.codec is None
        interval = scaling.range if bounded else None
        made = analytic_variance.from_squares(levels, squares, noise, interval)
        return {"unknown": np.asarray(made.unknown)}

    unknown = kept("unknown", compute)["unknown"]
    return AnalyticVariance(tuple(levels.tolist()), tuple(unknown.tolist()))


def resolved_sampler(pipeline: TrainedModel) -> Any:
    """The model's sampler, with the variance "analytic" replaced by its values."""
    if getattr(pipeline.sampler, "variance", None) != "analytic":
        return pipeline.sampler
    return dataclasses.replace(pipeline.sampler, variance=variance(pipeline))
