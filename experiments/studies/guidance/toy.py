"""Mode study, config.study.name = "autoguidance": what two ways of guidance do to rare modes.

    python -m experiments.main --config=configs/points.py:mixture --mode=study \\
        --config.study.name=autoguidance

Points of a class (tree.py) are sampled with classifier-free guidance and with autoguidance, at each
scale. The scores are those of too wide Gaussians, and those of small trained networks. The table
has the share of the samples outside of the data, and the modes that are left. No run is needed.
"""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import samplers
from experiments.build.components import diffusion
from experiments.commands.request import Request
from experiments.runs import charts, pictures, progress
from experiments.studies.guidance import networks, tree
from experiments.studies.guidance.networks import ConditionalScore
from experiments.studies.guidance.points import Points
from experiments.studies.guidance.tree import Tree
from experiments.studies.statistics import Mean, Truth, save_results
from experiments.studies.subject import check_not_empty
from samplers import guidance
from sde_lib import SDE, ScoreFn
from sde_lib.checks import check_at_least, check_positive

SECTION = "config.study.autoguidance"
SOLVER = samplers.Heun(n_steps=24)
WIDE, WIDER = 2.5, 5.0  # standard deviations of the models, over that of the data
HALF_WIDTH = 2.4  # of the picture


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of the study, config.study.autoguidance.

    Attributes:
        weights: guidance scales.
        n_samples: in a set.
        n_seeds: sets of each setting.
        n_iters: training steps of the network; 0: no networks are trained.

    Raises:
        ValueError: an impossible number, or nothing to compare.
    """

    weights: tuple[float, ...]
    n_samples: int
    n_seeds: int
    n_iters: int

    def __post_init__(self):
        check_not_empty("study.autoguidance", weights=self.weights)
        for weight in self.weights:
            check_positive(or_zero=True, **{f"{SECTION}.weights": weight})
        check_at_least(2, **{f"{SECTION}.n_samples": self.n_samples})
        check_at_least(2, **{f"{SECTION}.n_seeds": self.n_seeds})
        check_at_least(0, **{f"{SECTION}.n_iters": self.n_iters})


class Models(NamedTuple):
    """The conditional scores of a model and of its guide model."""

    own: ConditionalScore
    guide: ConditionalScore


class Result(NamedTuple):
    """Samples of one setting; means over seeds, with standard errors.

    Attributes:
        models: where the scores are from.
        guidance: the kind; "exact" for exact samples.
        weight: the guidance scale; 1: the model alone.
        outside: share of the samples outside of the data's region (tree.OUTSIDE of the data are).
        kept: share of the modes that have at least half of their samples.
        least: samples in the mode that lost most, over those that it should have.
        distance: sliced Wasserstein-1 distance to the class.
    """

    models: str
    guidance: str
    weight: float
    outside: Mean
    kept: Mean
    least: Mean
    distance: Mean


def run(request: Request) -> None:
    """Measures all settings; prints the table, and saves it as JSON lines and a picture.

    Raises:
        ValueError: an impossible option.
    """
    config, folder = request.config, request.folder
    options = Options(**config.study.autoguidance.to_dict())
    results: list[Result] = []
    shown: dict[str, dict[str, Points]] = {}
    track = partial(progress.track, title="autoguidance", unit="setting")
    for result, x in measure(diffusion.sde(config), options, config.seed, track):
        results.append(result)
        if result.models != "exact":
            row = shown.setdefault(f"{result.models}\n{result.guidance}", {})
            row[f"w = {result.weight:g}"] = x
    path = folder / f"autoguidance_seed{config.seed}.jsonl"
    save_results(path, results)
    about = pictures.provenance(config=config.to_dict(), seed=config.seed)
    print(charts.save_clouds(path.with_suffix(".png"), shown, HALF_WIDTH, about))


def measure(
    sde: SDE, options: Options, seed: int, track: Callable[[Any], Any] = iter
) -> Iterator[tuple[Result, Points]]:
    """The statistics of exact samples, then of each setting; with the points of the first seed."""
    trees = [tree.tree(root) for root in tree.ROOTS]
    own, n = trees[0], options.n_samples
    truth = Truth.of(tree.exact(own.mixture, 10 * n, seed), n)
    seeds = range(seed, seed + options.n_seeds)
    sets = [tree.exact(own.mixture, n, seed + 1 + k) for k in seeds]
    yield _result("exact", "none", 1.0, own, sets, truth), sets[0]
    makers: dict[str, Callable[[], Models]] = {"wide": lambda: widened(sde, trees)}
    if options.n_iters:
        makers["trained"] = lambda: trained(sde, trees, options.n_iters, seed)
    settings = [
        (name, kind, weight)
        for name in makers
        for kind in KINDS
        for weight in dict.fromkeys((1.0, *options.weights))
    ]
    programs: dict[tuple[str, str], Any] = {}
    made: dict[str, Models] = {}
    for name, kind, weight in track(settings):
        if name not in made:
            made[name] = makers[name]()
        if (name, kind) not in programs:
            programs[name, kind] = jax.jit(partial(_draw, sde, KINDS[kind], made[name], n))
        drawn = [np.asarray(programs[name, kind](jax.random.key(k), weight)) for k in seeds]
        sets = [x.astype(np.float64) for x in drawn]
        yield _result(name, kind, weight, own, sets, truth), sets[0]


def classifier_free(models: Models, weight: Any, labels: Array) -> ScoreFn:
    """Classifier-free guidance of the model."""
    return guidance.classifier_free(models.own, labels, weight)


def autoguidance(models: Models, weight: Any, labels: Array) -> ScoreFn:
    """Guidance of the model by the guide model, both of the class."""
    own, guide = (lambda x, t, score=score: score(x, t, labels) for score in models)
    return guidance.autoguidance(own, guide, weight)


KINDS = {"classifier_free": classifier_free, "autoguidance": autoguidance}


def widened(sde: SDE, trees: list[Tree]) -> Models:
    """Exact scores of the data with wider Gaussians; those of the guide model are wider still."""

    def conditional(factor: float) -> ConditionalScore:
        wide = [
            dataclasses.replace(mixture, std=factor * mixture.std).score_fn(sde)
            for mixture in (trees[0].mixture, tree.both(trees))
        ]
        return lambda x, t, labels: jnp.where((labels == 0)[:, None], *(s(x, t) for s in wide))

    return Models(conditional(WIDE), conditional(WIDER))


def trained(sde: SDE, trees: list[Tree], n_iters: int, seed: int) -> Models:
    """A trained network, and a smaller one that is trained for fewer steps."""
    return Models(*(networks.train(sde, trees, size, seed) for size in networks.sizes(n_iters)))


def _draw(sde: SDE, kind: Any, models: Models, n: int, key: Array, weight: Any) -> Array:
    """n samples of the first class."""
    return SOLVER(key, sde, kind(models, weight, jnp.zeros(n, jnp.int32)), (n, 2)).x


def _result(
    models: str, kind: str, weight: float, own: Tree, sets: list[Points], truth: Truth
) -> Result:
    """The statistics of sets of samples."""
    found = [own.found(x) for x in sets]
    return Result(
        *(models, kind, weight),
        Mean.of([own.outside(x) for x in sets]),
        Mean.of([float(np.mean(each >= tree.KEPT)) for each in found]),
        Mean.of([float(each.min()) for each in found]),
        Mean.of([truth.errors(x)[2] for x in sets]),
    )
