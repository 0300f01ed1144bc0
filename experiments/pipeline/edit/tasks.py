"""The tasks of edits: TASKS names them.

A task is a function of a Job and of images x in model space, and gives columns of images by their
titles. Most give results that are samples: of the noised image (variations), given a measurement of
it (colours, larger images, sharper ones), or given a part of it (inpainting). Others follow the
probability flow.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import samplers
from samplers import editing, measurement, posterior
from samplers.base import Scores
from samplers.measurement import Operator
from samplers.strength import part
from sde_lib import SDE, missing
from sde_lib.batch import Batch

DECODED = 0.05  # least noise of pixels: no latent gives those of an image exactly
Columns = dict[str, Batch]
Rows = np.ndarray
"""Numbers of the images, among those of a job, that results are made of."""


@dataclasses.dataclass(frozen=True)
class Job:
    """The parts that a task needs inside jit.

    Attributes:
        options: an Edit.
        key: of samples.
        sampler: draws them.
        sde: the model's.
        scores: the guided scores of samples with the conditions of these images.
        finish: a change of the scores, after a measurement's: published models are clipped.
        tolerances: of the probability flow.
        init: [B, ...] what samples start from, for a strength below 1.
        weight: [B, H, W, 1] the weight of results in the images; None without a mask.
        first_index: of the first result.
        pixels: [B, H, W, C] what is measured: the samples, or the images that they are latents of.
        coder: (encode, decode) between pixels and latents; None for samples that are the pixels.
    """

    options: Any
    key: jax.Array
    sampler: Any
    sde: SDE
    scores: Callable[[Rows], Scores]
    finish: Callable[[Scores], Scores]
    tolerances: dict[str, Any]
    init: Batch
    weight: Batch | None
    first_index: Any
    pixels: Batch
    coder: Any

    def results(self, x: Batch) -> Rows:
        """The image of each result."""
        return np.repeat(np.arange(len(x)), self.options.n_results)

    def sample(self, x: Batch, operator: Any = None, y: Any = None) -> Batch:
        """n_results samples for each image, [B n_results, ...], given y of it if there is one."""
        rows, options = self.results(x), self.options
        init, scores = self.init[rows], self.scores(rows)
        rest, t = part(self.sampler, self.sde, options.share, options.noise_level)
        if rest is None:
            return init
        start = editing.start(self.key, self.sde, init, t, self.first_index)
        about = init.shape, self.first_index, start
        if operator is None:
            return self._draw(rest, scores, *about)
        method, noise = options.method, options.noise_std
        if self.coder:
            noise = max(noise, DECODED)
            method = posterior.Linearized(method) if method.linear else method
        if not isinstance(method, posterior.MomentMatching):  # it may change the sampling itself
            scores = self.finish(scores)
            scores = scores if isinstance(method, posterior.ScoreMethod) else _one(scores)
            draw = partial(method, self.key, rest, self.sde, scores)
            return draw(operator, y[rows], init.shape, noise, self.first_index, start).x
        scores = jax.tree.map(
            lambda fn: method.condition(self.sde, fn, operator, y[rows], noise), scores
        )
        return self._draw(rest, scores, *about)

    def _draw(
        self, sampler: Any, scores: Scores, shape: Any, first_index: Any, start: Any
    ) -> Batch:
        scores = self.finish(scores)
        return sampler(self.key, self.sde, scores, shape, first_index, start=start).x

    def columns(self, x: Batch, results: Batch) -> Columns:
        """The results of each image by their numbers."""
        results = results.reshape(len(x), -1, *x.shape[1:])
        return {f"result {k + 1}": results[:, k] for k in range(self.options.n_results)}


@dataclasses.dataclass(frozen=True)
class Task:
    """A task, and what it takes.

    Attributes:
        run: run(job, x) -> columns.
        options: names of the fields of Edit that it takes.
        operator: makes the operator that measures pixels, by an Edit; None: it measures none.
        colours: it needs images with colours.
        images: it is for images alone.
    """

    run: Callable[[Job, Batch], Columns]
    options: tuple[str, ...] = ()
    operator: Callable[[Any], Operator] | None = None
    colours: bool = False
    images: bool = True


def impute(job: Job, x: Batch) -> Columns:
    """Samples of the missing values, NaN in x, given the observed ones."""
    known, mask = missing.split_missing(x)
    many = mask[job.results(x)]
    results = job.sample(known, lambda x: many * x, known)
    known = known[job.results(x)]
    return {"given": x} | job.columns(x, jnp.where(many > 0, known, results))


def inpaint(job: Job, x: Batch) -> Columns:
    """Samples of a part of each image, given the rest; at the edge they pass into the image."""
    assert job.weight is not None
    weight = job.weight[job.results(x)]
    known = (weight == 0).astype(x.dtype)
    results = job.sample(x, lambda x: known * x, jnp.where(job.weight == 0, x, 0.0))
    results = weight * results + (1 - weight) * x[job.results(x)]
    return {"original": x, "given": jnp.where(job.weight == 0, x, 0.0)} | job.columns(x, results)


def measure(job: Job, x: Batch) -> Columns:
    """Samples given a measurement of each image; of latents, they are decoded and measured."""
    operator, y, given = measured(job.options, job.pixels)
    seen = operator
    if job.coder:
        encode, decode = job.coder
        given, seen = encode(given), lambda x: operator(decode(x))
    results = dataclasses.replace(job, init=given).sample(x, seen, y)
    return {"original": x, "given": given} | job.columns(x, results)


def measured(options: Any, images: Batch) -> tuple[Operator, Batch, Batch]:
    """The operator of an edit, the measurement of images, and that at the images' size."""
    make = TASKS[options.task].operator
    assert make is not None
    operator = make(options)
    y = images if options.task == "deblur" and options.degrade is False else operator(images)
    given = y
    for axis in (1, 2):
        given = given.repeat(images.shape[axis] // given.shape[axis], axis)
    return operator, y, jnp.broadcast_to(given, images.shape)


def variations(job: Job, x: Batch) -> Columns:
    """Samples that start from each image with noise: image to image."""
    return {"original": x} | job.columns(x, job.sample(x))


def reconstruct(job: Job, x: Batch) -> Columns:
    """Each image, taken to the prior and back by the probability flow."""
    rows = np.arange(len(x))
    return {"original": x, "decoded": _decode(job, rows, _encode(job, rows, x))}


def interpolate(job: Job, x: Batch) -> Columns:
    """Images between each image and the next, by their points of the prior.

    The conditions of those between two images are those of the first.
    """
    n_frames, rows = job.options.n_results, np.arange(len(x))
    latent = _encode(job, rows, x)
    weights = np.arange(1, n_frames + 1) / (n_frames + 1)
    frames = jnp.stack([editing.slerp(latent[:-1], latent[1:], w) for w in weights], axis=1)
    frames = _decode(job, np.repeat(rows[:-1], n_frames), frames.reshape(-1, *x.shape[1:]))
    frames = frames.reshape(-1, n_frames, *x.shape[1:])
    between = {f"{w:.2f}": frames[:, k] for k, w in enumerate(weights)}
    return {"from": x[:-1]} | between | {"to": x[1:]}


def _encode(job: Job, rows: Rows, x: Batch) -> Batch:
    return editing.encode(job.sde, _one(job.scores(rows)), x, **job.tolerances)


def _decode(job: Job, rows: Rows, latent: Batch) -> Batch:
    flow = samplers.ProbabilityFlow(**job.tolerances)
    start = samplers.Start(latent, job.sde.t_max)
    return flow(job.key, job.sde, _one(job.scores(rows)), latent.shape, start=start).x


def _one(scores: Scores) -> Any:
    """The score function of a method that does not tell the evaluations of a step apart."""
    if isinstance(scores, tuple):
        raise ValueError(
            "this edit does not tell the evaluations of a step apart: give the same "
            "config.guidance.discriminator.weight and weight_2nd_order"
        )
    return scores


SAMPLED = ("n_results", "strength", "noise_level")
POSTERIOR = ("n_iterations", "step_size", "data_std", "n_particles", "resample_below")
GIVEN = ("posterior", *POSTERIOR, "noise_std")
MEASURED = (*SAMPLED, *GIVEN)
MASKED = ("mask_blur", "content")
TASKS: dict[str, Task] = {
    "impute": Task(impute, ("n_results", *GIVEN), images=False),
    "inpaint": Task(
        inpaint,
        (*MEASURED, *MASKED, "mask", "mask_grow", "only_masked", "padding"),
    ),
    "outpaint": Task(inpaint, (*MEASURED, *MASKED, "extend", "overlap")),
    "colorize": Task(measure, MEASURED, lambda edit: measurement.grey, colours=True),
    "super_resolution": Task(
        measure,
        (*MEASURED, "factor", "degrade"),
        lambda edit: measurement.downsampling(edit.factor),
    ),
    "deblur": Task(
        measure, (*MEASURED, "blur", "degrade"), lambda edit: measurement.blur(edit.blur)
    ),
    "variations": Task(variations, SAMPLED),
    "reconstruct": Task(reconstruct),
    "interpolate": Task(interpolate, ("n_results",)),
}
