"""Sampling from a trained model: how one sample is drawn, from its index to its values.

Sample i of a seed is one image: its noise, its conditions and, in a cascade, the smaller image that
it is made of depend on the seed and on i alone.
"""

import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

import samplers
from experiments.pipeline import analytic
from experiments.pipeline.cascade import smaller
from experiments.pipeline.guidance import Classifier
from experiments.pipeline.labels import labels_in_turn
from experiments.pipeline.model import TrainedModel
from experiments.runs import devices, hosts, progress
from experiments.runs.long.segments import InSegments

LOG = logging.getLogger(__name__)
TRIAL = 8  # samples in the batch whose memory is measured
SHARE = 0.8  # of the free memory
MOST = 1024
MOST_ON_CPU = 64


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
    batch, arguments = _program(pipeline, size, n_frames)
    return lambda first_index: batch(*arguments(first_index))


def _program(
    pipeline: TrainedModel, size: int, n_frames: int = 0
) -> tuple[InSegments, Callable[[int], tuple]]:
    """The compiled function that draws a batch, and its arguments by the first sample's index."""
    batch = pipeline.program(make_batch, analytic.resolved_sampler(pipeline), size, n_frames)
    guide_params = [guide.params for guide in pipeline.guides]
    smaller_images = _make_smaller_images(pipeline, size)

    def arguments(first_index: int) -> tuple:
        indices = first_index + np.arange(size)
        conditions = pipeline.sample_conditions(indices) | smaller_images(indices)
        return pipeline.weights, guide_params, pipeline.key, conditions, first_index

    return batch, arguments


def make_batch(pipeline: TrainedModel, sampler: Any, size: int, n_frames: int) -> Callable:
    """The function of weights, key, conditions and first index that draws a batch."""
    sde = pipeline.sde
    shape = sde.state_shape((size, *pipeline.diffused_shape))

    def batch(params, guide_params, key, conditions, first_index):
        indices = first_index + jnp.arange(size)
        if pipeline.super_resolution:
            smaller = conditions.pop("smaller")
            conditions |= pipeline.super_resolution.of_smaller(key, smaller, first_index)

        score_fn = pipeline.conditional_score(params, conditions)
        scores = pipeline.guided(score_fn, guide_params, indices)
        source = pipeline.conditions.start(conditions)
        start = None if source is None else samplers.Start(source, sde.t_max)
        states = sampler(key, sde, scores, shape, first_index, n_frames, start)
        x, path, log_prob = pipeline.decoded(params, states.x), states.path, states.log_prob
        if log_prob is not None:
            log_prob += pipeline.encoded(params, key, x, first_index)[1]
        return states._replace(x=x, path=pipeline.decoded(params, path), log_prob=log_prob)

    return batch


def batch_size(pipeline: TrainedModel, n: int) -> int:
    """The number of samples to draw at a time, of n: a multiple of the number of devices.

    It is config.sampling.batch_size; for 0, as many as the free memory holds (`fitting`).
    """

    def lower(size: int) -> Any:
        program, arguments = _program(pipeline, size)
        return program.lower(*arguments(0))

    return devices.round_up(pipeline.mesh, size_of(pipeline, n, lower))


def size_of(pipeline: TrainedModel, n: int, lower: Callable[[int], Any], n_states: int = 1) -> int:
    """The number of samples to make at a time, of n, each of n_states states, such as particles.

    So many states are config.sampling.batch_size; for 0, as many samples as the free memory holds
    of the program lower(size) (`fitting`).
    """
    if pipeline.batch_size:
        return min(n, max(1, pipeline.batch_size // n_states))
    return min(n, fitting(pipeline.mesh, lower, n, n_states))


def fitting(mesh: Mesh, lower: Callable[[int], Any], n: int, n_states: int = 1) -> int:
    """The number of samples at a time that a SHARE of the free memory holds.

    XLA says what the program of a batch of TRIAL takes, whatever is in it: gradients, a decoder.
    The number is a power of two for each device, up to MOST states, or to MOST_ON_CPU on a CPU.

    Args:
        mesh: the devices.
        lower: lower(size) is the lowered program of a batch.
        n: samples in all.
        n_states: states of each sample, such as particles.

    Raises:
        ValueError: the memory does not hold one sample a device.
    """
    most = MOST_ON_CPU if mesh.devices.flat[0].platform == "cpu" else MOST
    most = max(1, most // n_states)
    trial = devices.round_up(mesh, min(max(1, TRIAL // n_states), n))
    with progress.working("memory of a batch"):
        memory: Any = lower(trial).compile().memory_analysis()
    taken = (memory.temp_size_in_bytes + memory.output_size_in_bytes) * mesh.size
    free = devices.free_bytes(mesh) * mesh.size
    fits = hosts.agree(int(min(SHARE * free * trial / taken, most * mesh.size)))
    if fits < mesh.size:
        raise ValueError(
            f"a batch of {trial} samples takes {taken >> 20} MiB, and {free >> 20} MiB are free: "
            "free memory, take more devices or a smaller model, or set config.sampling.batch_size "
            "yourself"
        )
    size = (1 << ((fits // mesh.size).bit_length() - 1)) * mesh.size
    LOG.info("config.sampling.batch_size=0: batches of %d, by the free memory", min(size, n))
    return size


def ahead(draw: Callable[[int], Any], size: int, end: int) -> Callable[[int], Any]:
    """The function draw(first_index), for batches in turn: each starts before the last is used.

    So the devices draw the next batch while the host reads, decodes and saves this one.
    """
    started: dict[int, Any] = {}

    def draw_ahead(first: int) -> Any:
        result = started.pop(first) if first in started else draw(first)
        if first + size < end:
            started[first + size] = draw(first + size)
        return result

    return draw_ahead


def draw_all(
    pipeline: TrainedModel, n: int, first_index: int = 0, title: str = "sampling"
) -> tuple[Any, ...]:
    """n samples in model space, and the network evaluations of each.

    If the sampler gives log densities (ProbabilityFlow.log_prob), these are third, [n] in nats.

    Raises:
        FloatingPointError: a sample is not finite.
    """
    size = batch_size(pipeline, n)
    end, results = first_index + n, []
    draw = ahead(make_draw(pipeline, size), size, end)
    for first in progress.track(range(first_index, end, size), title):
        result = draw(first)
        log_prob = () if result.log_prob is None else (devices.fetch(result.log_prob),)
        results.append((int(result.nfe), devices.fetch(result.x), *log_prob))
    nfe, *columns = zip(*results, strict=True)
    x, *log_prob = (np.concatenate(rows)[:n] for rows in columns)
    check_finite(x)
    return x, max(nfe), *log_prob


def draw_paths(pipeline: TrainedModel, n: int, n_frames: int) -> np.ndarray:
    """The first samples along their way, [n_frames + 1 at most, n, ...]: the prior comes first."""
    sampler = pipeline.sampler
    steps = getattr(sampler, "n_steps", getattr(sampler, "n_levels", n_frames + 1))
    n_moves = getattr(sampler, "n_moves", steps - 1)
    with progress.working("paths of samples"):
        path = make_draw(pipeline, n, min(n_frames, n_moves))(0).path
        frames, sde = devices.fetch(path)[:, :n], pipeline.sde
    first = pipeline.conditions.start(pipeline.sample_conditions(np.arange(n)))
    if first is None:
        first = sde.prior_sample(pipeline.key, sde.state_shape((n, *pipeline.diffused_shape)))
    prior = pipeline.decoded(pipeline.params, first)
    return np.concatenate([devices.fetch(prior)[None], frames])


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


def classes(pipeline: TrainedModel, indices: np.ndarray) -> np.ndarray | None:
    """The classes that the samples of these indices are drawn to; None without classes."""
    for guide in pipeline.guides:
        if isinstance(guide, Classifier):
            return labels_in_turn(guide.labels, guide.n_classes, indices)
    return pipeline.sample_conditions(indices).get("class_labels")
