"""The configs of runs: reading, writing and comparing them."""

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import models
from configs import default
from experiments.build.fields import sections
from experiments.build.fields.migrate import drop_unused, migrate
from experiments.runs import folder as folders
from models.config import Config

VERSION = 3
USE = (  # fields that may change when a trained model is used
    *("sampling", "guidance", "eval", "edit", "detect", "exposure_bias", "ablate", "mesh", "seed"),
    *("prepare", "serve", "study", "benchmark_solvers", "plan"),
    *("data.cache", "data.path", "data.resident_bytes", "model.dtype", "model.remat"),
    "model.scan_blocks",
    *("data.conditions", "data.max_unreadable", "training.at_end", "training.sinks"),
    *("training.n_iters", "training.n_microbatches", "training.steps_per_jit"),
    *("training.log_freq", "training.eval_freq", "training.quality_freq", "training.ema_freq"),
    *("training.snapshot_freq", "training.snapshot_freq_for_preemption"),
    *("training.max_skipped", "training.stall_seconds", "training.device_watts"),
)
RECORDED = (  # numbers of the optimizer and of the average: changes are recorded with the step
    *("optim.lr", "optim.beta1", "optim.beta2", "optim.eps", "optim.weight_decay"),
    *("optim.warmup", "optim.grad_clip", "optim.nan_to_num", "optim.schedule", "optim.decay_start"),
    *("model.ema_rate", "model.ema_halflife", "model.ema_rampup"),
)
RESUME = tuple(name for name in USE if name != "seed") + RECORDED
"""Fields that may change when a training is resumed."""
RUNS = (  # fields that hold the folder of another run, or a file, which may be moved
    *("data.autoencoder", "data.confidence", "data.generated", "data.embeddings", "data.path"),
    *("data.conditions", "source.path"),
    *(
        "model.pretrained",
        "objective.teacher",
        "autoencoder.perceptual.run",
        "sampling.low_res",
        "training.init_from",
    ),
    *("sampling.embeddings", "sampling.condition"),
    *("guidance.auto.run", "guidance.classifier.run", "guidance.discriminator.run"),
)
ADVISED = (  # fields that config.data.auto sets by the data
    *("model.sigma_max", "model.sigma_min", "model.sigma_data"),
    *("noise_density.mean", "noise_density.std"),
)
PATHS = (
    *(*RUNS, "sampling.grid", "ablate.input_perturbation", "edit.mask"),
    *("eval.features", "eval.statistics", "eval.embeddings"),
)


def expand_paths(config: Config) -> None:
    """Puts the user's home folder in place of ~ in the fields that hold a path."""
    for field in PATHS:
        if path := sections.get(config, field):
            sections.put(config, field, os.path.expanduser(path))


def load(folder: Path) -> Config:
    """The config of a run; fields younger than the run have their defaults.

    Raises:
        ValueError: the folder holds no run, or one of a later version.
    """
    values = folders.read_config(folder)
    version = values.pop("version", 1)
    if version > VERSION:
        raise ValueError(
            f"{folder} was made by a later version of this program (its config has version "
            f"{version}, this program knows {VERSION}): update the program"
        )
    config = default.get_config()
    fields = folders.flatten(values) if version == VERSION else migrate(values)
    with config.ignore_type(), config.unlocked():
        for name, value in fields.items():
            section, _, last = name.rpartition(".")  # a field that may be a network's own
            sections.get(config, section)[last] = tuple(value) if isinstance(value, list) else value
    if version > 1:
        for field in RUNS:
            path = sections.get(config, field)
            beside = os.path.relpath(folder / path) if path and not os.path.isabs(path) else ""
            if beside and os.path.exists(beside):
                sections.put(config, field, beside)
    if version < VERSION:
        drop_unused(config)
    return config


def save(config: Config, folder: Path) -> None:
    """Makes the folder if need be, and writes config.json.

    Paths of other runs are written relative to the folder, so that both can be moved together.
    """
    written = config.copy_and_resolve_references()
    for field in RUNS:
        path = sections.get(config, field)
        if path and not os.path.isabs(path) and Path(path).exists():
            sections.put(written, field, os.path.relpath(path, folder))
    folders.write_config(folder, {"version": VERSION, **written.to_dict()})


def check_same(config: Config, folder: Path, free: Iterable[str]) -> None:
    """Raises ValueError, saying which fields differ, if the folder belongs to another config.

    Another run or a file may be elsewhere now: what is in it is compared where it is read.

    Args:
        config: the one that was given.
        folder: a run's, or one without a run.
        free: fields and sections that may differ.
    """
    if not folders.has_run(folder):
        return
    theirs, ours, free = fields(load(folder)), fields(config), tuple(free)
    differing = [
        f"  {name}: there {theirs.get(name)!r}, here {ours.get(name)!r}\n"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name) and not _is_free(name, free)
        if not (name in RUNS and ours.get(name) and theirs.get(name))
    ]
    if differing:
        raise ValueError(
            f"{folder} belongs to another config:\n{''.join(differing)}"
            "choose another --workdir, or give the config that the folder was made with"
        )


def take_advised(config: Config, folder: Path) -> None:
    """Sets the fields that config.data.auto left to the data to what the run in a folder has."""
    if not (config.data.auto and folders.has_run(folder)):
        return
    theirs = load(folder)
    for field in ADVISED if theirs.data.auto else ():
        if not sections.is_set(config, field):
            sections.put(config, field, sections.get(theirs, field))


def add_own_options(config: Config, overrides: Mapping[str, Any]) -> None:
    """Adds the network's own options that overrides set, and the config leaves out, by default."""
    network = overrides.get("model.name", config.model.name)
    if network not in models.MODELS:
        return
    for field in dataclasses.fields(models.MODELS[network]):
        own = field.name in models.options(network) and field.default is not dataclasses.MISSING
        if own and field.name not in config.model and f"model.{field.name}" in overrides:
            with config.unlocked():
                config.model[field.name] = field.default


def changes(config: Config, folder: Path) -> dict[str, tuple[Any, Any]]:
    """The fields of RECORDED that a run goes on with anew, as (before, after) by name."""
    if not folders.has_run(folder):
        return {}
    theirs, ours = fields(load(folder)), fields(config)
    return {name: (theirs[name], ours[name]) for name in RECORDED if theirs[name] != ours[name]}


def check_overrides(overridden: Iterable[str], folder: Path) -> None:
    """Raises ValueError for an override that a trained model cannot have."""
    fixed = [name for name in overridden if not _is_free(name, USE + RUNS)]
    if fixed:
        raise ValueError(
            f"{', '.join(f'config.{name}' for name in fixed)}: the model in {folder} was trained "
            "with its own; leave it out, or train another run with it"
        )


def fields(config: Config) -> dict[str, Any]:
    """Every field by its full name, as JSON gives it back; paths of runs are absolute."""
    flat = folders.flatten(json.loads(json.dumps(config.to_dict())))
    return flat | {name: os.path.abspath(flat[name]) for name in RUNS if flat.get(name)}


def differences(config: Config, always: Iterable[str]) -> list[tuple[str, Any, Any]]:
    """(field, value, default) of the fields that differ from their defaults, and of some more."""
    plain = folders.flatten(json.loads(json.dumps(default.get_config().to_dict())))
    ours = folders.flatten(json.loads(json.dumps(config.to_dict())))
    return [
        (name, value, plain.get(name))
        for name, value in sorted(ours.items())
        if value != plain.get(name) or name in always
    ]


def _is_free(name: str, free: tuple[str, ...]) -> bool:
    return any(name == field or name.startswith(f"{field}.") for field in free)
