"""The use of a trained model: its sampler, likelihoods, guidance schedule and edits."""

import dataclasses
from pathlib import Path
from typing import Any

import samplers
import sde_lib
from experiments.build.components import diffusion, grids
from experiments.build.fields import choices, sections
from experiments.pipeline.edit import Edit, Fit
from experiments.pipeline.labels import as_labels
from experiments.pipeline.model import LikelihoodOptions
from models.config import Config
from samplers.guidance_schedules import Schedule
from samplers.registry import Sampler
from samplers.solver import NoiseLevelSolver
from sde_lib.checks import check_at_least, check_name


def sampler(config: Config) -> Sampler:
    """The sampler that config.sampling describes."""
    name, options = choices.SAMPLER.read(config)
    choices.PREDICTOR.check(config)
    choices.CORRECTOR.check(config)
    known = choices.SAMPLER.components[name]
    defaults = {key: value for key, value in choices.SAMPLING_DEFAULTS.items() if key in known}
    if options.get("log_prob"):
        del defaults["denoise"]  # the densities are those of the flow's own samples
    return samplers.create(name, **_with_levels(config, name, defaults | options))


def _with_levels(config: Config, name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options of a sampler, with the levels in the file that config.sampling.grid may name."""
    grid = options.get("grid")
    if not _is_file(grid):
        return options
    plain: Any = samplers.create(name, **{k: v for k, v in options.items() if k != "grid"})
    if not hasattr(plain, "n_levels"):
        return options
    return options | {"grid": grids.levels(Path(str(grid)), diffusion.sde(config), plain.n_levels)}


def _is_file(value: Any) -> bool:
    """True for the path of a file of grids."""
    return isinstance(value, str) and value.endswith(grids.ENDING)


def solver(config: Config, name: str, nfe: int) -> NoiseLevelSolver:
    """The solver of this name that ends with x_0 after nfe network evaluations.

    Options of config.sampling that it has hold for it too.

    Raises:
        ValueError: no solver from noise level to noise level, none of nfe evaluations, or an option
            of config.sampling that only other solvers have.
    """
    known = {name for name, kind in samplers.SAMPLERS.items() if issubclass(kind, NoiseLevelSolver)}
    check_name("solver", name, known)
    check_at_least(2, nfe=nfe)
    fields = choices.SAMPLER.components[name]
    options_of_all = {
        field for other in known for field in choices.SAMPLER.components[other].values()
    }
    for field in sorted(options_of_all - set(fields.values())):
        if sections.is_set(config, field):
            raise ValueError(
                f"config.{field} is {sections.get(config, field)!r}, but the solver {name!r} has "
                "no such option: leave it out"
            )
    values = {option: sections.get(config, field) for option, field in fields.items()}
    options = {k: v for k, v in values.items() if v is not None} | {"denoise": True}

    def create(n_steps: int) -> Any:
        return samplers.create(name, **plain | {"n_steps": n_steps})

    plain = {key: value for key, value in options.items() if not _is_file(value)}
    made = next(solver for solver in map(create, range(nfe, 0, -1)) if solver.nfe <= nfe)
    if made.nfe != nfe:
        raise ValueError(
            f"{name} makes {made.nfe} network evaluations in {made.n_steps} steps and "
            f"{create(made.n_steps + 1).nfe} in one more, never {nfe}: choose one of those"
        )
    chosen: Any = samplers.create(
        name, **_with_levels(config, name, options | {"n_steps": made.n_steps})
    )
    return chosen


def likelihood(config: Config) -> LikelihoodOptions:
    """The options of likelihoods."""
    names = (field.name for field in dataclasses.fields(LikelihoodOptions))
    return LikelihoodOptions(**{name: config.eval[name] for name in names})


def edit(config: Config) -> Edit:
    """The edit that config.edit describes."""
    name, options = choices.EDIT.read(config)
    choices.POSTERIOR.read(config)
    check_at_least(
        2 if name == "interpolate" else 1, **{"config.edit.n_images": config.edit.n_images}
    )
    return Edit(name, **options)


def fit(config: Config) -> Fit:
    """The way in which mode edit brings images to the model's size."""
    return Fit(**{name: config.edit[name] for name in ("crop", "filter", "background")})


def labels(config: Config) -> tuple[int, ...]:
    """The classes to draw, in turn; () for all of them."""
    if config.sampling.labels and config.sampling.label != -1:
        raise ValueError("config.sampling.label and .labels are both set: leave one of them out")
    return as_labels(tuple(config.sampling.labels) or config.sampling.label)


def guidance_schedule(config: Config, sde: sde_lib.SDE) -> Schedule:
    """The schedule of the guidance's weights."""
    name, options = choices.GUIDANCE_SCHEDULE.read(config)
    made = Schedule(name, tuple(sorted(options.items())))
    made.weight(1.0, sde)  # checks its options
    return made
