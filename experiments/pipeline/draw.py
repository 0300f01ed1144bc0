"""Sampling from a trained model: how one sample is drawn, from its index to its values.

Sample i of a seed is one image: its noise, its conditions and, in a cascade, the smaller image that
it is made of depend on the seed and on i alone.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import samplers
from experiments.pipeline import analytic
from experiments.pipeline.cascade import smaller
from experiments.pipeline.model import TrainedModel
from experiments.runs import devices, progress


def make_draw(
    pipeline: TrainedModel, size: int, n_frames: int = 0
) -> Callable[[int], samplers.Samples]:
    """A function draw(first_index) of `size` samples in model space.

    The batch is split over all devices; `size` is rounded up to what they divide. It is compiled
    once for a model, whatever its weights and seed (TrainedModel.program).

    Args:
        pipeline: the trained model.
        size: samples in a batch.
        n_frames: states to record along the way.
    """
    size = devices.round_up(pipeline.mesh, size)
    batch = pipeline.program(_batch, analytic.resolved_sampler(pipeline), size, n_frames)
    guide_params = [guide.params for guide in pipeline.guides]
    smaller_images = _make_smaller_images(pipeline, size)

    def draw(first_index: int) -> samplers.Samples:
        indices = first_index + np.arange(size)
        conditions = pipeline.sample_conditions(indices) | smaller_images(indices)
        return batch(pipeline.params, guide_params, pipeline.key, conditions, first_index)

    return draw


def _batch(pipeline: TrainedModel, sampler: Any, size: int, n_frames: int) -> Callable:
    """The function of weights, key, conditions and first index that draws a batch."""
    sde = pipeline.sde
    shape = sde.state_shape((size, *pipeline.shape))

    def batch(params, guide_params, key, conditions, first_index):
        indices = first_index + jnp.arange(size)
        if pipeline.super_resolution:
            smaller = conditions.pop("smaller")
            conditions |= pipeline.super_resolution.of_smaller(key, smaller, first_index)

        score_fn = pipeline.conditional_score(params, conditions)
        scores = pipeline.guided(score_fn, guide_params, indices)
        states = sampler(key, sde, scores, shape, first_index, n_frames)
        return states._replace(x=sde.data_of(states.x), path=sde.data_of(states.path))

    return batch


def draw_all(
    pipeline: TrainedModel, n: int, first_index: int = 0, title: str = "sampling"
) -> tuple[np.ndarray, int]:
    """n samples in model space, and the network evaluations of each.

    They are drawn in batches of pipeline.batch_size.

    Raises:
        FloatingPointError: a sample is not finite.
    """
    size = min(pipeline.batch_size, n)
    draw = make_draw(pipeline, size)
    results = []
    for first in progress.track(range(0, n, size), title):
        result = draw(first_index + first)
        results.append((devices.fetch(result.x)[:size], int(result.nfe)))
    x = np.concatenate([rows for rows, _ in results])[:n]
    check_finite(x)
    return x, max(nfe for _, nfe in results)


def draw_paths(pipeline: TrainedModel, n: int, n_frames: int) -> np.ndarray:
    """The first samples along their way, [n_frames + 1 at most, n, ...]: the prior comes first."""
    sampler = pipeline.sampler
    steps = getattr(sampler, "n_steps", getattr(sampler, "n_levels", n_frames + 1))
    n_moves = getattr(sampler, "n_moves", steps - 1)
    with progress.working("paths of samples"):
        path = make_draw(pipeline, n, min(n_frames, n_moves))(0).path
        frames, sde = devices.fetch(path)[:, :n], pipeline.sde
    prior = sde.data_of(sde.prior_sample(pipeline.key, sde.state_shape(frames.shape[1:])))
    return np.concatenate([prior[None], frames])


def smaller_images(pipeline: TrainedModel, n: int) -> np.ndarray:
    """The images that the first n samples of a super-resolution model are made of."""
    size = devices.round_up(pipeline.mesh, n)
    return devices.fetch(_make_smaller_images(pipeline, size)(np.arange(size))["smaller"])[:n]


def check_finite(x: Any) -> None:
    """Raises FloatingPointError for samples that are not finite."""
    if not np.isfinite(x).all():
        raise FloatingPointError(
            "samples are not finite: take more steps (config.sampling.n_steps) or another sampler"
        )


def _make_smaller_images(
    pipeline: TrainedModel, size: int
) -> Callable[[np.ndarray], dict[str, Any]]:
    """A function of indices that gives the images for super-resolution as "smaller"; {} without it.

    They are samples of the base model or, without one, test images in turn, with their classes if
    the model has some. Samples are not rounded to grey levels: means of images are not either.
    """
    super_resolution, scaling = pipeline.super_resolution, pipeline.scaling
    if super_resolution is None:
        return lambda indices: {}
    if pipeline.base is not None:
        draw = make_draw(pipeline.base, size)
        ends = scaling.range if scaling.levels else (None, None)
        return lambda indices: {"smaller": jnp.clip(draw(int(indices[0])).x, *ends)}
    dataset = pipeline.dataset()
    conditions = pipeline.conditions.from_data(dataset, "test")

    @jax.jit
    def shrink(images, first_index):
        x = scaling.to_model_each(pipeline.key, images, first_index)
        return smaller(x, super_resolution.size)

    def in_turn(indices: np.ndarray) -> dict[str, Any]:
        rows = indices % len(dataset.test)
        own = {name: values[rows] for name, values in conditions.items()}
        return own | {"smaller": shrink(dataset.test[rows], indices[0])}

    return in_turn
