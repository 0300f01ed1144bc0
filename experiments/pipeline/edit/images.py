"""Edits of images of any size: brought to the model's size, edited, and put back where they are.

An image becomes a view, which has the model's size: the whole image, cut and resized, or the part
around the mask (Edit.only_masked). The known part of the results is the image's own, exactly.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from experiments.pipeline.edit import files, masks, run
from experiments.pipeline.edit.files import Pixels
from experiments.pipeline.edit.masks import Weight
from experiments.pipeline.edit.options import Edit
from experiments.pipeline.edit.tasks import TASKS, measured
from experiments.pipeline.edit.views import (
    CUT,
    Fit,
    Known,
    Mask,
    around,
    known_of,
    load_mask,
    paste,
    smaller,
    squeezed,
    view,
)
from experiments.pipeline.model import TrainedModel
from samplers import strength

Columns = dict[str, list[Pixels]]
GREY = np.uint8(128)  # in place of what is not known


def edit(
    pipeline: TrainedModel,
    images: Any,
    options: Edit,
    mask: Mask = None,
    fit: Fit = CUT,
    rows: np.ndarray | None = None,
) -> dict[str, Any]:
    """The columns of an edit of samples in model space, of images of 0 to 255, or of files.

    Columns of samples are arrays like them. Those of images are arrays too, if they are of one
    size, and lists otherwise.

    Args:
        pipeline: the model, with its conditions and its guidance.
        images: floats [N, *shape], uint8 [N, H, W, C] or a list of uint8 [H, W, C], or paths.
        options: the edit.
        mask: the known part, an array; None: options.mask.
        fit: how images are brought to the model's size.
        rows: numbers of the images in the test set; None: they are others.

    Raises:
        ValueError: an edit that does not go with the images, the mask or the model.
        FloatingPointError: a result is not finite.
    """
    if mask is not None and options.task != "inpaint":
        raise ValueError(
            f"mask is given, but config.edit.task = {options.task!r} takes none: leave it out"
        )
    if isinstance(images, str | Path):
        images = [images]
    kinds = {_kind(each) for each in images} if hasattr(images, "__len__") else set()
    if kinds not in ({"path"}, {"array"}):
        raise ValueError(
            "images must be paths of files and folders, uint8 arrays [height, width, channels], or "
            "samples in model space: at least one, and all of one kind"
        )
    if kinds == {"path"}:
        check_model(pipeline)
        channels = pipeline.image_shape[-1]
        images = [each.pixels for each in files.read_images(images, channels, fit.background)]
    elif any(each.dtype != np.uint8 for each in images):
        return _samples(pipeline, np.asarray(images, np.float32), options, mask, rows)
    columns = edit_images(pipeline, images, options, mask, fit, rows)
    return {title: _stacked(column) for title, column in columns.items()}


def _kind(image: Any) -> str:
    if isinstance(image, str | Path):
        return "path"
    return "array" if hasattr(image, "dtype") else ""


def _samples(
    pipeline: TrainedModel, x: np.ndarray, options: Edit, mask: Mask, rows: np.ndarray | None
) -> dict[str, np.ndarray]:
    """The columns of an edit of samples in model space."""
    if options.only_masked:
        raise ValueError(
            "config.edit.only_masked is for image files and images of 0 to 255 (uint8), and these "
            "are samples in model space: give model.to_images(x)"
        )
    weights = None
    if options.task == "inpaint" and x.ndim == 4:
        run.check(pipeline, options)
        mask = load_mask(options.mask if mask is None else mask)
        about, sides = (options.mask_grow, options.mask_blur), pipeline.image_shape[:2]
        known = np.stack([known_of(mask, k, sides) for k in range(len(x))])
        weights = masks.as_weights(known, *about)
        if pipeline.decoder is not None:
            weights = masks.smaller(weights, pipeline.shape[:2])
    return run.edit_samples(pipeline, x, options, weights, rows)


def _stacked(column: list[Pixels]) -> Any:
    """Images of one size as an array."""
    alike = len({image.shape for image in column}) == 1
    return np.stack(column) if alike else column


def edit_images(
    pipeline: TrainedModel,
    images: Sequence[Pixels],
    options: Edit,
    mask: Mask = None,
    fit: Fit = CUT,
    rows: np.ndarray | None = None,
) -> Columns:
    """The columns of an edit, by their titles: images of 0 to 255.

    Args:
        pipeline: the model, with its conditions and its guidance.
        images: of any sizes, with the model's number of channels.
        options: the edit.
        mask: the known part; None: options.mask.
        fit: how images are brought to the model's size.
        rows: numbers of the images in the test set; None: they are others.

    Raises:
        ValueError: images, masks or a model that cannot be edited so.
        FloatingPointError: a result is not finite.
    """
    run.check(pipeline, options)
    check_model(pipeline)
    for k, image in enumerate(images):
        if np.ndim(image) != 3 or image.shape[-1] != pipeline.image_shape[-1]:
            raise ValueError(
                f"image number {k} has the shape {np.shape(image)}: it must be [height, width, "
                f"{pipeline.image_shape[-1]}], as the model's have"
            )
    sides, known, weights = pipeline.image_shape[:2], [], None
    if options.task == "inpaint":
        mask = load_mask(options.mask if mask is None else mask)
        known = [known_of(mask, k, image.shape[:2]) for k, image in enumerate(images)]
    if options.only_masked:
        return _only_masked(pipeline, images, options, known, fit, rows)
    views = np.stack([view(image, sides, options, fit) for image in images])
    if known:
        made = np.stack([smaller(~each, sides, fit.crop) for each in known])
        about = options.mask_grow, options.mask_blur
        weights = masks.as_weights(~made, *about)
    columns = edit_views(pipeline, views, options, weights, rows)
    return {title: list(column) for title, column in columns.items()}


def edit_views(
    pipeline: TrainedModel,
    views: UInt8[np.ndarray, "n h w c"],
    options: Edit,
    weights: Weight | None,
    rows: np.ndarray | None,
) -> dict[str, UInt8[np.ndarray, "n h w c"]]:
    """The columns of an edit of images at the model's size."""
    if options.task == "deblur" and options.degrade is None:
        options = dataclasses.replace(options, degrade=False)  # images are as they were taken
    small = weights
    if weights is not None and pipeline.decoder is not None:
        small = masks.smaller(weights, pipeline.shape[:2])
    x, decoder = pipeline.from_images(views), pipeline.decoder
    pixels = None if decoder is None else decoder.scaling.from_uint8(views)
    columns = run.edit_samples(pipeline, x, options, small, rows, pixels)
    shown = {title: pipeline.to_images(column) for title, column in columns.items()}
    if decoder is None:
        return shown
    if TASKS[options.task].operator:
        given = measured(options, jnp.asarray(pixels))[2]
        shown["given"] = decoder.scaling.to_uint8(np.asarray(given))
    if options.task == "outpaint":
        widths = options.extend or run.default_extent(pipeline)
        views, weights = run.framed(views, widths, options.mask_blur)
    return _as_given(pipeline, shown, views, options, weights)


def _as_given(
    pipeline: TrainedModel,
    shown: dict[str, np.ndarray],
    views: np.ndarray,
    options: Edit,
    weights: Weight | None,
) -> dict[str, np.ndarray]:
    """Decoded columns, with the images' own pixels where latents stand for known ones."""
    result = shown | {"original": views}
    if options.task == "interpolate":
        result = shown | {"from": views[:-1], "to": views[1:]}
    if weights is not None:
        result["given"] = np.where(weights == 0, views, GREY)
    results = [title for title in shown if title.startswith("result")]
    start = options.share, options.noise_level
    if results and strength.part(pipeline.sampler, pipeline.sde, *start).sampler is None:
        unchanged = result["given"] if TASKS[options.task].operator else views
        return result | dict.fromkeys(results, unchanged)
    if weights is None:
        return result
    return result | {title: paste(views, shown[title], weights) for title in results}


def _only_masked(
    pipeline: TrainedModel,
    images: Sequence[Pixels],
    options: Edit,
    known: list[Known],
    fit: Fit,
    rows: np.ndarray | None,
) -> Columns:
    """Results in images of any size, of which the model sees the part around the mask."""
    sides = pipeline.image_shape[:2]
    weights = [masks.weight(each, options.mask_grow, options.mask_blur) for each in known]
    for each in weights:
        masks.check(each, files.MASK)
    places = [around(each[..., 0] > 0, options.padding, sides) for each in weights]
    cut = list(zip(images, weights, places, strict=True))
    views = np.stack([squeezed(image[place], sides, fit) for image, _, place in cut])
    made = np.stack([smaller(each[place][..., 0] > 0, sides, "none") for _, each, place in cut])
    for each in made:
        masks.check(each, f"{files.MASK}, with config.edit.padding around it,")
    made = made.astype(np.float32)[..., None]
    columns = edit_views(pipeline, views, options, made, rows)
    given = [np.where(each == 0, image, GREY) for image, each, _ in cut]
    whole: Columns = {"original": list(images), "given": given}
    for title in (title for title in columns if title.startswith("result")):
        whole[title] = [np.array(image) for image in images]
        for result, (image, each, place), part in zip(
            whole[title], cut, columns[title], strict=True
        ):
            resized = squeezed(part, image[place].shape[:2], fit)
            result[place] = paste(image[place], resized, each[place])
    return whole


def check_model(pipeline: TrainedModel) -> None:
    """Raises ValueError for a model whose samples are no images of 0 to 255."""
    shape = pipeline.image_shape
    floats = pipeline.decoder is None and pipeline.scaling.levels is None
    if len(shape) != 3 or shape[-1] not in (1, 3) or floats:
        raise ValueError(
            f"{files.IMAGES} are for a model of grey or RGB images, and this one's samples are "
            f"{'floats' if floats else 'arrays'} of the shape {shape}: leave it out, for the test "
            "set; in Python, give samples in model space"
        )
