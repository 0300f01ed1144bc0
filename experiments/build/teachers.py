"""Teachers of consistency models from configs: trained score models in config.objective.teacher."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import jax

from experiments.build import related
from experiments.build.components import diffusion, networks
from experiments.runs import devices
from experiments.tasks.few_steps import Teacher
from models.config import Config

ALIKE = (
    *("class_conditional", "label_confidence", "augment_dim"),
    *("text", "vector_dim", "attributes"),
)
"""Conditions that a teacher must have like its student."""


def teacher(config: Config) -> Callable[[], Teacher] | None:
    """Loads the teacher in config.objective.teacher when it is called; None without one.

    Raises:
        ValueError: no run, no score model, or one of another SDE, shape, data or conditions.
    """
    if not config.objective.teacher:
        return None
    folder = Path(config.objective.teacher)
    theirs = related.config(config, folder, "config.objective.teacher", "score")
    _check(config, theirs, folder)
    model = networks.noise_model(theirs, diffusion.sde(theirs), related.shape(theirs))

    @cache
    def load() -> Teacher:
        with jax.ensure_compile_time_eval():  # a train step is traced here
            params = devices.fetch(related.weights(theirs, folder)[0])
        return lambda conditions: model.score_fn(params, **conditions)

    return load


def _check(config: Config, theirs: Config, folder: Path) -> None:
    """Raises ValueError for a teacher whose probability flow is not that of the student's data."""
    name = theirs.objective.name
    if name == "consistency" or theirs.latent.name:
        field = "latent.name" if theirs.latent.name else "objective.name"
        raise ValueError(
            f"config.objective.teacher, {folder}, was trained with config.{field}="
            f"{theirs.latent.name or name!r} and has no probability flow of data: give a run of "
            "the objective 'denoising'"
        )
    if theirs.objective.bridge or theirs.source.name not in ("", "reflow"):
        raise ValueError(
            f"config.objective.teacher, {folder}, was trained with a source or with bridges, and "
            "has no probability flow from noise: give another run"
        )
    related.check_noise(config, theirs, folder, "teacher")
    for field in ALIKE:
        here, there = (each.model.get(field) or None for each in (config, theirs))
        if here != there:
            raise ValueError(
                f"config.model.{field} is {here!r}, and {there!r} in the teacher, {folder}: set it "
                "alike, or give another config.objective.teacher"
            )
    low_res = config.model.low_res_size, theirs.model.low_res_size
    images = config.image_condition.name, theirs.image_condition.name
    if low_res[0] != low_res[1] or images[0] != images[1]:
        raise ValueError(
            f"the teacher in config.objective.teacher, {folder}, sees other images beside x: set "
            "config.model.low_res_size and config.image_condition as it has them"
        )
