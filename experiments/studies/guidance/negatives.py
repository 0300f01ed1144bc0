"""Negative prompts and classes of a trained model: one grid, all from the same noise."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.pipeline.conditions import ClassLabel, Text
from experiments.pipeline.pipeline import Pipeline
from experiments.runs import devices, pictures
from experiments.studies.guidance.trained import N_SHOWN, Setting, Study

NONE = "none"


def models(model: Pipeline, negatives: Sequence[str | int]) -> dict[str, Pipeline]:
    """The model without a negative condition, and with each of these, by name.

    They are texts of a model that knows text, and otherwise numbers of classes.

    Raises:
        ValueError: a model without text and classes, or a text or class that it cannot have.
    """
    members = model.conditions.members
    place = next((k for k, each in enumerate(members) if isinstance(each, Text)), None)
    if place is None:
        place = next((k for k, each in enumerate(members) if isinstance(each, ClassLabel)), None)
    if place is None:
        raise ValueError(
            f"config.study.guidance.negatives is {tuple(negatives)}, but the model knows neither "
            "text nor classes: leave it out"
        )
    made = {}
    for negative in ("", *map(str, negatives)):
        own: list[Any] = list(members)
        own[place] = own[place].against(negative)
        conditions = dataclasses.replace(model.conditions, members=tuple(own))
        made[negative or NONE] = model.replace(conditions=conditions)
    return made


def save(
    path: Path,
    study: Study,
    setting: Setting,
    negatives: Sequence[str | int],
    about: dict[str, str],
) -> Path:
    """Saves a grid: a row for each seed, a column for each negative condition, at one scale.

    The scale is the largest of the study.
    """
    weight, columns = max(study.options.weights), []
    made = models(study.model, negatives)
    for model in made.values():
        draw = dataclasses.replace(study, model=model).make_draw(setting)
        x = devices.fetch(draw(weight, model.seed, 0))[:N_SHOWN]
        columns.append(model.to_images(x))
    grid = np.stack(columns, axis=1)
    rows = grid.reshape(-1, *grid.shape[2:])
    titles = [name if name == NONE else f"not {name}" for name in made]
    return pictures.save_grid(path, rows, len(columns), about, titles)
