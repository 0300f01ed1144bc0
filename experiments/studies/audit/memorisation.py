"""Mode study, config.study.name = "memorisation": are samples copies of training images?

    python -m experiments.main --mode=study --config.study.name=memorisation --workdir=runs/digits

For samples and for held-out data the study finds the nearest training sample, by pixels and by
features. A model that generalises draws samples as far from the training data as new data are. The
threshold is the distance that config.study.memorisation.level (1%) of the held-out data fall below;
the share of samples below it is stated with its confidence interval, for all and for each class. A
larger share means copies; so do distances of 0, which the held-out data may have too if the data
set repeats itself.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from experiments.build import components, data
from experiments.commands.request import Request
from experiments.data.dataset import Dataset
from experiments.evaluation import quality, reference
from experiments.pipeline import draw
from experiments.pipeline.pipeline import Pipeline
from experiments.runs import card, files, pictures, progress
from experiments.studies import subject as subjects
from experiments.studies.statistics import save_table
from sde_lib.checks import check_at_least, check_in

SECTION = "config.study.memorisation"
N_SHOWN = 8  # samples, and held-out images, that are nearest to the training data
BLOCK = 4096  # training samples that are compared at a time
CONFIDENCE = 0.95


class Nearest(NamedTuple):
    """The nearest training sample of each of n samples: its distance and its row."""

    distance: Float[np.ndarray, " n"]
    row: Int[np.ndarray, " n"]


class Result(NamedTuple):
    """The share of a set's samples that are near training data, in one space.

    Attributes:
        space: "pixels" or the name of the features.
        label: the class; "all" for all samples.
        n: samples.
        median: median distance of the samples to their nearest training sample, over that of the
            held-out data.
        below: samples below the threshold.
        share: the same over n.
        low: lower end of the share's confidence interval (Clopper & Pearson).
        high: upper end.
    """

    space: str
    label: str
    n: int
    median: float
    below: int
    share: float
    low: float
    high: float


def run(request: Request) -> None:
    """Prints the table, adds it to the model card, and saves it with pictures of the nearest pairs.

    Raises:
        ValueError: an impossible option, or no run of a model.
        FloatingPointError: a sample is not finite.
    """
    config, options = request.config, request.config.study.memorisation
    check_at_least(1, **{f"{SECTION}.n_samples": options.n_samples})
    check_in("(0, 1)", **{f"{SECTION}.level": options.level})
    model = request.model()
    model.check_complete("the study of memorisation")
    found: Dataset = data.images(config) if model.decoder else model.dataset()
    x = draw.draw_all(model, options.n_samples)[0]
    decoder = model.decoder
    samples = decoder.scaling.to_grey(decoder.decode(x)) if decoder else model.to_data(x)
    fn = reference.feature_function(components.feature_shape(config), config.eval.features)
    labels = subjects.classes(model, np.arange(len(samples)))
    results: list[Result] = []
    stem = f"memorisation_{model.step}_seed{model.seed}"
    about = pictures.provenance(config=config.to_dict(), seed=model.seed, step=model.step)
    printed = []
    for name in dict.fromkeys(("pixels", fn.name)):

        def rows(values: Any, name: str = name) -> np.ndarray:
            if name == "pixels":
                return np.asarray(values, np.float64).reshape(len(values), -1)
            return reference.features_of(values, found.levels, fn, model.mesh)

        train = list(blocks(found.train, rows, name))
        own, held_out = (nearest(rows(part), train) for part in (samples, found.test[:]))
        results += compare(name, own, held_out, options.level, labels)
        if len(model.image_shape) == 3:
            sets = {"samples": (samples, own), "held out": (found.test, held_out)}
            path = request.folder / f"{stem}_{name}.png"
            printed.append(save_pairs(path, model, found, sets, about))
    path = request.folder / f"{stem}.jsonl"
    files.write_lines(path, [result._asdict() for result in results])
    save_table(path, results)
    shares = figures(results, options.level)
    print("\n".join([*map(str, printed), *(f"{name}: {text}" for name, text in shares.items())]))
    card.update(request.folder, model.step, shares)


def blocks(values: Any, rows: Any, title: str) -> Iterator[np.ndarray]:
    """The points of the training data, a block at a time."""
    firsts = range(0, len(values), BLOCK)
    for first in progress.track(firsts, f"training data, {title}"):
        yield rows(values[np.arange(first, min(first + BLOCK, len(values)))])


def nearest(
    points: Float[np.ndarray, "n dims"], train: Sequence[Float[np.ndarray, "block dims"]]
) -> Nearest:
    """The nearest training point of each point."""
    distance, row = np.full(len(points), np.inf), np.zeros(len(points), int)
    first = 0
    for block in train:
        squares = quality.squared_distances(points, block)
        closest = squares.argmin(axis=1)
        found = np.sqrt(np.maximum(squares[np.arange(len(points)), closest], 0.0))
        row = np.where(found < distance, first + closest, row)
        distance = np.minimum(found, distance)
        first += len(block)
    return Nearest(distance, row)


def compare(
    space: str, own: Nearest, held_out: Nearest, level: float, labels: np.ndarray | None
) -> Iterator[Result]:
    """The shares of all samples, and of each class, below the threshold of the held-out data."""
    from scipy.stats import binomtest  # takes 0.5 s to import

    threshold = np.quantile(held_out.distance, level)
    groups: dict[str, np.ndarray] = {"all": own.distance}
    if labels is not None:
        groups |= {str(label): own.distance[labels == label] for label in np.unique(labels)}
    for label, distances in groups.items():
        n, below = len(distances), int(np.sum(distances < threshold))
        interval = binomtest(below, n).proportion_ci(CONFIDENCE)
        median = float(np.median(distances) / np.median(held_out.distance))
        yield Result(space, label, n, median, below, below / n, interval.low, interval.high)


def figures(results: Sequence[Result], level: float) -> dict[str, str]:
    """The shares of all samples with their intervals, by their names in the model card."""
    return {
        f"samples near training data by {result.space} (held-out: {level:.1%})": (
            f"{result.share:.1%} ({result.low:.1%} to {result.high:.1%})"
        )
        for result in results
        if result.label == "all"
    }


def save_pairs(
    path: Path,
    model: Pipeline,
    found: Dataset,
    sets: dict[str, tuple[Any, Nearest]],
    about: dict[str, str],
) -> Path:
    """Saves the nearest samples of each set in one row, above their training images in the next."""
    rows = []
    for values, near in sets.values():
        shown = np.argsort(near.distance, kind="stable")[:N_SHOWN]
        rows += [values[shown], found.train[near.row[shown]]]
    width = min(map(len, rows))
    images = np.concatenate([np.asarray(row[:width]) for row in rows])
    grey = np.round(images * (255 / ((found.levels or 256) - 1))).astype(np.uint8)
    titles = [" above their nearest training images, then ".join(sets)]
    return pictures.save_grid(path, grey, width, about, titles)
