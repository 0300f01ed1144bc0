"""Mode study, config.study.name = "memorisation": are samples copies of training images?

    python -m experiments.main --mode=study --config.study.name=memorisation --workdir=runs/digits

For samples and for held-out data the study finds the nearest training sample, by pixels and by
features. A model that generalises draws samples as far from the training data as new data are. The
threshold is the distance that config.study.memorisation.level (1%) of the held-out data reach. The
table has the share of the samples within it with its confidence interval, for all and for each
class, and the probability p of as many by chance, by Fisher's exact test against the held-out data.
The interval takes the threshold as known; p knows both numbers. A small p means copies, and so do
distances of 0, unless the data set repeats itself. With config.data.random_flip, mirrored training
images count too.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from experiments.build import data
from experiments.build.components import specs
from experiments.commands.request import Request
from experiments.data.dataset import Dataset
from experiments.data.scaling import Scaling
from experiments.evaluation import quality, reference
from experiments.pipeline import draw
from experiments.runs import card, pictures, progress
from experiments.studies.statistics import save_results
from experiments.studies.subject import table_path
from sde_lib.checks import check_at_least, check_in

SECTION = "config.study.memorisation"
N_SHOWN = 8  # samples, and held-out images, that are nearest to the training data
BLOCK = 4096  # training samples that are compared at a time
CONFIDENCE = 0.95
TINY = 1e-30  # in place of a median of 0
Points = Float[np.ndarray, "n dims"]
Rows = Callable[[Any], Points]
"""The points of samples as the data set has them."""


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
        copies: samples at the distance 0.
        within: samples within the threshold.
        share: the same over n.
        low: lower end of the share's confidence interval (Clopper & Pearson).
        high: upper end.
        p: of as large a share by chance, if samples and held-out data had the same.
    """

    space: str
    label: str
    n: int
    median: float
    copies: int
    within: int
    share: float
    low: float
    high: float
    p: float


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
    scaling = model.image_scaling
    samples = scaling.to_grey(model.to_pixels(draw.draw_all(model, options.n_samples)[0]))
    labels = draw.classes(model, np.arange(len(samples)))
    shape = specs.feature_shape(config)
    fn = reference.feature_function(shape, config.eval.features, scaling)
    spaces: dict[str, Rows] = {
        "pixels": lambda values: np.asarray(values, np.float64).reshape(len(values), -1),
        fn.name: lambda values: reference.features_of(values, found.levels, fn, model.mesh),
    }
    if fn.name == reference.COORDINATES:
        del spaces["pixels"]
    results: list[Result] = []
    printed: list[str] = []
    path = table_path(request.folder, "memorisation", options, model.seed, model.step)
    about = pictures.provenance(config=config.to_dict(), seed=model.seed, step=model.step)
    for name, rows in spaces.items():
        train = blocks(found.train, rows, name, mirrored=config.data.random_flip)
        own, held_out = nearest([rows(samples), rows(found.test[:])], train)
        results += compare(name, own, held_out, options.level, labels)
        if len(shape) == 3:
            sets = {"samples": (samples, own), "held out": (found.test, held_out)}
            target = path.with_name(f"{path.stem}_{name}.png")
            printed.append(str(save_pairs(target, scaling, found.train, sets, about)))
    save_results(path, results)
    shares = figures(results, options.level)
    print("\n".join([*printed, *(f"{name}: {text}" for name, text in shares.items())]))
    card.update(request.folder, model.step, shares)


def blocks(values: Any, rows: Rows, title: str, mirrored: bool = False) -> Iterator[list[Points]]:
    """The points of training data, a block at a time; if mirrored, of mirror images too."""
    firsts = range(0, len(values), BLOCK)
    for first in progress.track(firsts, f"training data, {title}"):
        block = np.asarray(values[np.arange(first, min(first + BLOCK, len(values)))])
        yield [rows(each) for each in ((block, block[:, :, ::-1]) if mirrored else (block,))]


def nearest(sets: Sequence[Points], train: Iterable[Sequence[Points]]) -> list[Nearest]:
    """The nearest training point of each point of each set.

    Args:
        sets: of points, [n, dims].
        train: for each block of training samples its points, and others of the same samples.
    """
    best = [Nearest(np.full(len(x), np.inf), np.zeros(len(x), int)) for x in sets]
    first = 0
    for versions in train:
        for block in versions:
            best = [closer(x, block, first, near) for x, near in zip(sets, best, strict=True)]
        first += len(versions[0])
    return best


def closer(points: Points, block: Points, first: int, best: Nearest) -> Nearest:
    """The nearer ones of `best` and of a block, whose first row is `first`."""
    squares = quality.squared_distances(points, block)
    closest = squares.argmin(axis=1)
    found = np.sqrt(np.maximum(squares[np.arange(len(points)), closest], 0.0))
    row = np.where(found < best.distance, first + closest, best.row)
    return Nearest(np.minimum(found, best.distance), row)


def compare(
    space: str, own: Nearest, held_out: Nearest, level: float, labels: np.ndarray | None
) -> Iterator[Result]:
    """The shares of all samples, and of each class, within the threshold of the held-out data."""
    from scipy.stats import binomtest, hypergeom  # take 0.5 s to import

    threshold = np.quantile(held_out.distance, level)
    theirs = int(np.sum(held_out.distance <= threshold))
    groups: dict[str, np.ndarray] = {"all": own.distance}
    if labels is not None:
        groups |= {str(label): own.distance[labels == label] for label in np.unique(labels)}
    for label, distances in groups.items():
        n, within = len(distances), int(np.sum(distances <= threshold))
        interval = binomtest(within, n).proportion_ci(CONFIDENCE)
        p = float(hypergeom(n + len(held_out.distance), within + theirs, n).sf(within - 1))
        median = float(np.median(distances) / max(np.median(held_out.distance), TINY))
        copies = int(np.sum(distances == 0))
        counts = n, median, copies, within, within / n
        yield Result(space, label, *counts, interval.low, interval.high, p)


def figures(results: Sequence[Result], level: float) -> dict[str, str]:
    """The shares of all samples with their intervals, by their names in the model card."""
    return {
        f"samples near training data by {result.space} (held-out: {level:.1%})": (
            f"{result.share:.1%} ({result.low:.1%} to {result.high:.1%}; p = {result.p:.2g}; "
            f"{result.copies} copies)"
        )
        for result in results
        if result.label == "all"
    }


def save_pairs(
    path: Path,
    scaling: Scaling,
    train: Any,
    sets: dict[str, tuple[Any, Nearest]],
    about: dict[str, str],
) -> Path:
    """Saves the nearest samples of each set in one row, above their training images in the next."""
    rows = []
    for values, near in sets.values():
        shown = np.argsort(near.distance, kind="stable")[:N_SHOWN]
        rows += [values[shown], train[near.row[shown]]]
    width = min(map(len, rows))
    grey = jnp.asarray(np.concatenate([np.asarray(row[:width]) for row in rows]))
    x = scaling.to_model(jax.random.key(0), grey, dequantize=False)
    titles = [" above their nearest training images, then ".join(sets)]
    return pictures.save_grid(path, scaling.to_uint8(np.asarray(x)), width, about, titles)
