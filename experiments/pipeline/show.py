"""Pictures and files of a model's samples.

Every file is named by what made it: kind, step, sampler, guidance, seed and a digest of all that
decides on the samples. A .json beside it holds the settings, so nothing is overwritten unseen.
"""

import dataclasses
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.data.scaling import Scaling
from experiments.pipeline import draw
from experiments.pipeline.cascade import larger
from experiments.pipeline.edit import Edit
from experiments.pipeline.model import TrainedModel
from experiments.pipeline.pipeline import Pipeline
from experiments.runs import charts, devices, files, hosts, parts, pictures, progress

LOG = logging.getLogger(__name__)
GIVEN = ("original", "given", "from", "to")  # columns of an edit that are not results
N_FRAMES = 10
N_PATHS = 8
N_POINT_PATHS = 2000
N_LINES = 8
DENSITY_SIDE = 96
Drawn = tuple[Any, ...]
"""Samples in model space, the network evaluations of each, and log densities if the sampler has."""


def settings(pipeline: Pipeline, **details: Any) -> dict[str, Any]:
    """The settings that decide on samples, as JSON can hold them."""
    guides = [f"{type(guide).__name__}({_options(guide)})" for guide in pipeline.guides]
    members = [
        f"{type(member).__name__}({_options(member)})" for member in pipeline.conditions.members
    ]
    return {
        "run": str(pipeline.folder or ""),
        "step": pipeline.step,
        **({} if pipeline.ema_length is None else {"ema_length": pipeline.ema_length}),
        "seed": pipeline.seed,
        "sde": str(pipeline.sde),
        "sampler": str(pipeline.sampler),
        "classifier_free": str(pipeline.classifier_free),
        "autoguidance": str(pipeline.auto or ""),
        "guides": guides,
        "conditions": members,
        "super_resolution": str(pipeline.super_resolution or ""),
        "digest": pipeline.identity(),
        **details,
    }


def stem(pipeline: Pipeline, kind: str) -> str:
    """A file's name without its ending: KIND_STEP_SAMPLER[_GUIDANCE]_seedN_DIGEST."""
    sampler = type(pipeline.sampler).__name__
    n_steps = getattr(pipeline.sampler, "n_steps", "")
    guides = [type(guide).__name__.lower() for guide in pipeline.guides]
    if pipeline.classifier_free.changes(pipeline.conditions):
        guides.insert(0, f"cfg{pipeline.classifier_free.weight:g}")
    if pipeline.auto:
        guides.insert(0, f"auto{pipeline.auto.weight:g}")
    names = [kind, pipeline.version, f"{sampler}{n_steps}", *guides, f"seed{pipeline.seed}"]
    return "_".join([*names, pipeline.identity()[:6]])


def save_samples(pipeline: Pipeline, n: int, drawn: Drawn | None = None) -> Path:
    """Saves the picture of n samples: a grid of images, or other samples beside the data.

    Points in the plane are shown with the learned density, if the model has one, vectors by pairs
    of their first columns, series as lines, volumes by their middle slices. They are drawn here,
    unless they are given as draw.draw_all gives them.
    """
    x, nfe, *_ = drawn or draw.draw_all(pipeline, n)
    path, details = _path(pipeline, "samples", ".png"), {"n_samples": n, "nfe": nfe}
    if x.ndim > 3:
        images = _slices(pipeline.to_images(x), pipeline)
        about = _write_settings(pipeline, path, **details)
        return pictures.save_grid(path, images, math.ceil(math.sqrt(len(x))), about)
    dataset, few = pipeline.dataset(), len(x) if x.ndim == 2 else N_LINES
    rows = np.linspace(0, len(dataset.train) - 1, min(few, len(dataset.train))).astype(int)
    points = np.asarray(dataset.train[rows])
    if pipeline.shape != (2,) or pipeline.scaling.standardized:
        about = _write_settings(pipeline, path, **details)
        sets = {"data": points, "samples": pipeline.to_data(x[:few])}
        if x.ndim == 3:
            return charts.save_series(path, sets, about)
        return charts.save_pairs(path, sets, dataset.columns, about)
    half_width = 1.1 * float(np.abs(points).max())
    density = _density(pipeline, half_width) if pipeline.model.gives != "consistency" else None
    about = _write_settings(pipeline, path, **details)
    return charts.save_points(path, points, x, density, half_width, about)


def save_files(
    pipeline: Pipeline, n: int, single: bool, arrays: bool, drawn: Drawn | None = None
) -> list[Path]:
    """Saves n samples as single PNG files, as an .npz file, or both; see save_samples.

    The file also has their log densities, "log_prob" in nats, if the sampler gives them: those of
    the array "samples", in its units.
    """
    x, nfe, *log_prob = drawn or draw.draw_all(pipeline, n)
    made, images = [], x.ndim > 3
    if single and x.ndim == 4:
        folder = _path(pipeline, "samples", "")
        about = _write_settings(pipeline, folder, n_samples=n, nfe=nfe)
        folder.mkdir(parents=True, exist_ok=True)
        for k, image in enumerate(pipeline.to_images(x)):
            if hosts.is_first():
                pictures.save_image(folder / f"{k:06d}.png", pictures.to_picture(image), about)
        made.append(folder)
    if arrays:
        path = _path(pipeline, "samples", ".npz")
        _write_settings(pipeline, path, n_samples=n, nfe=nfe)
        shown = {"images": pipeline.to_images(x)} if images else {}
        scaling = pipeline.scaling
        if scaling.levels and scaling.dtype != np.uint8:
            shown["images"] = pipeline.to_data(x)
        if log_prob:
            shown["log_prob"] = log_prob[0] - scaling.log_volume(pipeline.shape)
        files.write_arrays(
            path, samples=pipeline.to_data(x) if scaling.standardized else x, **shown
        )
        made.append(path)
    return made


def made(pipeline: Pipeline, n: int, single: bool, arrays: bool) -> list[Path]:
    """The files that save_samples, save_paths and save_files make, if all are there; else []."""
    if pipeline.super_resolution and pipeline.base is None:
        return []  # they are made of test images, which their names do not tell
    found = [_path(pipeline, kind, ".png") for kind in ("samples", "path")]
    about = [pictures.read_provenance(path) for path in found]
    complete = [details.get("digest") == pipeline.identity() for details in about]
    complete.append(about[0].get("n_samples") == n)
    if single and len(pipeline.shape) == 3:
        found.append(_path(pipeline, "samples", ""))
        complete.append(len(list(found[-1].glob("*.png"))) == n)
    if arrays:
        found.append(_path(pipeline, "samples", ".npz"))
        complete.append(found[-1].exists() and len(np.load(found[-1])["samples"]) == n)
    return found if all(complete) else []


def save_paths(pipeline: Pipeline) -> Path:
    """The picture of a few samples on their way from the prior to the data."""
    path = _path(pipeline, "path", ".png")
    if len(pipeline.shape) == 1:
        frames = draw.draw_paths(pipeline, N_POINT_PATHS, N_FRAMES)[::2, ..., :2]
        if frames.shape[-1] == 1:  # each at a height of its own
            heights = np.broadcast_to(np.linspace(-1, 1, N_POINT_PATHS)[:, None], frames.shape)
            frames = np.concatenate([frames, heights], axis=-1)
        about = _write_settings(pipeline, path)
        return charts.save_point_path(path, frames, about)
    frames = draw.draw_paths(pipeline, N_PATHS, N_FRAMES)
    if len(pipeline.shape) == 2:
        about = _write_settings(pipeline, path)
        titles = ("noise", *(f"{k} / {N_FRAMES}" for k in range(1, len(frames))))
        sets = dict(zip(titles, frames, strict=True))
        return charts.save_series(path, sets, about, own_scales=True)
    scaling = None if pipeline.decoder else pipeline.scaling
    frames = _stretch(scaling, frames).swapaxes(0, 1)
    if pipeline.super_resolution:
        smaller = draw.smaller_images(pipeline, N_PATHS)
        frames = np.concatenate([larger(smaller, frames.shape[2])[:, None], frames], axis=1)
    image: Any = pipeline.conditions.kinds.get("image")
    if image and image.shape[-1] in (1, frames.shape[-1]):  # as many colours as the samples
        seen = image.for_samples(np.arange(N_PATHS), pipeline.dataset)["images"]
        shown = np.where(np.isnan(seen), sum(pipeline.scaling.range) / 2, seen)
        shown = np.broadcast_to(shown, frames[:, 0].shape)
        frames = np.concatenate([shown[:, None], frames], axis=1)
    images = _slices(pipeline.to_images(frames), pipeline)
    images = images.reshape(-1, *images.shape[2:])
    about = _write_settings(pipeline, path)
    return pictures.save_grid(path, images, frames.shape[1], about)


def save_edit(
    pipeline: Pipeline, columns: dict[str, Any], edit: Edit, names: Sequence[str] = ()
) -> Path:
    """Saves each result of an edit as a PNG file, and the picture of all columns, with titles.

    The names of the picture, and of the folder of the files beside it, have a digest of the edit
    and of the images.

    Args:
        pipeline: the model.
        columns: by their titles: samples [N, *shape] in model space, or images of 0 to 255, of any
            sizes.
        edit: the options.
        names: of the images; () for their numbers.
    """
    images = {title: _as_images(pipeline, column) for title, column in columns.items()}
    path = _path(pipeline, f"edit_{edit.task}", "")
    path = path.with_name(f"{path.name}_{parts.digest([edit, *images.values()])[:6]}")
    about = _write_settings(pipeline, path, edit=str(edit), images=list(names))
    for title in (title for title in images if title not in GIVEN):
        for k, image in enumerate(images[title]):
            name = "_".join([f"{k:03d}", *names[k : k + 1], title.replace(" ", "_")])
            pictures.save_image(path / f"{name}.png", pictures.to_picture(image), about)
    LOG.info("the results are in %s", path)
    rows = [image for row in zip(*images.values(), strict=True) for image in row]
    grid = path.with_name(f"{path.name}.png")
    return pictures.save_grid(grid, pictures.alike(rows), len(columns), about, list(columns))


def _as_images(pipeline: Pipeline, column: Any) -> Any:
    samples = isinstance(column, np.ndarray) and column.dtype != np.uint8
    return pipeline.to_images(column) if samples else column


def save_imputed(
    pipeline: Pipeline, rows: np.ndarray, given: np.ndarray, imputed: np.ndarray, edit: Edit
) -> list[Path]:
    """Saves data with missing values, NaN, and samples of these: an .npz file and a picture.

    Args:
        pipeline: the model.
        rows: numbers of the samples in the test set.
        given: [N, *shape] in the data's own units.
        imputed: [N, n_results, *shape], likewise.
        edit: the options.
    """
    path = _path(pipeline, "edit_impute", f"_{parts.digest([edit, given])[:6]}.png")
    about = _write_settings(pipeline, path, edit=str(edit), rows=rows.tolist())
    arrays = path.with_suffix(".npz")
    files.write_arrays(arrays, rows=rows, given=given, imputed=imputed)
    titles = [f"result {k + 1}" for k in range(imputed.shape[1])]
    if given.ndim == 2:
        names = pipeline.dataset().columns
        sets = {"observed": np.repeat(given, imputed.shape[1], axis=0)}
        sets |= {"imputed": imputed.reshape(-1, *given.shape[1:])}
        return [arrays, charts.save_pairs(path, sets, names, about)]
    if given.ndim == 3:
        sets = {"given": given} | {title: imputed[:, k] for k, title in enumerate(titles)}
        return [arrays, charts.save_series(path, sets, about)]
    columns = np.concatenate([given[:, None].astype(np.float32), imputed], axis=1)
    key: Any = None  # nothing is drawn
    x = pipeline.scaling.to_model(key, jnp.asarray(columns), dequantize=False)
    images = _slices(pipeline.to_images(x), pipeline).reshape(-1, *pipeline.shape[-3:])
    return [arrays, pictures.save_grid(path, images, columns.shape[1], about, ["given", *titles])]


def _options(component: Any) -> str:
    """The fields of a component that are numbers or texts."""
    shown = {k: v for k, v in vars(component).items() if isinstance(v, (int, float, str, tuple))}
    return ", ".join(f"{name}={value!r}" for name, value in shown.items())


def _path(pipeline: Pipeline, kind: str, ending: str) -> Path:
    folder = pipeline.folder or Path()
    return folder / "samples" / (stem(pipeline, kind) + ending)


def _write_settings(pipeline: Pipeline, path: Path, **details: Any) -> dict[str, str]:
    """Writes the settings beside a file; returns them as metadata of a picture.

    It is called after everything that all processes compute together: a full disk stops one alone.
    """
    values = settings(pipeline, **details)
    name = path.name.removesuffix(".png").removesuffix(".npz")
    files.write_json(path.parent / f"{name}.json", values, default=str)
    return pictures.provenance(**values)


def _slices(images: np.ndarray, pipeline: Pipeline) -> np.ndarray:
    """The images themselves; of volumes [..., D, H, W, C], the middle slices."""
    if len(pipeline.shape) == 3:
        return images
    return images.take(pipeline.shape[0] // 2, axis=-4)


def _density(pipeline: Pipeline, half_width: float) -> np.ndarray:
    """The model's density of points on a square mesh."""
    ticks = jnp.linspace(-half_width, half_width, DENSITY_SIDE)
    points = jnp.stack(jnp.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
    log_prob = pipeline.program(_log_density)
    with progress.working("density"):
        density = np.exp(devices.fetch(log_prob(pipeline.params, pipeline.key, points)))
    return density.reshape(DENSITY_SIDE, DENSITY_SIDE)


def _log_density(pipeline: TrainedModel) -> Callable:
    """The function of weights, key and points that gives their log densities."""
    options = dataclasses.replace(pipeline.likelihood, probe="exact")

    def log_prob(params, key, points):
        score_fn = pipeline.model.score_fn(devices.gather(pipeline.mesh, params))
        score_fn = devices.spread(pipeline.mesh, score_fn)
        z, log_ratio = pipeline.encoded(params, key, points)
        return options.log_likelihood(key, pipeline.sde, score_fn, z).log_prob + log_ratio

    return log_prob


def _stretch(scaling: Scaling | None, frames: np.ndarray) -> np.ndarray:
    """Each frame's values moved to the data's range, so that exploding noise can be seen.

    Frames of latents, without a scaling, are divided by their standard deviation.
    """
    axes = tuple(range(1, frames.ndim))
    if scaling is None:
        return frames / np.maximum(1.0, frames.std(axes, keepdims=True))
    low, high = scaling.shown
    least, most = np.percentile(frames, [0.5, 99.5], axes, keepdims=True)  # not a lone outlier's
    least, most = np.minimum(least, low), np.maximum(most, high)
    return low + (high - low) * (frames - least) / (most - least)
