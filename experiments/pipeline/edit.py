"""Edits by a trained model: imputation, inpainting, colourisation, variations, interpolation.

TASKS names them; each is a function of (pipeline, score_fn, options, x, index of the first result)
that gives columns of images by their titles, each like x.
"""

import dataclasses
from collections import OrderedDict
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import samplers
from experiments.data.lazy_arrays import check_finite
from experiments.pipeline import draw
from experiments.pipeline.guidance import Clip
from experiments.pipeline.model import TrainedModel
from experiments.runs import devices, progress
from models.config import data_kind
from samplers import editing, measurement
from sde_lib import ScoreFn, missing
from sde_lib.batch import Batch
from sde_lib.checks import check_at_least, check_name, check_types

Columns = dict[str, Batch]


@dataclasses.dataclass(frozen=True)
class Edit:
    """An edit and its options.

    Attributes:
        task: a name in TASKS.
        n_results: results for each image, or between two of them.
        mask: of "inpaint": the part that is known, a name in MASKS.
        strength: of "variations": 0 changes nothing, 1 everything.
        n_iterations: of conjugate gradients, in "impute", "inpaint" and "colorize"; None: 1 in
            "impute", where more make a rough network worse (docs/guide.md), and 3.

    Raises:
        ValueError: an unknown task or mask, or an impossible number.
    """

    task: str = "inpaint"
    n_results: int = 6
    mask: str = "left"
    strength: float = 0.3
    n_iterations: int | None = None

    def __post_init__(self):
        check_types(self, "config.edit.")
        check_name("config.edit.task", self.task, TASKS)
        check_name("config.edit.mask", self.mask, MASKS)
        counts = {"n_results": self.n_results, "n_iterations": self.iterations}
        check_at_least(1, **{f"config.edit.{name}": count for name, count in counts.items()})
        if not 0 <= self.strength <= 1:
            raise ValueError(f"config.edit.strength is {self.strength}: it must lie in [0, 1]")

    @property
    def iterations(self) -> int:
        """Iterations of conjugate gradients."""
        if self.n_iterations is not None:
            return self.n_iterations
        return 1 if self.task == "impute" else 3


def edit(pipeline: TrainedModel, x: np.ndarray, options: Edit) -> dict[str, np.ndarray]:
    """The columns of an edit's picture, by their titles, for samples x [N, ...] in model space.

    Raises:
        ValueError: a model or data that cannot be edited so.
        FloatingPointError: a result is not finite.
    """
    check(pipeline, options)
    check_finite(x, "the samples to edit", "sample {}".format, missing=options.task == "impute")

    @jax.jit
    def compute(params, x, first_index):
        score_fn = pipeline.conditional_score(params, {})
        columns = TASKS[options.task](pipeline, score_fn, options, x, first_index)
        return OrderedDict(columns)  # jit would sort a dict

    pairs, n_results = options.task == "interpolate", options.n_results
    # The network's gradients, which measurements take, keep its activations.
    at_once = draw.batch_size(pipeline, len(x) * n_results, share=0.2)
    size = max(1, at_once // n_results)  # images at a time
    rows = [
        devices.fetch(compute(pipeline.params, x[k : k + size + pairs], k * n_results))
        for k in progress.track(range(0, len(x) - pairs, size), options.task)
    ]
    columns = {title: np.concatenate([row[title] for row in rows]) for title in rows[0]}
    made = [column for title, column in columns.items() if title != "given"]  # it may have gaps
    if not all(np.isfinite(column).all() for column in made):
        raise FloatingPointError("results are not finite: take more steps, or another sampler")
    return columns


def check(pipeline: TrainedModel, options: Edit) -> None:
    """Raises ValueError for a model or data that cannot be edited."""
    # Published models come with clipping. Edits are without it, as likelihoods are.
    if guides := [guide for guide in pipeline.guides if not isinstance(guide, Clip)]:
        name = type(guides[0]).__name__
        raise ValueError(f"config.guidance: {name} guides samples: leave it out of mode edit")
    if not pipeline.sde.is_scalar:
        raise ValueError(
            f"mode edit does not know the SDE {type(pipeline.sde).__name__}, whose states are more "
            "than images: take a model of another SDE"
        )
    if pipeline.conditions.members or pipeline.super_resolution:
        raise ValueError("mode edit needs an unconditional model, and this one has conditions")
    if getattr(pipeline.sampler, "variance", None) in ("learned", "analytic"):
        raise ValueError(
            f"mode edit does not know config.sampling.variance = {pipeline.sampler.variance!r}: "  # pyright: ignore
            "take 'posterior', or another method"
        )
    if options.task == "impute":
        return
    pipeline.check_complete(f"config.edit.task = {options.task!r}")
    if len(pipeline.shape) != 3:
        raise ValueError(
            f"the data are {data_kind(pipeline.shape)}: mode edit needs images, but for "
            "config.edit.task='impute', which fills in missing values"
        )
    if options.task == "colorize" and pipeline.decoder is not None:
        raise ValueError("config.edit.task = 'colorize' needs grey images, which latents have not")
    if options.task == "colorize" and pipeline.shape[-1] == 1:
        raise ValueError("the data have no colours: config.edit.task = 'colorize' needs them")


def impute(pipeline: TrainedModel, x: np.ndarray, options: Edit) -> np.ndarray:
    """Samples [N, n_results, *shape] of the missing values, NaN in data x [N, *shape].

    Observed values are those of x themselves, in its own units.

    Raises:
        ValueError: a model that cannot impute, or data with infinities or without observed values.
        FloatingPointError: a result is not finite.
    """
    z = pipeline.scaling.to_model(jax.random.key(0), jnp.asarray(x), dequantize=False)
    columns = edit(pipeline, np.asarray(z), options)
    titles = [f"result {k + 1}" for k in range(options.n_results)]
    made = pipeline.to_data(np.stack([columns[title] for title in titles], axis=1))
    given = np.nan_to_num(x)[:, None].astype(made.dtype)
    return np.where(np.isnan(x)[:, None], made, given)


def _impute(
    pipeline: TrainedModel, score_fn: ScoreFn, options: Edit, x: Batch, first_index: Any
) -> Columns:
    """Samples of the missing values, NaN in x, given the observed ones by moment matching."""
    known, mask = missing.split_missing(x)
    many = jnp.repeat(mask, options.n_results, axis=0)
    results = _measured(pipeline, score_fn, options, known, first_index, lambda x: many * x)
    known = jnp.repeat(known, options.n_results, axis=0)
    return {"given": x} | _results(options, x, jnp.where(many > 0, known, results))


def _inpaint(
    pipeline: TrainedModel, score_fn: ScoreFn, options: Edit, x: Batch, first_index: Any
) -> Columns:
    mask = MASKS[options.mask](*x.shape[1:3])
    return _measure(pipeline, score_fn, options, x, first_index, measurement.inpainting(mask))


def _colorize(
    pipeline: TrainedModel, score_fn: ScoreFn, options: Edit, x: Batch, first_index: Any
) -> Columns:
    return _measure(pipeline, score_fn, options, x, first_index, measurement.grey)


def _measure(
    pipeline: TrainedModel,
    score_fn: ScoreFn,
    options: Edit,
    x: Batch,
    first_index: Any,
    operator: Any,
) -> Columns:
    """The columns of samples given a linear measurement of x."""
    results = _measured(pipeline, score_fn, options, x, first_index, operator)
    given = jnp.broadcast_to(operator(x), x.shape)
    return {"original": x, "given": given} | _results(options, x, results)


def _measured(
    pipeline: TrainedModel,
    score_fn: ScoreFn,
    options: Edit,
    x: Batch,
    first_index: Any,
    operator: Any,
) -> Batch:
    """n_results samples given a linear measurement of each x, [B n_results, ...]."""
    many = jnp.repeat(x, options.n_results, axis=0)
    about = pipeline.sde, score_fn, operator, operator(many)
    conditioned = measurement.condition(*about, n_iterations=options.iterations)
    sampler: Any = pipeline.sampler
    return sampler(pipeline.key, pipeline.sde, conditioned, many.shape, first_index).x


def _variations(
    pipeline: TrainedModel, score_fn: ScoreFn, options: Edit, x: Batch, first_index: Any
) -> Columns:
    many = jnp.repeat(x, options.n_results, axis=0)
    about = pipeline.sampler, pipeline.key, pipeline.sde, score_fn, many
    results = editing.vary(*about, options.strength, first_index)
    return {"original": x} | _results(options, x, results)


def _reconstruct(
    pipeline: TrainedModel, score_fn: ScoreFn, options: Edit, x: Batch, first_index: Any
) -> Columns:
    latent = _encode(pipeline, score_fn, x)
    return {"original": x, "decoded": _decode(pipeline, score_fn, latent)}


def _interpolate(
    pipeline: TrainedModel, score_fn: ScoreFn, options: Edit, x: Batch, first_index: Any
) -> Columns:
    """Images between each image and the next, by their points of the prior."""
    n_frames, latent = options.n_results, _encode(pipeline, score_fn, x)
    weights = np.arange(1, n_frames + 1) / (n_frames + 1)
    frames = jnp.stack([editing.slerp(latent[:-1], latent[1:], w) for w in weights], axis=1)
    frames = _decode(pipeline, score_fn, frames.reshape(-1, *x.shape[1:]))
    frames = frames.reshape(-1, n_frames, *x.shape[1:])
    between = {f"{w:.2f}": frames[:, k] for k, w in enumerate(weights)}
    return {"from": x[:-1]} | between | {"to": x[1:]}


def _encode(pipeline: TrainedModel, score_fn: ScoreFn, x: Batch) -> Batch:
    return editing.encode(pipeline.sde, score_fn, x, **pipeline.flow_tolerances())


def _decode(pipeline: TrainedModel, score_fn: ScoreFn, latent: Batch) -> Batch:
    flow = samplers.ProbabilityFlow(**pipeline.flow_tolerances())
    start = samplers.Start(latent, pipeline.sde.t_max)
    return flow(pipeline.key, pipeline.sde, score_fn, latent.shape, start=start).x


def _results(options: Edit, x: Batch, results: Batch) -> Columns:
    results = results.reshape(len(x), -1, *x.shape[1:])
    return {f"result {k + 1}": results[:, k] for k in range(options.n_results)}


def _left(height: int, width: int) -> np.ndarray:
    return np.tile(np.arange(width) < width // 2, (height, 1))


def _around_centre(height: int, width: int) -> np.ndarray:
    inner = (np.abs(np.arange(side) - (side - 1) / 2) < side / 4 for side in (height, width))
    return ~np.outer(*inner)


MASKS = {"left": _left, "centre": _around_centre}
TASKS = {
    "impute": _impute,
    "inpaint": _inpaint,
    "colorize": _colorize,
    "variations": _variations,
    "reconstruct": _reconstruct,
    "interpolate": _interpolate,
}
