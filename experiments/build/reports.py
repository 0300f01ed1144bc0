"""Reports of a run: the model to be measured, and the facts on its cards."""

from pathlib import Path
from typing import Any

import models
from experiments.build import data
from experiments.build.components import specs
from experiments.build.fields import configs
from experiments.data.inspection import content
from experiments.data.sources import SOURCES
from experiments.evaluation import metrics
from experiments.evaluation.reference import feature_function
from experiments.runs.card import Facts
from experiments.tasks.base import Task
from models.config import Config

ALWAYS = ("model.name", "seed", "training.sde")  # fields of the config that every card has


def subject(config: Config, pipeline: Any, dataset: Any, losses: Any) -> metrics.Subject:
    """A model to be measured by experiments/evaluation/metrics.py; dataset None: without data."""
    real = dataset and (dataset.real or dataset)
    images = data.images(config) if config.data.autoencoder and dataset else real
    return metrics.Subject(
        pipeline,
        dataset,
        images,
        config.data.dataset,
        losses,
        feature_function(specs.feature_shape(config), config.eval.features, pipeline.scaling),
        config.eval.num_samples,
        Path(config.eval.statistics) if config.eval.statistics else None,
        config.eval.n_seeds,
        Path(config.eval.embeddings) if config.eval.embeddings else None,
    )


def card_facts(config: Config, task: Task, dataset: Any, n_params: int) -> Facts:
    """The facts of a model card that are known when training starts."""
    about, data_ = task.describe(), config.data
    what = models.describe(specs.data_shape(config))
    limits = [
        f"It knows {what} like those of `{data_.dataset}`, and nothing else: what is rare or "
        "one-sided there is so here.",
        *about.limits,
    ]
    return Facts(
        about.kind,
        data_.dataset,
        about.purpose,
        about.use,
        limits,
        data_facts(config, dataset),
        configs.differences(config, ALWAYS),
        n_params,
        config.training.batch_size,
        len(dataset.train),
        config.training.log_freq,
        config.training.device_watts,
    )


def data_facts(config: Config, dataset: Any) -> dict[str, str]:
    """The facts about the data: rows of a data card, and of a model card."""
    data_, shape = config.data, dataset.train.shape[1:]
    source = SOURCES[data_.dataset]
    kind = models.data_kind(specs.data_shape(config))
    unit = f"latents of {kind}" if dataset.latents else kind
    levels = f", {dataset.levels} grey levels" if dataset.levels else ""
    numbers = f"{len(dataset.train):,} {unit} to train on, {len(dataset.test):,} to test on"
    unknown = f"the files in `{data_.path}`" if data_.path else "not known"
    named = range(dataset.n_classes if dataset.classes else 0)
    rows = {
        "Source": source.description or unknown,
        "Licence": source.licence or "not known to this program",
        "Numbers": f"{numbers}, each {' x '.join(map(str, shape))}{levels}",
        "Labels": f"{dataset.n_classes} classes" if dataset.n_classes else "none",
    }
    if named:
        rows["Classes"] = ", ".join(map(dataset.class_name, named))
    if dataset.notes:
        rows["Found"] = "; ".join(dataset.notes)
    if config.model.text:
        rows["Texts"] = data_.embeddings or "captions"
    rows |= content.rows(dataset)
    if data_.generated:
        rows["Samples"] = f"of a model, in `{data_.generated}`, are class 0"
    return rows
