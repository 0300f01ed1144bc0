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

from experiments.commands.request import Request
from experiments.data.dataset import Dataset
from experiments.evaluation.detect import detection
from experiments.evaluation.detect.detection import AUC, STATISTICS
from experiments.evaluation.detect.distortions import DISTORTIONS, distorted
from experiments.pipeline import draw, show
from experiments.pipeline.edit.files import listed, read_images, split
from experiments.pipeline.pipeline import Pipeline
from experiments.runs import card, charts, files, parts, pictures
from sde_lib.checks import check_at_least, check_name

LEAST = 2  # images of a set
REAL = "real"  # the name of the set of real images


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of the mode, config.detect.

    Attributes:
        n_images: images of each set, at most.
        n_steps: of Euler's method, there and back.
        statistics: names in STATISTICS.
        distortions: names in DISTORTIONS.
        real: files and folders of real images; "": the test set.
        suspected: files and folders; "": samples of the model.

    Raises:
        ValueError: an unknown name, or an impossible number.
    """

    n_images: int
    n_steps: int
    statistics: tuple[str, ...]
    distortions: tuple[str, ...]
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
    real, sources = sets(model, options, request.folder)
    results: list[Result] = []
    rows: list[tuple[Any, ...]] = []
    shown: tuple[detection.Errors, detection.Errors] | None = None
    for distortion in options.distortions:
        mine = numbers(model, real, options, distortion, "real images")
        rows += table((REAL, distortion), mine)
        for source, images in sources.items():
            theirs = numbers(model, images, options, distortion, source)
            for name in options.statistics:
                pair = mine[name], theirs[name]
                if name == "classifier":
                    pair = detection.cross_validated(*pair)
                auc = detection.auc(*pair)
                counts = len(pair[0]), len(pair[1])
                results.append(Result(source, distortion, name, *counts, auc))
                shown = shown or pair
            rows += table((source, distortion), theirs)
    assert shown is not None
    save(request.folder, model, options, results, rows, shown)


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


def sets(model: Pipeline, options: Options, folder: Path) -> tuple[Images, dict[str, Images]]:
    """The real images, and the suspected ones by their source."""
    dataset, n = model.dataset(), options.n_images
    if options.real:
        real = Images(from_files(model, [*split(options.real)], n), {})
        train = dataset.train if model.decoder is None else None
        if train is not None and (copies := identical(real.values, train)):
            print(f"{copies} of {len(real.values)} real images are training images")
    else:
        real = of_test_set(model, dataset, n)
    if options.suspected:
        paths = split(options.suspected)
        names = distinct(paths)
        sets = [Images(from_files(model, [path], n), {}) for path in paths]
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


def from_files(model: Pipeline, paths: list[str], n: int) -> Any:
    """n images of files at most, spread evenly, cropped to the model's shape, as its data."""
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
    images = np.stack(fitted).reshape(-1, *model.image_shape)
    return model.to_data(model.from_images(images))


def identical(values: Any, train: Any) -> int:
    """The number of images that are among the training data."""
    known = {np.ascontiguousarray(image).tobytes() for image in train}
    return sum(np.ascontiguousarray(image).tobytes() in known for image in values)


def numbers(
    model: Pipeline, images: Images, options: Options, distortion: str, title: str
) -> dict[str, np.ndarray]:
    """The statistics of a set after a distortion."""
    values = images.values
    if distortion != "none":
        shown = model.to_images(model_space(model, values))
        values = model.to_data(model.from_images(distorted(distortion, shown)))
    about = (values, images.conditions), options.statistics, options.n_steps
    return detection.measured(model, *about, title)


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
    shown: tuple[detection.Errors, detection.Errors],
) -> None:
    """Prints the results; saves them, the table of all images, and the first ROC curve."""
    figures = {}
    for result in results:
        name = f"AUC of {result.statistic}, {result.source}"
        name += f" after {result.distortion}" * (result.distortion != "none")
        figures[name] = str(result.auc)
        counts = f"{result.n_real} real images, {result.n_suspected} suspected"
        print(f"{name}: {result.auc} (step {model.step}: {counts})")
    card.update(folder, model.step, figures)
    chosen = dataclasses.asdict(options)
    stem = f"{show.stem(model, 'detect')}_{parts.digest(chosen)[:6]}"
    names = [name for name in options.statistics if name != "classifier"]
    print(files.write_table(folder / f"{stem}.csv", ("set", "distortion", "index", *names), rows))
    path, curve = folder / "samples" / f"{stem}.png", detection.roc(*shown)
    about = pictures.provenance(**show.settings(model, **chosen))
    title, auc = next(iter(figures.items()))
    both: dict[str, detection.Errors] = {REAL: shown[0], "suspected": shown[1]}
    print(charts.save_detection(path, curve, both, f"{title}: {auc}", about))
