"""The model that a study looks at, with its solvers and guides, from the request of a command.

This is the studies' part of the door: what it returns knows no config.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

import samplers
from experiments.build import data, guidance, related
from experiments.build.components import diffusion, optimization, sampling, specs
from experiments.build.fields import sections
from experiments.commands.request import Request
from experiments.data.sources.points import MIXTURE
from experiments.evaluation import reference
from experiments.evaluation.features import FeatureFunction
from experiments.evaluation.reference import Reference
from experiments.pipeline.guidance import GUIDES, Discriminator, EpsilonScaling, Guide
from experiments.pipeline.pipeline import Pipeline
from experiments.runs import parts
from models.config import Config
from samplers.registry import Sampler
from samplers.solver import NoiseLevelSolver
from sde_lib import SDE, GaussianMixture, ScoreFn


def table_path(folder: Path, name: str, options: Any, seed: int, step: int | None = None) -> Path:
    """The file of a study's table. Other options have another one, and do not replace this.

    Args:
        folder: the run's, or that of a study without a run.
        name: of the study.
        options: all that the table depends on beside the model.
        seed: of the samples.
        step: of the run's checkpoint; None without a run.
    """
    about = f"seed{seed}" if step is None else f"{step}_seed{seed}"
    return folder / f"{name}_{about}_{parts.digest(options)[:6]}.jsonl"


class Subject(NamedTuple):
    """A model without guides, and its description.

    Attributes:
        model: a trained one, or a mixture with its exact score.
        about: a description for tables and pictures.
        exact: exact(n) draws n samples of the very distribution, [n, D]; None for a trained model.
    """

    model: Pipeline
    about: str
    exact: Callable[[int], np.ndarray] | None = None


@dataclasses.dataclass(frozen=True)
class ExactModel:
    """A mixture with its exact score, in place of a models.NoiseModel.

    Attributes:
        mixture: the distribution of the data.
        sde: the forward SDE.
    """

    mixture: GaussianMixture
    sde: SDE
    gives: ClassVar[str] = "score"

    def score_fn(self, params: Any, **conditions: Any) -> ScoreFn:
        """The exact score. It has no parameters and no conditions."""
        return self.mixture.score_fn(self.sde)


@dataclasses.dataclass(frozen=True, eq=False)
class Corrections:
    """Epsilon scaling and a discriminator's guidance, in their order.

    Attributes:
        discriminator: the guidance; None for epsilon scaling alone.
        scaled_last: divide the noise after the guidance.
    """

    discriminator: Discriminator | None = None
    scaled_last: bool = False

    @property
    def params(self) -> Any:
        """The discriminator's weights; () without one."""
        return self.discriminator.params if self.discriminator else ()

    def applied(
        self, model: Pipeline, scaling: EpsilonScaling, params: Any, weight: Any = None
    ) -> Pipeline:
        """The model with both guides, whose numbers may be traced.

        Args:
            model: without guides.
            scaling: the scaling of the predicted noise.
            params: the discriminator's weights.
            weight: of its guidance; None for its own.
        """
        guides: tuple[Guide, ...] = (scaling,)
        if self.discriminator is not None:
            changes = {} if weight is None else {"weight": weight}
            guide = dataclasses.replace(self.discriminator, params=params, **changes)
            guides = (guide, scaling) if self.scaled_last else (scaling, guide)
        return model.replace(guides=guides)


def subject(request: Request) -> Subject:
    """The run's trained model; without a run, the data set "mixture" by its exact score.

    Raises:
        ValueError: there is no run, and the data set is not the mixture.
    """
    config, folder = request.config, request.folder
    if config.data.dataset == "mixture" and not (folder / "checkpoints").exists():
        return exact(config)
    model = unguided(request)
    return Subject(model, f"the model of {folder} after {model.step} steps, under {model.sde}")


def exact(config: Config) -> Subject:
    """The data set "mixture" with its exact score, under the config's SDE."""
    mixture, sde, key = MIXTURE, diffusion.sde(config), jax.random.key(config.seed + 1)
    known: Any = ExactModel(mixture, sde)
    model = Pipeline(
        known,
        {},
        related.shape(config),
        specs.scaling(config),
        sampling.sampler(config),
        data.lazily(config),
        mesh=optimization.mesh(config),
        seed=config.seed,
        batch_size=config.sampling.batch_size,
    )
    about = f"eight Gaussians on a circle, by their exact score, under {sde}"
    return Subject(model, about, lambda n: np.asarray(mixture.sample(key, n), np.float64))


def unguided(request: Request) -> Pipeline:
    """The run's trained model, without the guides that the config asks for.

    Raises:
        ValueError: there is no run, or one of a super-resolution model.
    """
    config = request.config.copy_and_resolve_references()
    if config.model.low_res_size:
        raise ValueError(
            f"config.model.low_res_size is {config.model.low_res_size}, but the studies know no "
            "super-resolution: give another run"
        )
    for field in guide_fields():
        sections.put(config, field, sections.get(sections.DEFAULT, field))
    model = dataclasses.replace(request, config=config).model()
    model.check_diffuses_data("this study")
    return model


def features(request: Request, model: Pipeline) -> tuple[FeatureFunction, Reference]:
    """The features that samples are compared by, and those of the training data.

    Samples of latents are decoded, and compared with images.
    """
    config = request.config
    found = data.images(config) if model.decoder else model.dataset()
    shape, scaling = specs.feature_shape(config), model.scaling
    fn = reference.feature_function(shape, config.eval.features, scaling)
    about = request.folder.parent / "stats", model.mesh, config.eval.batch_size
    return fn, reference.reference(config.data.dataset, found, fn, *about)


def with_defaults(section: Config, **defaults: Any) -> dict[str, Any]:
    """A study's options, with these in place of those that are not set: None, or ()."""
    given = section.to_dict()
    unset = {name for name in defaults if given[name] in (None, ())}
    return given | {name: defaults[name] for name in unset}


def guide_fields() -> list[str]:
    """The config fields of all guides."""
    own = {name: sections.DEFAULT.guidance.get(name) or () for name in (*GUIDES, "auto")}
    return [f"guidance.{name}.{option}" for name, options in own.items() for option in options]


def set_fields(config: Config, fields: Iterable[str]) -> list[str]:
    """Returns those of the fields that differ from their defaults."""
    return [field for field in fields if sections.is_set(config, field)]


def corrections(config: Config, model: Pipeline) -> Corrections:
    """The discriminator that config.guidance names, if any, and the order of both corrections.

    Raises:
        ValueError: a discriminator that does not know this model.
    """
    scaled_last = bool(config.guidance.epsilon_scaling.guided)
    if not config.guidance.discriminator.run:
        return Corrections(None, scaled_last)
    guide = guidance.discriminator(config, model.sde, model.params)
    model.replace(sampler=samplers.Heun(), guides=(guide,))  # checks that they go together
    return Corrections(guide, scaled_last)


def solvers(
    config: Config, names: Iterable[str], counts: Iterable[int]
) -> list[tuple[str, NoiseLevelSolver]]:
    """The solvers of these names, each with these numbers of network evaluations.

    Raises:
        ValueError: no solver of noise levels, an impossible number, or a solver that does not go
            with the SDE or with a discriminator.
    """
    sde, made = diffusion.sde(config), []
    for name, nfe in itertools.product(names, counts):
        solver = sampling.solver(config, name, nfe)
        if config.guidance.discriminator.run and not solver.takes_tuple:
            raise ValueError(
                f"{name} does not tell the first evaluation of a step from the others, which a "
                "discriminator's weights do: take another solver"
            )
        evaluations(solver, sde)
        made.append((name, solver))
    return made


def evaluations(sampler: Sampler, sde: SDE) -> int:
    """The network evaluations of a sampler with fixed steps, found by tracing it.

    Raises:
        ValueError: the sampler does not go with the SDE.
    """
    found: list[Any] = []

    def trace(key: jax.Array) -> None:
        found.append(sampler(key, sde, lambda x, t: x, (1, 2)).nfe)

    jax.eval_shape(trace, jax.random.key(0))
    return found[0]


def check_not_empty(section: str, **fields: Any) -> None:
    """Raises ValueError for a field of a study's section that has no values."""
    for name, values in fields.items():
        if not values:
            raise ValueError(f"config.{section}.{name} is empty: give one or more")
