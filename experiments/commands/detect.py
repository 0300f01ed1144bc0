"""Mode detect: measures how well statistics of a model detect generated images.

Real images are those of the test set, or files (config.detect.real). Suspected ones are samples of
the model, or files (config.detect.suspected), a source for each folder. Both are compared as they
are and after the distortions of config.detect.distortions.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from PIL import ImageOps

from experiments.build import data, pipelines
from experiments.build.components import objectives
from experiments.build.fields import choices
from experiments.commands.request import Request
from experiments.data.dataset import Dataset
from experiments.evaluation.detect import detection
from experiments.evaluation.detect.detection import AUC, STATISTICS
from experiments.evaluation.detect.distortions import DISTORTIONS, distorted
from experiments.pipeline import draw, show
from experiments.pipeline.edit.files import listed, read_images, split
from experiments.pipeline.pipeline import Pipeline
from experiments.runs import card, charts, files, parts, pictures
from models.config import Config
from sde_lib.checks import check_at_least, check_name
from sde_lib.weighting import Weighting

LEAST = 2  # images of a set
REAL = "real"  # the name of the set of real images
WEIGHTINGS = {*choices.WEIGHTING.components} - {"elbo"}  # that one is of a chain's levels


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of the mode, config.detect.

    Attributes:
        n_images: images of each set, at most.
        n_steps: of Euler's method, there and back.
        statistics: names in STATISTICS.
        weighting: of the noise levels in "noise_loss", a name in sde_lib.weighting; "": equal.
        distortions: names in DISTORTIONS.
        real: files and folders of real images; "": the test set.
        suspected: files and folders; "": samples of the model.

    Raises:
        ValueError: an unknown name, an impossible number, or a weighting of nothing.
    """

    n_images: int
    n_steps: int
    statistics: tuple[str, ...]
    distortions: tuple[str, ...]
    weighting: str = ""
    real: str = ""
    suspected: str = ""

    def __post_init__(self):
        for name in ("n_images", "n_steps"):
            check_at_least(2, **{f"config.detect.{name}": getattr(self, name)})
        for field, known in (("statistics", STATISTICS), ("distortions", DISTORTIONS)):
            if not getattr(self, field):
                raise ValueError(f"config.detect.{field} is empty: give one or more of {[*known]}")
            for name in getattr(self, field):
                check_name(f"config.detect.{field}", name, known)
        if self.weighting:
            check_name("config.detect.weighting", self.weighting, WEIGHTINGS)
            if "noise_loss" not in self.statistics:
                raise ValueError(
                    f"config.detect.weighting is {self.weighting!r}, but config.detect.statistics "
                    "has no 'noise_loss': add it, or leave the weighting out"
                )


Curves = dict[str, np.ndarray]
"""ROC curves [points, 2] of a statistic, by source, distortion and area."""


class Images(NamedTuple):
    """A set of images: values as the data set has them, and their conditions."""

    values: Any
    conditions: dict[str, Any]


class Result(NamedTuple):
    """The area under a ROC curve."""

    source: str
    distortion: str
    statistic: str
    n_real: int
    n_suspected: int
    auc: AUC


def run(request: Request) -> None:
    """Prints the areas under the ROC curves; saves them, the curves, and each image's numbers.

    Raises:
        ValueError: an impossible option, or a model that cannot be used.
        FloatingPointError: a sample or its reconstruction is not finite.
    """
    options, model = Options(**request.config.detect.to_dict()), request.model()
    check_model(model, options)
    weights, folder = weighting(request.config, model, options.weighting), request.folder
    real, sources = sets(model, options, folder, request.config)
    results: list[Result] = []
    rows: list[tuple[Any, ...]] = []
    curves: dict[str, Curves] = {name: {} for name in options.statistics}
    for distortion in options.distortions:
        mine = numbers(model, real, options, distortion, "real images", weights)
        rows += table((REAL, distortion), mine)
        for source, images in sources.items():
            theirs = numbers(model, images, options, distortion, source, weights)
            for name in options.statistics:
                pair = mine[name], theirs[name]
                if name == "classifier":
                    pair = detection.cross_validated(*pair)
                auc = detection.auc(*pair)
                counts = len(pair[0]), len(pair[1])
                results.append(Result(source, distortion, name, *counts, auc))
                curves[name][f"{source}{after(distortion)}: {auc}"] = detection.roc(*pair)
            rows += table((source, distortion), theirs)
    save(folder, model, options, results, rows, curves)


def weighting(config: Config, model: Pipeline, name: str) -> Weighting | None:
    """The weighting of this name, with the options of the run's own if it has the same name."""
    if not name:
        return None
    changed = config.copy_and_resolve_references()
    return objectives.weighting(
        pipelines.with_overrides(changed, {"weighting.name": name}), model.sde
    )


def after(distortion: str) -> str:
    """The distortion in words; "" for "none"."""
    return "" if distortion == "none" else f" after {distortion}"


def check_model(model: Pipeline, options: Options) -> None:
    """Raises ValueError for a model that does not go with the options."""
    if not model.sde.is_scalar:
        raise ValueError(
            f"--mode=detect does not support the SDE {type(model.sde).__name__}, whose states are "
            "more than data: give a model with another SDE"
        )
    if model.super_resolution:
        raise ValueError("--mode=detect does not support cascades: give another model")
    model.check_complete("mode detect")
    model.check_diffuses_data("mode detect")
    given = {"real": options.real, "suspected": options.suspected}
    named = [f"config.detect.{name}" for name, value in given.items() if value]
    if options.distortions != ("none",):
        named.append("config.detect.distortions")
    if named and (len(model.image_shape) != 3 or model.image_shape[-1] not in (1, 3)):
        raise ValueError(f"{named[0]} needs a model of grey or RGB images: leave it out")
    files_given = named and (options.real or options.suspected)
    if files_given and model.conditions.members:
        raise ValueError(
            f"{named[0]}: the conditions of files are not known, but this model has conditions: "
            "give the run of an unconditional model"
        )


def sets(
    model: Pipeline, options: Options, folder: Path, config: Config
) -> tuple[Images, dict[str, Images]]:
    """The real images, and the suspected ones by their source."""
    n = options.n_images
    if options.real:
        images = from_files(model, [*split(options.real)], n)
        grey = model.image_scaling.to_grey(model.image_scaling.from_uint8(images))
        known = data.images(config) if model.decoder else model.dataset()
        if copies := identical(grey, known.train):
            print(f"{copies} of {len(images)} real images are training images")
        real = of_images(model, images)
    else:
        real = of_test_set(model, model.dataset(), n)
    if options.suspected:
        paths = split(options.suspected)
        names = distinct(paths)
        sets = [of_images(model, from_files(model, [path], n)) for path in paths]
        return real, dict(zip(names, sets, strict=True))
    kept = parts.Parts(
        folder / "evaluation" / str(model.step), "detect", [model.seed, model.identity()]
    )

    def drawn() -> parts.Arrays:
        x = draw.draw_all(model, n)[0]
        if model.decoder is not None:  # as a file of the image would be encoded
            x = model.from_images(model.to_images(x))
        return {"images": model.to_data(x)}

    samples = kept(f"samples_{n}", drawn)["images"]
    return real, {"samples": Images(samples, model.sample_conditions(np.arange(n)))}


def distinct(paths: list[str]) -> list[str]:
    """Names of folders and files: their last part, or all of it if two have the same."""
    names = [Path(path).name for path in paths]
    return paths if len({*names, REAL}) <= len(names) else names


def of_test_set(model: Pipeline, dataset: Dataset, n: int) -> Images:
    """n test images at even distances, or latents of them."""
    if n > len(dataset.test):
        raise ValueError(
            f"config.detect.n_images is {n}: it must be at most {len(dataset.test)}, the number of "
            "test images"
        )
    return Images(*model.test_samples(n))


def of_images(model: Pipeline, images: np.ndarray) -> Images:
    """Images of 0 to 255 as the model's data, without conditions."""
    return Images(model.to_data(model.from_images(images)), {})


def from_files(model: Pipeline, paths: list[str], n: int) -> np.ndarray:
    """n images of files at most, 0 to 255, spread evenly, cropped to the model's shape."""
    height, width, channels = model.image_shape
    every = listed(paths)
    rows = np.linspace(0, len(every) - 1, min(n, len(every))).astype(int)
    found = read_images([every[row] for row in rows], channels, "white")
    if len(found) < LEAST:
        raise ValueError(f"{', '.join(paths)}: {len(found)} images are too few: give at least 2")
    fitted = [
        np.asarray(ImageOps.fit(pictures.to_picture(each.pixels), (width, height)))
        for each in found
    ]
    return np.stack(fitted).reshape(-1, *model.image_shape)


def identical(values: Any, train: Any) -> int:
    """The number of images that are among the training data."""
    known = {np.ascontiguousarray(image).tobytes() for image in train}
    return sum(np.ascontiguousarray(image).tobytes() in known for image in values)


def numbers(
    model: Pipeline,
    images: Images,
    options: Options,
    distortion: str,
    title: str,
    weights: Weighting | None,
) -> dict[str, np.ndarray]:
    """The statistics of a set after a distortion."""
    values = images.values
    if distortion != "none":
        shown = model.to_images(model_space(model, values))
        values = model.to_data(model.from_images(distorted(distortion, shown)))
    about = (values, images.conditions), options.statistics, options.n_steps
    return detection.measured(model, *about, title, weights)


def model_space(model: Pipeline, values: Any) -> np.ndarray:
    """Data in model space, without the noise of dequantization."""
    return np.asarray(model.scaling.to_model(model.key, jnp.asarray(values), dequantize=False))


def table(about: tuple[str, str], found: dict[str, np.ndarray]) -> Iterator[tuple[Any, ...]]:
    """A row for each image: set, distortion, index, and its numbers."""
    columns = [values.tolist() for name, values in found.items() if name != "classifier"]
    for k, row in enumerate(zip(*columns, strict=True)):
        yield (*about, k, *row)


def save(
    folder: Path,
    model: Pipeline,
    options: Options,
    results: list[Result],
    rows: list[tuple[Any, ...]],
    curves: dict[str, Curves],
) -> None:
    """Prints the results; saves them, the table of all images, and the ROC curves."""
    figures = {}
    for result in results:
        weighted = options.weighting and result.statistic == "noise_loss"
        by = f" by {options.weighting}" if weighted else ""
        name = f"AUC of {result.statistic}{by}, {result.source}{after(result.distortion)}"
        figures[name] = str(result.auc)
        counts = f"{result.n_real} real images, {result.n_suspected} suspected"
        print(f"{name}: {result.auc} (step {model.step}: {counts})")
    card.update(folder, model.step, figures)
    chosen = dataclasses.asdict(options)
    stem = f"{show.stem(model, 'detect')}_{parts.digest(chosen)[:6]}"
    names = [name for name in options.statistics if name != "classifier"]
    print(files.write_table(folder / f"{stem}.csv", ("set", "distortion", "index", *names), rows))
    about = pictures.provenance(**show.settings(model, **chosen))
    print(charts.save_rocs(folder / "samples" / f"{stem}.png", curves, about))
