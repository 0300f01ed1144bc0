"""Guidance of a trained model: quality, diversity and classes of its samples at each scale."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.evaluation import alignment, quality, reference
from experiments.evaluation.alignment import Embeddings
from experiments.evaluation.features import FeatureFunction
from experiments.evaluation.reference import PAIRED, Reference
from experiments.pipeline import analytic
from experiments.pipeline import draw as drawing
from experiments.pipeline.guidance import Classifier
from experiments.pipeline.pipeline import Pipeline
from experiments.runs import devices
from experiments.runs.parts import Arrays, Parts
from experiments.studies.guidance.options import SECTION, Options
from experiments.studies.statistics import Mean
from samplers.guidance_schedules import Schedule
from samplers.solver import NoiseLevelSolver

N_SHOWN = 8  # samples of a set that are kept for the picture

Draw = Callable[[float, int, int], Any]
"""draw(weight, seed, first index): a batch of samples in model space."""


class Setting(NamedTuple):
    """One way to guide: a schedule by its label, and a solver by its name."""

    label: str
    schedule: Schedule
    name: str
    solver: NoiseLevelSolver


class Result(NamedTuple):
    """Samples of one setting and weight; means over seeds, with standard errors.

    Attributes:
        schedule: of the weight, with its interval.
        solver: name of the solver.
        nfe: network evaluations of a sample; a guided score counts as one.
        weight: the guidance scale.
        frechet: Fréchet distance to the training data.
        kernel: kernel distance.
        precision: fraction of samples near data.
        recall: fraction of data near samples.
        density: density of samples around data.
        coverage: fraction of data with a sample nearby.
        diversity: root mean square distance of features within a class, over that of all data.
        share: fraction of samples that the independent classifier takes for their class.
        inception_score: of features with logits.
        alignment: of samples with their captions, by a user's embeddings (evaluation/alignment.py).
    """

    schedule: str
    solver: str
    nfe: int
    weight: float
    frechet: Mean
    kernel: Mean
    precision: Mean
    recall: Mean
    density: Mean
    coverage: Mean
    diversity: Mean | None = None
    share: Mean | None = None
    inception_score: Mean | None = None
    alignment: Mean | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Study:
    """The model, the data and the options that all sets of samples share.

    Attributes:
        model: the trained model, with its guides.
        schedule: of config.guidance.schedule, whose options hold for all schedules.
        options: of the study.
        fn: gives the features.
        truth: the training data.
        judge: an independent classifier; None for none.
        parts: keeps what was measured.
        embeddings: of captions, in the space of the features; None for none.
    """

    model: Pipeline
    schedule: Schedule
    options: Options
    fn: FeatureFunction
    truth: Reference
    judge: Classifier | None
    parts: Parts
    embeddings: Embeddings | None = None

    def settings(self, solvers: Sequence[tuple[str, NoiseLevelSolver]]) -> list[Setting]:
        """All combinations of schedule and solver."""
        schedules = self.options.compared(self.schedule).items()
        return [Setting(*schedule, *solver) for schedule in schedules for solver in solvers]

    def measure(
        self, settings: Sequence[Setting], track: Callable[[Any], Any] = iter
    ) -> Iterator[tuple[Result, np.ndarray]]:
        """For each setting and weight the statistics over seeds, and images of the first seed."""
        options, seed = self.options, self.model.seed
        seeds = range(seed, seed + options.n_seeds)
        draws: dict[Setting, Draw] = {}
        for setting, weight in track(list(itertools.product(settings, options.weights))):
            if setting not in draws:
                draws = {setting: self.make_draw(setting)}
            sets = [self.one_set(setting, draws[setting], weight, each) for each in seeds]
            values = {
                name: Mean.of([float(each[name]) for each in sets])
                for name in sets[0]
                if name != "images"
            }
            about = setting.label, setting.name, setting.solver.nfe, weight
            yield Result(*about, **values), sets[0]["images"]

    def make_draw(self, setting: Setting) -> Draw:
        """draw(weight, seed, first): one program for all weights and seeds."""
        model = self.model.replace(sampler=setting.solver)
        size, sampler = self.size, analytic.resolved_sampler(model)

        @jax.jit
        def program(weight, params, *arguments):
            guided = weighted(model.replace(params=None), weight, setting.schedule)
            return drawing.make_batch(guided, sampler, size, 0)(params, *arguments).x

        def draw(weight: float, seed: int, first: int) -> Any:
            conditions = model.sample_conditions(first + np.arange(size))
            own = [guide.params for guide in model.guides]
            key = model.replace(seed=seed).key
            return program(jnp.float32(weight), model.weights, own, key, conditions, first)

        return draw

    def one_set(self, setting: Setting, draw: Draw, weight: float, seed: int) -> Arrays:
        """The statistics of one set of samples, and the first images."""
        about = setting.label, setting.name, setting.solver.nfe, weight, seed
        return self.parts("_".join(map(str, about)), lambda: self.compute(draw, weight, seed))

    def compute(self, draw: Draw, weight: float, seed: int) -> Arrays:
        """The statistics of one set of samples."""
        model, n = self.model, self.options.n_samples
        judged, shown = [], []

        def images(first: int) -> np.ndarray:
            x = devices.fetch(draw(weight, seed, first))
            if self.judge is not None:
                judged.append(self.judged(x, first))
            shown.append(x[:N_SHOWN])
            return model.to_pixels(x)

        drawn = model.image_scaling, self.fn, images, self.size, n, model.mesh
        moments, values = reference.sampled_features(*drawn, title="")
        rows = values["features"]
        distances = reference.distances(moments, rows, self.truth, seed)
        near = self.truth.features, rows[:PAIRED]
        found: dict[str, Any] = {"frechet": distances.frechet, "kernel": distances.kernel}
        found |= quality.precision_recall(*near)._asdict()
        found |= quality.density_coverage(*near)._asdict()
        labels = drawing.classes(model, np.arange(n))
        if labels is not None:
            spread = within(rows, labels)
            if spread is not None:
                found["diversity"] = spread / scale(self.truth)
        if judged:
            found["share"] = np.mean(np.concatenate(judged)[:n])
        if "logits" in values:
            found["inception_score"] = quality.inception_score(values["logits"]).mean
        if self.embeddings is not None:
            found["alignment"] = alignment.figures(self.embeddings, rows)["alignment"].value
        return {name: np.asarray(value) for name, value in found.items()} | {
            "images": model.to_images(np.concatenate(shown)[:N_SHOWN])
        }

    def judged(self, x: np.ndarray, first: int) -> np.ndarray:
        """True for each sample that the classifier takes for its class, [B]."""
        assert self.judge is not None
        labels = drawing.classes(self.model, first + np.arange(len(x)))
        if labels is None:
            raise ValueError(f"{SECTION}.classifier judges classes, but the model has none")
        t = jnp.full(len(x), self.model.sde.t_min)
        log_probs = jax.jit(self.judge.log_probs)(self.judge.params, x, t)
        return np.asarray(log_probs).argmax(axis=1) == labels

    @property
    def size(self) -> int:
        """Samples in a batch."""
        n = self.options.n_samples
        return devices.round_up(self.model.mesh, drawing.batch_size(self.model, n))


def check(model: Pipeline, schedules: Iterable[Schedule], embeddings: Embeddings | None) -> None:
    """Raises ValueError for a model without a condition to guide by, or impossible options."""
    for schedule in schedules:
        schedule.weight(2.0, model.sde)
        weighted(model, 2.0, schedule)
    if embeddings is not None and embeddings.images is not None:
        raise ValueError(
            "config.eval.embeddings has 'images', which are of one set of samples, and a study "
            "draws many: give embeddings of captions alone, in the space of the features"
        )


def weighted(model: Pipeline, weight: Any, schedule: Schedule) -> Pipeline:
    """The model with this scale and schedule, of its guide model or classifier if one guides it.

    Raises:
        ValueError: a model without a condition to guide by, or one without an unconditional score.
    """
    changes = {"weight": weight, "schedule": schedule}
    if model.auto:
        return model.replace(auto=dataclasses.replace(model.auto, **changes))
    if any(isinstance(guide, Classifier) for guide in model.guides):
        guides = (
            dataclasses.replace(guide, **changes) if isinstance(guide, Classifier) else guide
            for guide in model.guides
        )
        return model.replace(guides=tuple(guides))
    return model.replace(classifier_free=dataclasses.replace(model.classifier_free, **changes))


def within(rows: np.ndarray, labels: np.ndarray) -> float | None:
    """Root mean square distance of features from the mean of their class, without bias.

    None if no class has two samples.
    """
    squares, n = 0.0, len(rows) - len(np.unique(labels))
    if n == 0:
        return None
    for label in np.unique(labels):
        own = rows[labels == label]
        squares += np.sum((own - own.mean(axis=0)) ** 2)
    return math.sqrt(squares / n)


def scale(truth: Reference) -> float:
    """Root mean square distance of the data's features from their mean."""
    return math.sqrt(np.trace(truth.moments.covariance))
