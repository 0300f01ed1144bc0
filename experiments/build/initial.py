"""The weights that a training begins with (config.training.init_from)."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import models
from experiments.build import related, restored
from experiments.build.components import diffusion
from experiments.build.fields import choices, configs, sections
from experiments.build.published import is_published, open_
from experiments.runs import devices, files, parts
from experiments.runs import folder as folders
from experiments.training import init_from
from experiments.training.checkpoints import saved_steps
from models.config import Config
from models.missing import input_shape

LOG = logging.getLogger(__name__)
NOISE = ("training.sde", "training.continuous", "model.parametrization")
"""Fields on which the meaning of a network's weights depends, beside those of the network."""
FREE = {  # fields of networks that are of no consequence for trained weights, or are the SDE's
    *("dtype", "remat", "dropout", "init_scale", "fourier_scale", "frozen"),
    *("sigma_min", "sigma_max", "num_scales"),
}
ELSEWHERE = {  # fields of networks that are not in config.model
    **{name: f"autoencoder.{name}" for name in ("latent_channels", "regularization")},
    "codebook_size": "autoencoder.vq.codebook_size",
    "centered": "data.centered",
}


class Initial(NamedTuple):
    """The weights that a new run begins with.

    params: of the other network. matched: what does not fit. record: where they are from.
    """

    params: Any
    matched: init_from.Match
    record: dict[str, Any]


def weights(ours: Config, folder: Path, params: Any) -> Initial | None:
    """The weights of config.training.init_from; None if there are none, or the run goes on.

    A run that goes on from checkpoints reads them only if the config names another place now.

    Args:
        ours: the config of the training.
        folder: its run's.
        params: its parameters, abstract.

    Raises:
        ValueError: no such run or file, one of another network, or other weights than before.
    """
    if not ours.training.init_from:
        return None
    path, began = Path(ours.training.init_from), saved_steps(folder)
    if began and _same_place(ours, folder):
        return None
    theirs, weights_, record = _source(ours, path)
    weights_ = devices.fetch(weights_)  # leaves room on the devices until training starts
    record |= {"from": str(path), "weights": parts.digest(weights_)}
    before = folder / folders.ORIGIN
    if before.exists() and files.read_json(before)["weights"] != record["weights"]:
        raise ValueError(
            f"the run in {folder} began with other weights than those that are now in {path}: "
            "choose another --workdir"
        )
    if began:
        return None
    here, there = init_from.shapes_of(params), init_from.shapes_of(weights_)
    matched = init_from.match(_model(ours), _model(theirs), here, there)
    if matched is None:
        raise ValueError(_misfit(ours, theirs, path, here, there))
    LOG.info("%s: the first weights are those of %s", folder, path)
    for line in matched.lines(here):
        LOG.info("%s", line)
    if not record.get("commercial", True):
        LOG.warning("the license of these weights, %s, forbids commercial use", record["license"])
    if other := _other_meaning(ours, theirs):
        LOG.warning(
            "the weights of %s were trained with %s: they mean something else here, until training "
            "has made up for it",
            *(path, other),
        )
    return Initial(weights_, matched, record)


def _same_place(ours: Config, folder: Path) -> bool:
    field = "training.init_from"
    return configs.fields(ours)[field] == configs.fields(configs.load(folder))[field]


def _source(ours: Config, path: Path) -> tuple[Config, Any, dict[str, Any]]:
    """The config and the weights of a run or of a published file, and what is known of them."""
    if is_published(path):
        return _published(ours, path)
    related.check_run(path, "config.training.init_from")
    theirs = configs.load(path)
    theirs.mesh = ours.mesh
    if theirs.data.autoencoder and not Path(theirs.data.autoencoder).exists():
        theirs.data.autoencoder = ours.data.autoencoder
    params, step = restored.weights(theirs, path, field="config.training.init_from")
    return theirs, params, folders.origin(path) | {"step": step}


def _published(ours: Config, path: Path) -> tuple[Config, Any, dict[str, Any]]:
    """The same of a published model. What its file does not tell of its network, ours does."""
    try:
        model = open_(path)
    except ValueError as error:
        hint = "" if path.exists() else "; if it is the folder of a run, train that run first"
        raise ValueError(f"config.training.init_from is {path}: {error}{hint}") from error
    theirs = model.config(otherwise=ours)
    if theirs.model.name == ours.model.name:
        network = models.create(ours)
        of_data = {name for names in init_from.FIELDS.values() for name in names}
        for name in models.options(ours.model.name) - of_data:
            if f"model.{name}" in model.assumed(theirs):
                sections.put(theirs, f"model.{name}", getattr(network, name))
    params = model.params(theirs, related.shape(theirs))
    return theirs, params, model.record() | {"step": model.found.step}


def _model(ours: Config) -> init_from.Model:
    state_shape = diffusion.sde(ours).state_shape((1, *related.shape(ours)))
    seen = input_shape(state_shape[1:], bool(ours.data.missing))
    beside = ours.model.learned_schedule, ours.objective.log_variance or 0
    return init_from.Model(models.create(ours), seen, *beside)


def _misfit(ours: Config, theirs: Config, path: Path, here: Any, there: Any) -> str:
    """The error for weights of another network."""
    text = f"config.training.init_from, {path}, holds weights of another network"
    if fields := _list(_network_differences(ours, theirs)):
        return f"{text}, trained with {fields}: set these fields alike, or leave init_from out"
    misshapen = sorted(name for name in here.keys() & there.keys() if here[name] != there[name])
    return (
        f"{text}: missing {sorted(here.keys() - there.keys())[:3]}, unexpected "
        f"{sorted(there.keys() - here.keys())[:3]}, of another shape {misshapen[:3]}"
    )


def _other_meaning(ours: Config, theirs: Config) -> str:
    """The fields, with their values, by which weights that fit mean something else here."""
    names: tuple[str, ...] = ()
    if models.kind(ours) != "autoencoder":
        names = NOISE + (("data.latent_mean", "data.latent_std") if theirs.data.latent_std else ())
        for each in (ours, theirs):
            names += tuple(choices.SDE.components[each.training.sde].values())
            names += () if each.training.continuous else ("model.num_scales",)
            names += ("model.sigma_data",) if "edm" in each.model.parametrization else ()
    return _list(_network_differences(ours, theirs) | _values(ours, theirs, names))


def _network_differences(ours: Config, theirs: Config) -> dict[str, tuple[Any, Any]]:
    """The fields of the config in which the networks differ: (there, here) by name."""
    if others := _values(ours, theirs, ("model.name",)):
        return others
    found = init_from.differences(models.create(ours), models.create(theirs))
    if "name" in found:  # of a discriminator's encoder
        return _values(ours, theirs, ("model.encoder",))
    fields = {ELSEWHERE.get(k, f"model.{k}"): pair for k, pair in found.items() if k not in FREE}
    if related.shape(ours)[:-1] != related.shape(theirs)[:-1]:
        fields |= _values(ours, theirs, ("data.image_size",))
    return fields


def _values(ours: Config, theirs: Config, names: Iterable[str]) -> dict[str, tuple[Any, Any]]:
    pairs = {name: (sections.get(theirs, name), sections.get(ours, name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _list(fields: dict[str, tuple[Any, Any]]) -> str:
    values = (f"config.{k} = {there!r} (here {here!r})" for k, (there, here) in fields.items())
    return ", ".join(values)
