"""Figures of each class: a mean over all classes hides the ones that a model draws badly."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from experiments.evaluation import quality
from experiments.evaluation.features import FeatureFunction
from experiments.evaluation.figure import Figure, Figures
from experiments.evaluation.quality import Moments

LEAST_OF_CLASS = 20  # samples, and data, of a class that has figures
Rows = Float[np.ndarray, "n dims"]
Labels = Int[np.ndarray, " n"]


def of_samples(
    fn: FeatureFunction,
    data: tuple[Rows, Labels],
    samples: Rows,
    drawn: Labels | None,
    class_name: Callable[[int], str],
) -> Figures:
    """Fréchet distance, precision and recall of each class.

    Samples of a class are compared with its training data. Without classes of the samples there is
    the recall alone: the fraction of the class's data near any sample. Classes with fewer than
    LEAST_OF_CLASS data or samples are left out. Fréchet distances of few samples are too large, so
    compare them between models at equal numbers alone.

    Args:
        fn: of the features, for the names of the figures.
        data: features of the training data, and their classes.
        samples: features of the samples.
        drawn: the classes that the samples were drawn to; None if the model has none.
        class_name: gives the name of a class.

    Raises:
        ValueError: no class has enough data and samples.
    """
    figures: Figures = {}
    rows, labels = data
    for label in np.unique(labels[labels >= 0]).tolist():
        truth = rows[labels == label]
        own = samples if drawn is None else samples[drawn == label]
        if min(len(truth), len(own)) < LEAST_OF_CLASS:
            continue
        about = {"samples": len(own), "data": len(truth)}
        shares = quality.precision_recall(truth, own)._asdict()
        found = {"recall": shares["recall"]}
        if drawn is not None:
            distance = quality.frechet_distance(Moments.of(own), Moments.of(truth))
            found = {"frechet_distance": distance} | shares
        figures |= {
            f"class {class_name(label)}, {fn.figure(name)}": Figure(value, None, about)
            for name, value in found.items()
        }
    if not figures:
        raise ValueError(
            f"no class has {LEAST_OF_CLASS} training data and as many samples: raise "
            f"config.eval.num_samples, which is {len(samples)}"
        )
    return figures


def of_likelihoods(
    name: str, bits: Float[np.ndarray, " n"], labels: Labels, class_name: Callable[[int], str]
) -> Figures:
    """The mean bits/dim of the test samples of each class, with its standard error."""
    groups: Sequence[int] = np.unique(labels[labels >= 0]).tolist()
    sets = {label: bits[labels == label] for label in groups}
    return {
        f"class {class_name(label)}, {name}": Figure(
            own.mean(), own.std(ddof=1) / np.sqrt(len(own)), {"data": len(own)}
        )
        for label, own in sets.items()
        if len(own) > 1
    }
