"""The figures of a trained model, by their names in METRICS.

A metric is a function from a Subject to Figures. A new one is a new function and a line in METRICS.
What takes long is kept in parts: an evaluation that was stopped continues where it was.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.data.dataset import Dataset, identity
from experiments.data.lazy_arrays import complete
from experiments.evaluation import alignment, bound, by_class, quality
from experiments.evaluation.features import FeatureFunction
from experiments.evaluation.figure import Figure, Figures
from experiments.evaluation.quality import Moments
from experiments.evaluation.reference import (
    PAIRED,
    Reference,
    distances,
    reference,
    sampled_features,
    statistics,
)
from experiments.pipeline import draw, likelihood
from experiments.pipeline.pipeline import Pipeline
from experiments.runs import devices, files
from experiments.runs.parts import Arrays, Parts

LEAST = 20  # samples, for all of the statistics of sample quality
Losses = Callable[[Any, jax.Array, Any, Any], dict[str, jax.Array]]
"""losses(params, key, batch, first index): the training loss of each sample, as "loss" [B]"""


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A model to be measured, with the data that it is measured on.

    Attributes:
        pipeline: the model; its folder keeps finished parts.
        dataset: the model's data; of a latent model, latents.
        images: the data that decoded samples are compared with; points are their own.
        name: of the data set.
        losses: the training loss of each sample.
        features: gives the features of images, for sample quality.
        n_samples: samples drawn for sample quality.
        n_seeds: sets of them, of the seeds from the pipeline's on.
        statistics: published statistics of the data, which samples are compared with in place of
            the data; None: the data.
        embeddings: a file of embeddings of captions (evaluation/alignment.py); None for none.
    """

    pipeline: Pipeline
    dataset: Dataset
    images: Dataset
    name: str
    losses: Losses
    features: FeatureFunction
    n_samples: int
    statistics: Path | None = None
    n_seeds: int = 1
    embeddings: Path | None = None

    @property
    def test(self) -> tuple[Any, Any]:
        """The test data, and their conditions."""
        return self.dataset.test, self.pipeline.conditions.from_data(self.dataset, "test")

    @property
    def folder(self) -> Path:
        """The run's folder."""
        assert self.pipeline.folder is not None
        return self.pipeline.folder

    def parts(self, kind: str, *inputs: Any) -> Parts:
        """Keeps the parts of a figure that depends on the weights, the test data and `inputs`."""
        pipeline = self.pipeline
        decisive = [pipeline.seed, pipeline.likelihood.batch_size, pipeline.params, inputs]
        decisive += [identity(self.dataset.test), self.test[1], str(pipeline.super_resolution)]
        return Parts(self.folder / "evaluation" / str(pipeline.step), kind, decisive)


def test_loss(subject: Subject) -> Figures:
    """The training loss of the averaged weights on the test set, without dropout."""
    pipeline = subject.pipeline
    batch = partial(subject.losses, pipeline.params)
    result = likelihood.passes(pipeline, subject.test, batch, subject.parts("loss"), "test loss")
    losses = result["loss"]
    return {"test loss": Figure(losses.mean(), losses.std(ddof=1) / np.sqrt(len(losses)))}


def bits_per_dim(subject: Subject) -> Figures:
    """Bits/dim of the test set; every sample's are in likelihood_STEP_seedN.csv."""
    bits = _bits(subject)
    save_likelihoods(subject.pipeline, bits)
    about = {"nfe": bits.nfe} | ({"given": bits.given} if bits.given else {})
    name = bits_name(subject.pipeline)
    figures = {name: Figure(bits.mean, bits.error, about)}
    figures |= {f"{name}, error by {cause}": Figure(error) for cause, error in bits.by.items()}
    if subject.pipeline.scaling.standardized or subject.pipeline.codec:
        error = bits.nats.std(ddof=1) / np.sqrt(len(bits.nats))
        figures["test log-likelihood"] = Figure(bits.nats.mean(), error, {"unit": "nats"})
    return figures


def _bits(subject: Subject) -> likelihood.BitsPerDim:
    """Bits/dim of the test set, of which finished passes are kept."""
    options = dataclasses.replace(subject.pipeline.likelihood, n_repeats=1)  # a part is one pass
    return likelihood.bits_per_dim(subject.pipeline, subject.test, subject.parts("bits", options))


def likelihood_figures(pipeline: Pipeline, bits: likelihood.BitsPerDim) -> dict[str, str]:
    """Texts of the mean bits/dim, and of the log-likelihood of floats and latents, by name."""
    figures = {bits_name(pipeline): str(bits)}
    if bits.by:
        parts = (f"{cause} {error:.2g}" for cause, error in bits.by.items())
        figures["standard error by"] = ", ".join(parts)
    if pipeline.scaling.standardized or pipeline.codec:
        error = bits.nats.std(ddof=1) / np.sqrt(len(bits.nats))
        figures["test log-likelihood"] = f"{bits.nats.mean():.3f} +- {error:.3f} nats"
    return figures


def save_likelihoods(pipeline: Pipeline, bits: likelihood.BitsPerDim) -> Path:
    """Writes the bits/dim of each sample as a table, and as arrays with the log densities.

    The .npz file beside the table has "log_prob" in nats, of the data's own units (of grey levels
    their log probability), and "bits_per_dim".
    """
    assert pipeline.folder is not None
    path = pipeline.folder / f"likelihood_{pipeline.version}_seed{pipeline.seed}.csv"
    files.write_arrays(path.with_suffix(".npz"), log_prob=bits.nats, bits_per_dim=bits.each)
    return files.write_table(path, ["index", "bits_per_dim"], list(enumerate(bits.each.tolist())))


def bits_name(pipeline: Pipeline) -> str:
    """The figure's name: bits of a density of latents compare only with the same latents'."""
    return "test latent bits/dim" if pipeline.decoder else "test bits/dim"


def variational_bound(subject: Subject) -> Figures:
    """The variational bound in bits/dim; VDM's of a model of grey levels, LSGM's of its latents.

    All terms of the former are in bound_STEP_seedN.csv.
    """
    pipeline = subject.pipeline
    if pipeline.decoder:
        raise ValueError(
            "config.eval.enable_bound needs a model of images, and with config.data.autoencoder "
            "the data are latents: set it to False"
        )
    if pipeline.grey_levels or pipeline.codec:
        part = subject.parts("bound", pipeline.bound_steps)
        compute = bound.continuous if pipeline.grey_levels else bound.cross_entropy
        terms = compute(pipeline, subject.test, part)
        bits = np.sum([*terms.values()], axis=0)
        about: dict[str, Any] = {name: f"{each.mean():.4f}" for name, each in terms.items()}
        error = bits.std(ddof=1) / np.sqrt(len(bits))
        name = "vdm bound bits/dim" if pipeline.grey_levels else "bound bits/dim"
        return {name: Figure(bits.mean(), error, about)}
    levels, variance = pipeline.chain(), bound.variance_of(pipeline)
    part = subject.parts("bound", levels, variance)
    found = bound.bits_per_dim(pipeline, subject.test, variance, part)
    terms = {"prior": found.prior, "diffusion": found.diffusion.sum()}
    terms |= {"reconstruction": found.reconstruction}
    rows = list(zip(levels, [found.reconstruction, *found.diffusion], strict=True))
    path = subject.folder / f"bound_{pipeline.version}_seed{pipeline.seed}.csv"
    files.write_table(path, ["log_snr", "bits_per_dim"], rows)
    about = {name: round(float(value), 5) for name, value in terms.items()}
    return {"bound bits/dim": Figure(found.mean, found.error, about)}


def sample_quality(subject: Subject) -> Figures:
    """The quality of a set of samples; of several sets, which have a seed each, the means.

    A mean has its standard error over the seeds, the least and all values.
    """
    if subject.n_seeds == 1:
        return quality_of_set(subject)
    seeds = range(subject.pipeline.seed, subject.pipeline.seed + subject.n_seeds)
    sets = []
    for seed in seeds:
        own = subject.pipeline.asked(seed, None, None)
        sets.append(quality_of_set(dataclasses.replace(subject, pipeline=own)))
    return {name: over_seeds([figures[name] for figures in sets], seeds) for name in sets[0]}


def over_seeds(figures: Sequence[Figure], seeds: Sequence[int]) -> Figure:
    """The mean of a figure over seeds, with its standard error, the least and all values."""
    values = np.array([figure.value for figure in figures])
    about = {name: value for name, value in figures[0].about.items() if name != "seed"}
    about |= {"minimum": f"{values.min():.4g}", "seeds": f"{seeds[0]} to {seeds[-1]}"}
    about["each"] = " ".join(f"{value:.4g}" for value in values)
    return Figure(values.mean(), values.std(ddof=1) / np.sqrt(len(values)), about)


def quality_of_set(subject: Subject) -> Figures:
    """Distances, precision, recall, density and coverage of samples. Latents are decoded first.

    With published statistics in place of the data, it is the Fréchet distance alone.
    """
    pipeline, fn, n = subject.pipeline, subject.features, subject.n_samples
    published = subject.statistics and statistics(subject.statistics, fn)
    moments, values = _sampled(subject)
    details = {"samples": n, "features": f"{fn.name}-{fn.version}", "seed": pipeline.seed}
    if subject.statistics and published:
        distance = quality.frechet_distance(moments, published)
        about = {"samples": n, "data": subject.statistics.name} | details
        figures = {fn.figure("frechet_distance"): Figure(distance, None, about)}
    else:
        figures = _against_data(subject, moments, values, details)
    if "logits" in values:
        figures["inception_score"] = Figure(*quality.inception_score(values["logits"]), details)
    return figures


def class_quality(subject: Subject) -> Figures:
    """Distance, precision and recall of each class; the recall alone of a model without classes.

    Raises:
        ValueError: data without labels, or too few of each class.
    """
    images, name = _comparable(subject), subject.images.class_name
    labels = images.train_labels
    if labels is None:
        raise ValueError(
            f"config.eval.metrics has 'class_quality', but {subject.name!r} has no classes: leave "
            "it out"
        )
    truth = _truth(subject, images)
    kept = np.linspace(0, len(images.train) - 1, len(truth.features)).astype(int)
    rows = _sampled(subject)[1]["features"]
    drawn = draw.classes(subject.pipeline, np.arange(len(rows)))
    data = truth.features, labels[kept]
    return by_class.of_samples(subject.features, data, rows, drawn, name)


def class_likelihood(subject: Subject) -> Figures:
    """Bits/dim of the test samples of each class.

    Raises:
        ValueError: data without labels.
    """
    labels, name = subject.dataset.test_labels, subject.dataset.class_name
    if labels is None:
        raise ValueError(
            f"config.eval.metrics has 'class_likelihood', but {subject.name!r} has no classes: "
            "leave it out"
        )
    bits = _bits(subject)
    return by_class.of_likelihoods(bits_name(subject.pipeline), bits.each, labels, name)


def caption_alignment(subject: Subject) -> Figures:
    """The agreement of samples with their captions, by embeddings that a user gives."""
    assert subject.embeddings is not None  # commands.evaluate.chosen checks it
    embeddings = alignment.Embeddings.read(subject.embeddings)
    return alignment.figures(embeddings, _sampled(subject)[1]["features"])


def _sampled(subject: Subject) -> tuple[Moments, Arrays]:
    """The moments of the features of the samples, and their features and logits."""
    pipeline, fn, n = subject.pipeline, subject.features, subject.n_samples
    folder = subject.folder / "evaluation" / str(pipeline.step)
    part = Parts(folder, "samples", [pipeline.seed, pipeline.identity()])
    size = draw.batch_size(pipeline, n)
    batch = draw.ahead(draw.make_draw(pipeline, size), size, n)

    def images(first: int) -> np.ndarray:
        return pipeline.to_pixels(devices.fetch(batch(first).x))

    return sampled_features(pipeline.image_scaling, fn, images, size, n, pipeline.mesh, part)


def _comparable(subject: Subject) -> Dataset:
    """The data that samples are compared with, without those that have missing values."""
    images = subject.images
    if not subject.pipeline.missing:
        return images
    return images.only("train", np.arange(len(images.train))[complete(images.train)])


def _truth(subject: Subject, images: Dataset) -> Reference:
    """The statistics of the training data."""
    about = subject.name, images, subject.features, subject.folder.parent / "stats"
    return reference(*about, subject.pipeline.mesh, subject.pipeline.likelihood.batch_size)


def _against_data(
    subject: Subject, moments: Moments, values: Arrays, details: dict[str, Any]
) -> Figures:
    """The statistics of samples and training data, from the samples' features and moments."""
    pipeline, fn = subject.pipeline, subject.features
    truth = _truth(subject, _comparable(subject))
    details = {"samples": moments.n, "data": truth.moments.n} | details
    distance = distances(moments, values["features"], truth, pipeline.seed)
    kernel = distance.kernel, distance.kernel_error, details | {"subset": distance.subset}
    paired = truth.features, values["features"][:PAIRED]
    shares = quality.precision_recall(*paired)._asdict()
    shares |= quality.density_coverage(*paired)._asdict()
    return {
        fn.figure("frechet_distance"): Figure(distance.frechet, None, details),
        fn.figure("kernel_distance"): Figure(*kernel),
        **{fn.figure(name): Figure(share, None, details) for name, share in shares.items()},
    }


METRICS: dict[str, Callable[[Subject], Figures]] = {
    "loss": test_loss,
    "bpd": bits_per_dim,
    "bound": variational_bound,
    "sampling": sample_quality,
    "class_quality": class_quality,
    "class_likelihood": class_likelihood,
    "alignment": caption_alignment,
}
"""Figures by name; those of DRAWN need samples."""
DRAWN = ("sampling", "class_quality", "alignment")
