"""Sets of samples of a model with its corrections, and their distances to the data."""

import dataclasses
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.evaluation import reference
from experiments.evaluation.features import FeatureFunction
from experiments.evaluation.reference import Distances, Reference
from experiments.pipeline import analytic
from experiments.pipeline.draw import batch_size, make_batch
from experiments.pipeline.guidance import EpsilonScaling
from experiments.pipeline.pipeline import Pipeline
from experiments.runs import devices
from experiments.runs.parts import Parts
from experiments.studies.subject import Corrections
from samplers.solver import NoiseLevelSolver
from sde_lib.batch import Batch


class Setting(NamedTuple):
    """The numbers that an arm chooses.

    w: guidance weight. The predicted noise is divided by b + step_slope i + slope t, where i is the
    number of the sampler's step. window and cutoff: of the time shift. perturbed: by the model that
    was trained with input perturbation.
    """

    w: float
    b: float
    step_slope: float = 0.0
    slope: float = 0.0
    window: float = 0.0
    cutoff: float = 0.0
    perturbed: bool = False


Draw = Callable[[Setting, int, int], Batch]
"""draw(setting, seed, first index)"""


class Sets:
    """Sets of samples by their settings, and their distances to the data, which are kept.

    `perturbed` are the sets of the model that was trained with input perturbation, if there is one.

    Args:
        model: without guides.
        corrections: the discriminator, if there is one, and the order.
        fn: gives the features of samples.
        truth: those of the data.
        folder: keeps the distances.
    """

    def __init__(
        self,
        model: Pipeline,
        corrections: Corrections,
        fn: FeatureFunction,
        truth: Reference,
        folder: Path,
    ):
        self.model, self.corrections, self.fn, self.truth = model, corrections, fn, truth
        self.folder, self.scaling = folder, model.image_scaling
        self.perturbed: Sets | None = None
        self._draws: dict[Any, Draw] = {}
        self._parts: dict[Any, Parts] = {}

    def measure(
        self, name: str, solver: NoiseLevelSolver, setting: Setting, seed: int, n: int
    ) -> Distances:
        """The distances of n samples to the data; name is that of the solver."""
        if setting.perturbed and self.perturbed:
            return self.perturbed.measure(name, solver, setting._replace(perturbed=False), seed, n)
        size = batch_size(self.model, n)
        draw = self._drawer(solver, setting.w > 0, size)

        def compute() -> dict[str, np.ndarray]:
            images = partial(self._images, draw, setting, seed)
            drawn = self.scaling, self.fn, images, size, n, self.model.mesh
            moments, values = reference.sampled_features(*drawn, title="")
            found = reference.distances(moments, values["features"], self.truth, seed)
            return {name: np.asarray(value) for name, value in found._asdict().items()}

        part = self._part(solver, setting.w > 0, n)
        found = part(f"{name}_{solver.nfe}_{_numbers(setting)}_{seed}", compute)
        return Distances(**{name: value.item() for name, value in found.items()})

    def samples(self, solver: NoiseLevelSolver, setting: Setting, seed: int, n: int) -> np.ndarray:
        """The first n samples of a seed, decoded. They are kept."""
        if setting.perturbed and self.perturbed:
            return self.perturbed.samples(solver, setting._replace(perturbed=False), seed, n)
        guided, sizes = setting.w > 0, [size for *key, size in self._draws if key[0] == solver]

        def compute() -> dict[str, np.ndarray]:
            size = max(sizes, default=0)  # a program that is compiled already, if it holds them all
            draw = self._drawer(solver, guided, size if size >= n else batch_size(self.model, n))
            rows, first = [], 0
            while sum(map(len, rows)) < n:
                rows.append(self._images(draw, setting, seed, first))
                first += len(rows[-1])
            return {"x": np.concatenate(rows)[:n]}

        part = self._part(solver, guided, n)
        return part(f"samples_{_numbers(setting)}_{seed}", compute)["x"]

    @property
    def can_be_shown(self) -> bool:
        """True for images of grey levels, and for points in the plane."""
        shape = self.model.image_shape
        return bool(len(shape) == 3 and self.scaling.levels) or shape == (2,)

    def _images(self, draw: Draw, setting: Setting, seed: int, first: int) -> np.ndarray:
        return self.model.to_pixels(devices.fetch(draw(setting, seed, first)))

    def _drawer(self, solver: NoiseLevelSolver, guided: bool, size: int) -> Draw:
        key = solver, guided, size
        if key not in self._draws:
            own = self.corrections if guided else Corrections()
            self._draws[key] = make_draw(self.model.replace(sampler=solver), own, size)
        return self._draws[key]

    def _part(self, solver: NoiseLevelSolver, guided: bool, n: int) -> Parts:
        key = solver, guided, n
        if key not in self._parts:
            inputs = [self._identity, n, self.fn.name, self.fn.version, self.truth.path.name]
            inputs.append(solver)
            if guided:
                own, solving = self.corrections, self.model.replace(sampler=solver)
                inputs.append(own.applied(solving, EpsilonScaling(), own.params, 1.0).identity())
            self._parts[key] = Parts(self.folder, f"guided_{guided}", inputs)
        return self._parts[key]

    @cached_property
    def _identity(self) -> str:
        return self.model.identity()


def _numbers(setting: Setting) -> str:
    """The numbers of a setting, for the name of a part."""
    if any(setting[4:]):
        return "_".join(map(str, setting[:-1]))
    return "_".join(map(str, setting[:4] if any(setting[2:4]) else setting[:2]))


def make_draw(model: Pipeline, corrections: Corrections, size: int) -> Draw:
    """draw(setting, seed, first): `size` samples; one program for all numbers, one with a shift.

    Without a discriminator, w has no effect.
    """
    sampler = analytic.resolved_sampler(model)

    @partial(jax.jit, static_argnames="shifted")
    def batch(params, discriminator_params, setting, key, conditions, first, shifted):
        scaling = EpsilonScaling(setting.b, setting.slope, setting.step_slope)
        guided = corrections.applied(model, scaling, discriminator_params, setting.w)
        own = [guide.params for guide in guided.guides]
        shift = {"shift_window": setting.window, "shift_cutoff": setting.cutoff}
        solver: Any = dataclasses.replace(sampler, **shift) if shifted else sampler
        return make_batch(guided, solver, size, 0)(params, own, key, conditions, first).x

    def draw(setting: Setting, seed: int, first: int) -> Batch:
        numbers: Any = jax.tree.map(jnp.float32, setting)
        conditions = model.sample_conditions(first + np.arange(size))
        params, key = (model.params, corrections.params), jax.random.key(seed)
        return batch(*params, numbers, key, conditions, first, shifted=setting.window > 0)

    return draw
