"""Edits of samples in model space, a batch at a time."""

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.latents import Decoder
from experiments.data.lazy_arrays import check_finite
from experiments.pipeline import analytic, draw, guidance
from experiments.pipeline.edit import masks
from experiments.pipeline.edit.masks import Weight
from experiments.pipeline.edit.options import Edit
from experiments.pipeline.edit.tasks import TASKS, Job
from experiments.pipeline.guidance import Clip
from experiments.pipeline.model import TrainedModel
from experiments.runs import devices, progress
from models.config import data_kind
from samplers import strength
from samplers.posterior import ScoreMethod
from samplers.windows import windowed
from sde_lib.batch import fold_in, normal, sample_keys

CONTENT = 1 << 23  # folded into a sample's key: no other draw has this number
ON_CPU = 16  # results at a time, so that progress shows


def edit_samples(
    pipeline: TrainedModel,
    x: np.ndarray,
    options: Edit,
    weights: Weight | None = None,
    rows: np.ndarray | None = None,
    images: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """The columns of an edit's picture, by their titles, for samples x [N, ...] in model space.

    Args:
        pipeline: the model, with its conditions and its guidance.
        x: the samples.
        options: the edit.
        weights: [N, H, W, 1] of results in the samples, of "inpaint".
        rows: numbers of the samples in the test set, which has conditions for them; None: they are
            others.
        images: [N, H, W, C] in the decoder's model space, that x are latents of, and that are
            measured; None: the decoded x.

    Raises:
        ValueError: a model or data that cannot be edited so.
        FloatingPointError: a result is not finite.
    """
    check(pipeline, options)
    decoder = _decoder(pipeline, options)
    pairs = int(options.task == "interpolate")
    _check_samples(pipeline, x, options, 1 + pairs)
    pipeline = _labelled(pipeline, rows)
    x, weights = _framed(pipeline, x, options, weights)
    init = _initial(pipeline, x, options, weights)
    batch = pipeline.program(_batch, options, analytic.resolved_sampler(pipeline), decoder)
    pixels, decoder_params = x, None
    if decoder:
        pixels = decoder.decode(x) if images is None else images
        decoder_params = decoder.autoencoder.params
    guide_params = [guide.params for guide in pipeline.guides if not isinstance(guide, Clip)]
    conditions = pipeline.conditions.for_edits(len(x), rows, pipeline.dataset)

    def arguments(first: int, size: int) -> tuple:
        chosen = np.minimum(first + np.arange(size + pairs), len(x) - 1)
        values = jax.tree.map(lambda leaf: leaf[chosen], (conditions, x, init, weights, pixels))
        about = pipeline.weights, guide_params, decoder_params, pipeline.key
        return *about, values, chosen, first * options.n_results + options.first_result

    n, results = len(x) - pairs, []
    size = _size(pipeline, n, options, lambda size: batch.lower(*arguments(0, size)))
    for first in progress.track(range(0, n, size), options.task):
        columns = devices.fetch(batch(*arguments(first, size)))
        results.append({title: rows[: n - first] for title, rows in columns.items()})
    columns = {title: np.concatenate([row[title] for row in results]) for title in results[0]}
    made = [column for title, column in columns.items() if title != "given"]  # it may have gaps
    if not all(np.isfinite(column).all() for column in made):
        raise FloatingPointError("results are not finite: take more steps, or another sampler")
    return columns


def _batch(
    pipeline: TrainedModel, options: Edit, sampler: Any, decoder: Decoder | None
) -> Callable:
    """The function that edits a batch of images, and gives columns."""
    clips = [guide for guide in pipeline.guides if isinstance(guide, Clip)]
    others = tuple(guide for guide in pipeline.guides if not isinstance(guide, Clip))
    guided, sde = pipeline.replace(guides=others), pipeline.sde

    def edit_batch(
        params, guide_params, decoder_params, key, values, indices, first_index
    ) -> dict[str, jax.Array]:
        conditions, x, init, weight, pixels = values
        conditions = pipeline.complete(conditions, key, init, indices[0])

        def scores(rows: np.ndarray) -> Any:
            own = jax.tree.map(lambda leaf: leaf[rows], conditions)
            made = guided.guided(guided.conditional_score(params, own), guide_params, indices[rows])
            if options.task != "outpaint":
                return made
            spread = partial(windowed, window=pipeline.shape[:2], overlap=options.overlap)
            return jax.tree.map(spread, made)

        def clip(made: Any) -> Any:
            return guidance.apply(clips, made, [()] * len(clips), sde, indices)

        about = sampler, sde, scores, clip, pipeline.flow_tolerances()
        coder = None
        if decoder:
            ways = decoder.encoded, decoder.decoded
            coder = tuple(partial(way, decoder_params) for way in ways)
        job = Job(options, key, *about, init, weight, first_index, pixels, coder)
        return OrderedDict(TASKS[options.task].run(job, x))  # jit would sort a dict

    return edit_batch


def _framed(
    pipeline: TrainedModel, x: np.ndarray, options: Edit, weights: Weight | None
) -> tuple[np.ndarray, Weight | None]:
    """The samples, in a larger frame if they are outpainted; and the weights of results in them."""
    if options.task == "outpaint":
        widths = extent(pipeline, options)
        return framed(x, widths, options.mask_blur if pipeline.decoder is None else 0.0)
    if options.task != "inpaint":
        return x, None
    assert weights is not None
    return x, weights


def framed(x: np.ndarray, widths: tuple[int, ...], blur: float) -> tuple[np.ndarray, Weight]:
    """Images in a frame of 0 of these widths at the (top, right, bottom, left), and the weights."""
    top, right, bottom, left = widths
    margins = [(0, 0), (top, bottom), (left, right), (0, 0)]
    inside = np.pad(np.ones(x.shape[1:3], bool), margins[1:3])
    weights = masks.weight(inside, blur=blur)
    masks.check(weights, "config.edit.extend")
    return np.pad(x, margins), np.broadcast_to(weights, (len(x), *weights.shape))


def default_extent(pipeline: TrainedModel) -> tuple[int, ...]:
    """Half of the width of the model's images at the left and at the right, in pixels."""
    half = pipeline.image_shape[1] // 2
    return 0, half, 0, half


def extent(pipeline: TrainedModel, options: Edit) -> tuple[int, ...]:
    """The widths of the new frame at the (top, right, bottom, left), in model space.

    Raises:
        ValueError: widths that are no whole numbers of latents.
    """
    factor = pipeline.image_shape[0] // pipeline.shape[0]
    widths = options.extend or default_extent(pipeline)
    if any(width % factor for width in widths):
        raise ValueError(
            f"config.edit.extend is {widths}, and a latent of this model covers {factor} pixels: "
            f"give multiples of {factor}"
        )
    return tuple(width // factor for width in widths)


def _initial(
    pipeline: TrainedModel, x: np.ndarray, options: Edit, weights: Weight | None
) -> np.ndarray:
    """The images that samples start from, for a strength below 1, and that conditions are made of.

    So a model that sees images made of the samples does not see what is to be made anew.
    """
    if weights is None or (options.content == "original" and options.task != "outpaint"):
        return x
    if options.content == "noise":
        keys = fold_in(sample_keys(pipeline.key, len(x)), CONTENT)
        return np.where(weights > 0, np.asarray(normal(keys, x.shape)), x)
    return masks.filled(x, weights)


def _size(pipeline: TrainedModel, n: int, options: Edit, lower: Callable[[int], Any]) -> int:
    """The number of images to edit at a time, of n, by lower(size), the program of a batch."""
    n_states = options.n_results * getattr(options.method, "n_particles", 1)  # of an image
    size = draw.size_of(pipeline, n, lower, n_states)
    on_cpu = pipeline.mesh.devices.flat[0].platform == "cpu"
    return min(size, max(1, ON_CPU // n_states)) if on_cpu else size


def check(pipeline: TrainedModel, options: Edit) -> None:
    """Raises ValueError for a model or data that cannot be edited so."""
    task, field = TASKS[options.task], f"config.edit.task = {options.task!r}"
    pipeline.check_diffuses_data(field)
    if not pipeline.sde.is_scalar:
        raise ValueError(
            f"mode edit does not know the SDE {type(pipeline.sde).__name__}, whose states are more "
            "than images: take a model of another SDE"
        )
    if "strength" in task.options:
        strength.part(pipeline.sampler, pipeline.sde, options.share, options.noise_level)
    if not task.images:
        return
    pipeline.check_complete(field)
    if len(pipeline.shape) != 3:
        raise ValueError(
            f"the data are {data_kind(pipeline.shape)}: mode edit needs images, but for "
            "config.edit.task='impute', which fills in missing values"
        )
    linear_alone = options.method.linear and not isinstance(options.method, ScoreMethod)
    if linear_alone and _decoder(pipeline, options):
        raise ValueError(
            f"config.edit.posterior = {options.posterior!r} takes linear operators, and {field} "
            "measures the pixels of latents, whose decoder is not linear: take 'moment_matching', "
            "which takes its tangent"
        )
    if task.colours and pipeline.image_shape[-1] == 1:
        raise ValueError(f"the data have no colours: {field} needs them")
    _check_sides(pipeline, options)


def _decoder(pipeline: TrainedModel, options: Edit) -> Decoder | None:
    """The decoder of the pixels that the task measures; None: they are the samples, or none are."""
    return pipeline.decoder if TASKS[options.task].operator else None


def _check_samples(pipeline: TrainedModel, x: np.ndarray, options: Edit, least: int) -> None:
    if x.shape[1:] != pipeline.shape:
        raise ValueError(
            f"the samples to edit have the shape {x.shape[1:]}, those of the model have "
            f"{pipeline.shape}: give image files, or images of 0 to 255 (uint8), which are resized"
        )
    if len(x) < least:
        raise ValueError(
            f"config.edit.images: {len(x)} image, and config.edit.task = {options.task!r} needs at "
            f"least {least}"
        )
    check_finite(x, "the samples to edit", "sample {}".format, missing=options.task == "impute")


def _check_sides(pipeline: TrainedModel, options: Edit) -> None:
    sides = pipeline.image_shape[:2]
    if options.task == "super_resolution" and any(side % options.factor for side in sides):
        raise ValueError(
            f"config.edit.factor is {options.factor}: it must divide the sides of the model's "
            f"images, {sides}"
        )
    if options.task != "outpaint":
        return
    extent(pipeline, options)
    seen: Sequence[str] = [kind for kind in pipeline.conditions.kinds if kind == "image"]
    if seen or pipeline.super_resolution:
        raise ValueError(
            "config.edit.task = 'outpaint' makes the frame larger, but the model is conditioned on "
            "images of its own size: take a model without that condition"
        )


def _labelled(pipeline: TrainedModel, rows: np.ndarray | None) -> TrainedModel:
    """The model with guides to the classes of test images, where no class is asked for.

    Raises:
        ValueError: a classifier guides images of unknown classes.
    """
    guides: Any = pipeline.guides
    unset = [g for g in guides if getattr(g, "n_classes", 0) and not g.labels]
    if not unset:
        return pipeline
    labels = None if rows is None else pipeline.dataset().test_labels
    if labels is None:
        raise ValueError(
            f"config.guidance: {type(unset[0]).__name__} guides to a class, and that of the images "
            "is not known: give config.sampling.label"
        )
    known = {"labels": tuple(np.asarray(labels)[rows].tolist())}
    labelled = (dataclasses.replace(g, **known) if g in unset else g for g in guides)
    return pipeline.replace(guides=tuple(labelled))


def impute(
    pipeline: TrainedModel, x: np.ndarray, options: Edit, rows: np.ndarray | None = None
) -> np.ndarray:
    """Samples [N, n_results, *shape] of the missing values, NaN in data x [N, *shape].

    Observed values are those of x themselves, in its own units. `rows` is as of `edit_samples`.

    Raises:
        ValueError: a model that cannot impute, or data with infinities or without observed values.
        FloatingPointError: a result is not finite.
    """
    z = pipeline.scaling.to_model(jax.random.key(0), jnp.asarray(x), dequantize=False)
    columns = edit_samples(pipeline, np.asarray(z), options, rows=rows)
    titles = [f"result {k + 1}" for k in range(options.n_results)]
    made = pipeline.to_data(np.stack([columns[title] for title in titles], axis=1))
    given = np.nan_to_num(x)[:, None].astype(made.dtype)
    return np.where(np.isnan(x)[:, None], made, given)
