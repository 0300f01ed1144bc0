"""Other runs that a config refers to: their configs, checked, and their weights."""

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

import models
from experiments.build import codecs
from experiments.build.components import (
    diffusion,
    networks,
    objectives,
    optimization,
    sampling,
    specs,
)
from experiments.build.fields import choices, configs, sections
from experiments.build.published import is_published, open_
from experiments.data import latents
from experiments.data import scaling as scalings
from experiments.data.scaling import Scaling
from experiments.pipeline.pipeline import Pipeline
from experiments.runs import devices, files, parts
from experiments.runs import folder as folders
from experiments.tasks.autoencoder import Autoencoder, Losses
from experiments.tasks.classifier import Classifier
from experiments.tasks.discriminator import Discriminator
from experiments.tasks.joint import JointModel
from experiments.tasks.score_model import ScoreModel
from experiments.training import imported, init_from
from experiments.training.averages import snapshots
from experiments.training.averages.power import check_lengths
from experiments.training.checkpoints import Checkpoints, saved_steps
from experiments.training.objective import Objective
from experiments.training.state import abstract_state, restore
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


def config(ours: Config, folder: Path, field: str, kind: str) -> Config:
    """The config of another run, on the same devices.

    Args:
        ours: the config that refers to it.
        folder: the run's.
        field: names the folder in errors.
        kind: of the model that is expected there (models.kind).

    Raises:
        ValueError: there is no run, or one of another kind.
    """
    if not folder.exists():
        raise ValueError(
            f"there is no folder {folder}, which {field} names: give the place of that run"
        )
    theirs = beside(ours, folder)
    if models.kind(theirs) != kind:
        what = "score model" if kind == "score" else kind
        raise ValueError(
            f"{field}, {folder}, holds the model {theirs.model.name!r}: that is no {what}; "
            "give the folder of a trained one"
        )
    return theirs


def beside(ours: Config, folder: Path) -> Config:
    """The config of another run, on our devices, with our autoencoder if it has one.

    The folder that it names may have moved. `check_noise` compares what was in it.
    """
    theirs = configs.load(folder)
    theirs.mesh = ours.mesh
    if theirs.data.autoencoder and ours.data.autoencoder:
        theirs.data.autoencoder = ours.data.autoencoder
    return theirs


def check_noise(
    ours: Config, theirs: Config, folder: Path, what: str, any_sde: bool = False
) -> None:
    """Raises ValueError unless a related model sees the same noisy data, or data of any SDE."""
    aspects = ("autoencoder", "latents", "shape of data", "range of data")
    check_equal(ours, theirs, folder, what, aspects if any_sde else ("SDE", *aspects))
    if ours.data.autoencoder and (folder / latents.RECORD).exists():
        ours_in = Path(ours.data.autoencoder)
        made, _ = weights(autoencoder_config(ours), ours_in)
        if folders.read_record(folder / latents.RECORD)["autoencoder"] != parts.digest(made):
            raise ValueError(
                f"the {what} in {folder} knows latents of another autoencoder than that now in "
                f"{ours_in}: take one of the same latents"
            )


def check_equal(
    ours: Config, theirs: Config, folder: Path, what: str, aspects: Iterable[str]
) -> None:
    """Raises ValueError if a related model differs in one of these aspects, of ASPECTS."""
    for name in aspects:
        here, there = ASPECTS[name](ours), ASPECTS[name](theirs)
        if here != there:
            raise ValueError(f"the {name} of the {what} in {folder} is {there}, here {here}")


def shape(ours: Config) -> tuple[int, ...]:
    """The shape of one sample in model space: of an image or its latent, or (2,) for points."""
    if not ours.data.autoencoder:
        return specs.data_shape(ours)
    return specs.latent_shape(autoencoder_config(ours))


def conditions(ours: Config) -> dict[str, Any]:
    """The conditions of a score model, as the fields that a model without any leaves unset."""
    fields = [field for field in CONDITIONS if sections.is_set(ours, field)]
    classes = ("data.num_classes",) if ours.model.class_conditional else ()
    return {field: sections.get(ours, field) for field in (*fields, *classes)}


CONDITIONS = (
    *("model.class_conditional", "model.label_confidence", "model.text", "model.text_length"),
    *("model.text_width", "model.vector_dim", "model.attributes", "model.low_res_size"),
    *("image_condition.name", "data.missing", "latent.name"),
)
"""Fields of a score model's conditions, and of what else it sees beside noisy data."""
ASPECTS: dict[str, Callable[[Config], Any]] = {
    "SDE": diffusion.sde,
    "shape of data": shape,
    "range of data": lambda config: specs.scaling(config).range,
    "conditions": conditions,
    "number of classes": lambda config: config.data.num_classes,
    "autoencoder": lambda config: config.data.autoencoder,
    "latents": lambda config: (tuple(config.data.latent_mean), tuple(config.data.latent_std)),
}


SHARED = (
    *("dataset", "test_fraction", "image_size", "num_channels", "shape", "dtype", "centered"),
)
"""Fields of config.data that a model of latents has from its autoencoder."""


def in_latents(published: Config) -> Config:
    """The config of a published model of latents, in those of config.data.autoencoder.

    Args:
        published: its config.data describes latents, as the format of the model gives it, or the
            images already. Without an autoencoder it stays as it is: then the latents are data
            like others.

    Raises:
        ValueError: there is no autoencoder, or one of other latents.
    """
    if not published.data.autoencoder:
        return published
    folder, made = Path(published.data.autoencoder), published.copy_and_resolve_references()
    theirs = config(published, folder, "config.data.autoencoder", "autoencoder")
    if all(made.data[name] == theirs.data[name] for name in SHARED):  # it is that of images
        return made
    expected, found = specs.data_shape(published), specs.latent_shape(theirs)
    if expected != found:
        raise ValueError(
            f"the model is of latents of the shape {expected}, but those of the autoencoder in "
            f"{folder} have {found}: import that one with another config.data.image_size (now "
            f"{theirs.data.image_size}), or take another"
        )
    for name in SHARED:
        made.data[name] = theirs.data[name]
    return made


WORK_WITH = (
    *("guidance.auto.run", "guidance.classifier.run", "guidance.discriminator.run"),
    "sampling.low_res",
)
"""Fields that hold runs which see the same model space."""


def check_moments(ours: Config, scaling: Scaling) -> None:
    """Raises ValueError unless runs that our model works with standardise the data as it does."""
    for field in filter(partial(sections.get, ours), WORK_WITH if scaling.standardized else ()):
        if scalings.of_run(scaling, Path(sections.get(ours, field))) != scaling:
            raise ValueError(
                f"the run in config.{field} was trained on data of another mean and standard "
                "deviation: train one on the same data"
            )


def autoencoder_config(ours: Config) -> Config:
    """The config of the run in config.data.autoencoder.

    Raises:
        ValueError: there is no run, or one of no autoencoder, or of other data.
    """
    folder = Path(ours.data.autoencoder)
    theirs = config(ours, folder, "config.data.autoencoder", "autoencoder")
    for name in ("random_flip", "augment"):
        if ours.data[name]:
            raise ValueError(
                f"config.data.{name} is {ours.data[name]!r}: it changes images, and with "
                "config.data.autoencoder the data are latents; leave it to the autoencoder's run"
            )
    for name in SHARED:
        if ours.data[name] != theirs.data[name]:
            raise ValueError(
                f"the autoencoder in {folder} is of data with config.data.{name} = "
                f"{theirs.data[name]!r}, here it is {ours.data[name]!r}"
            )
    return theirs


def steps(folder: Path) -> list[int]:
    """The steps that a run has weights of, in order.

    Raises:
        ValueError: there is none.
    """
    published = imported.step_of(folder)
    found = sorted({*saved_steps(folder), *(() if published is None else (published,))})
    if not found:
        raise ValueError(f"{folder} holds no checkpoints: train first, or give the --workdir")
    return found


def weights(
    theirs: Config, folder: Path, step: int | None = None, length: float | None = None
) -> tuple[Any, int]:
    """The averaged weights of a run, and the step that they are from: the last, or `step`.

    Args:
        theirs: the run's config.
        folder: the run's.
        step: of the checkpoint; None: the last.
        length: of the average, made of the run's snapshots; None: the average of the checkpoint.

    Raises:
        ValueError: there are no weights, or none that can be read, or none of this length.
    """
    if length is not None:
        check_length(theirs, folder, length, step)
    there = steps(folder)
    if step is not None and step not in there:
        raise ValueError(f"{folder} has no checkpoint of step {step}: it has {there}")
    task, n_averages = skeleton(theirs), optimization.average(theirs).count
    like = abstract_state(task, theirs.seed, optimization.mesh(theirs), n_averages)
    published = imported.step_of(folder)
    if published is not None and published == (there[-1] if step is None else step):
        return imported.read(folder, like.ema_params), published
    with closing(Checkpoints(folder, read_only=True)) as checkpoints:
        state = restore(checkpoints, task, like, step)
    assert state is not None  # restore raises where there are checkpoints and none can be read
    if length is None:
        return state.ema_params, int(state.step)
    sources = _sources(theirs, folder, int(state.step), (state.ema_params, *state.averages))
    arrays = snapshots.average(sources, length)
    places: Any = flatten_dict(jax.tree.map(lambda leaf: leaf.sharding, state.ema_params), sep="/")
    return unflatten_dict(jax.device_put(arrays, places), sep="/"), int(state.step)


def check_length(theirs: Config, folder: Path, length: float, step: int | None = None) -> None:
    """Raises ValueError for a length of the average that a run's checkpoint cannot give."""
    check_lengths("config.eval.ema_length", (length,))
    there, profile = steps(folder), theirs.model.ema_profile
    if profile != "power" or imported.step_of(folder) == (there[-1] if step is None else step):
        raise ValueError(
            f"config.eval.ema_length is {length}, but the weights in {folder} come with one average"
            " alone, without snapshots: leave it out, or train a run with "
            "config.model.ema_profile='power'"
        )
    snapshots.shares(_sources(theirs, folder, there[-1] if step is None else step), length)


def _sources(
    theirs: Config, folder: Path, step: int, averages: Sequence[Any] = ()
) -> list[snapshots.Source]:
    """The averages of a run up to a checkpoint's step: of its snapshots, and the checkpoint's."""
    earlier = [source for source in snapshots.stored(folder) if source.step < step]
    lengths = tuple(theirs.model.ema_lengths)
    last = snapshots.Source(step, lengths, lambda: list(map(snapshots.named, averages)))
    return [*earlier, last]


def skeleton(theirs: Config) -> Objective:
    """A run's task without other runs' weights: enough for the shapes of its state."""
    its_shape, scaling, adam = shape(theirs), specs.scaling(theirs), optimization.adam(theirs)
    mesh, size = optimization.mesh(theirs), theirs.eval.batch_size
    kind = models.kind(theirs)
    if kind == "autoencoder":
        options = theirs.autoencoder.adversarial
        losses = Losses(adversarial_weight=options.weight or 0.0)
        about = losses, None, adam, mesh, size, {}
        return Autoencoder(models.create(theirs), its_shape, scaling, *about)
    codec = codecs.codec(theirs)
    seen = codec.latent_shape(its_shape) if codec else its_shape
    model = networks.noise_model(theirs, diffusion.sde(theirs), seen)
    if kind == "score":
        no_data: Any = None
        about = model, None, its_shape, scaling, sampling.sampler(theirs), no_data
        pipeline = Pipeline(*about, codec=codec, mesh=mesh)
        beside: Any = {
            "schedule": diffusion.learned_schedule(theirs),
            "history": objectives.loss_history(theirs),
            "log_variance": objectives.log_variance(theirs),
        }
        loss: Any = None
        make = JointModel if codec else ScoreModel
        return make(pipeline, loss, loss, adam, **beside)
    about = model, its_shape, scaling, theirs.data.num_classes, None, adam, mesh, 0, size
    if kind == "discriminator":
        frozen = (lambda: None) if theirs.model.pretrained else None
        return Discriminator(*about, encoder=frozen)
    return Classifier(*about)


def initial(ours: Config, folder: Path, params: Any) -> Initial | None:
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
    if not path.exists():
        raise ValueError(
            f"there is no {path}, which config.training.init_from names: give the folder of a run, "
            "or a published file"
        )
    theirs = configs.load(path)
    theirs.mesh = ours.mesh
    if theirs.data.autoencoder and not Path(theirs.data.autoencoder).exists():
        theirs.data.autoencoder = ours.data.autoencoder
    params, step = weights(theirs, path)
    return theirs, params, folders.origin(path) | {"step": step}


def _published(ours: Config, path: Path) -> tuple[Config, Any, dict[str, Any]]:
    """The same of a published model. What its file does not tell of its network, ours does."""
    model = open_(path)
    theirs = model.config(otherwise=ours)
    if theirs.model.name == ours.model.name:
        network = models.create(ours)
        of_data = {name for names in init_from.FIELDS.values() for name in names}
        for name in models.options(ours.model.name) - of_data:
            if f"model.{name}" in model.assumed(theirs):
                sections.put(theirs, f"model.{name}", getattr(network, name))
    params = model.params(theirs, shape(theirs))
    return theirs, params, model.record() | {"step": model.found.step}


def _model(ours: Config) -> init_from.Model:
    state_shape = diffusion.sde(ours).state_shape((1, *shape(ours)))
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
    if shape(ours)[:-1] != shape(theirs)[:-1]:
        fields |= _values(ours, theirs, ("data.image_size",))
    return fields


def _values(ours: Config, theirs: Config, names: Iterable[str]) -> dict[str, tuple[Any, Any]]:
    pairs = {name: (sections.get(theirs, name), sections.get(ours, name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _list(fields: dict[str, tuple[Any, Any]]) -> str:
    values = (f"config.{k} = {there!r} (here {here!r})" for k, (there, here) in fields.items())
    return ", ".join(values)
