"""Other runs that a config refers to: their configs, checked, and their weights."""

from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import models
from experiments.build import components, configs
from experiments.data import latents
from experiments.pipeline.pipeline import Pipeline
from experiments.runs import folder as folders
from experiments.runs import parts
from experiments.tasks.autoencoder import Autoencoder, Losses
from experiments.tasks.classifier import Classifier
from experiments.tasks.discriminator import Discriminator
from experiments.tasks.score_model import ScoreModel
from experiments.training import imported
from experiments.training.checkpoints import Checkpoints, saved_steps
from experiments.training.objective import Objective
from experiments.training.state import abstract_state, restore
from models.config import Config


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


def check_noise(ours: Config, theirs: Config, folder: Path, what: str) -> None:
    """Raises ValueError unless a related model sees the same noisy data."""
    aspects = ("SDE", "autoencoder", "shape of data", "range of data")
    check_equal(ours, theirs, folder, what, aspects)
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
        return components.data_shape(ours)
    return components.latent_shape(autoencoder_config(ours))


ASPECTS: dict[str, Callable[[Config], Any]] = {
    "SDE": components.sde,
    "shape of data": shape,
    "range of data": lambda config: components.scaling(config).range,
    "number of classes": lambda config: config.data.num_classes,
    "autoencoder": lambda config: config.data.autoencoder,
}


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
    for name in ("dataset", "test_fraction", "image_size", "num_channels", "centered"):
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


def weights(theirs: Config, folder: Path, step: int | None = None) -> tuple[Any, int]:
    """The averaged weights of a run, and the step that they are from: the last, or `step`.

    Raises:
        ValueError: there are no weights, or none that can be read.
    """
    there = steps(folder)
    if step is not None and step not in there:
        raise ValueError(f"{folder} has no checkpoint of step {step}: it has {there}")
    task = skeleton(theirs)
    like = abstract_state(task, theirs.seed, components.mesh(theirs))
    published = imported.step_of(folder)
    if published is not None and published == (there[-1] if step is None else step):
        return imported.read(folder, like.ema_params), published
    with closing(Checkpoints(folder, read_only=True)) as checkpoints:
        state = restore(checkpoints, task, like, step)
    assert state is not None  # restore raises where there are checkpoints and none can be read
    return state.ema_params, int(state.step)


def skeleton(theirs: Config) -> Objective:
    """A run's task without other runs' weights: enough for the shapes of its state."""
    its_shape, scaling, adam = shape(theirs), components.scaling(theirs), components.adam(theirs)
    mesh, size = components.mesh(theirs), theirs.eval.batch_size
    kind = models.kind(theirs)
    if kind == "autoencoder":
        options = theirs.autoencoder.adversarial
        losses = Losses(adversarial_weight=options.weight or 0.0)
        about = losses, None, adam, mesh, size, {}
        return Autoencoder(models.create(theirs), its_shape, scaling, *about)
    model = components.noise_model(theirs, components.sde(theirs), its_shape)
    if kind == "score":
        no_data: Any = None
        pipeline = Pipeline(
            model, None, its_shape, scaling, components.sampler(theirs), no_data, mesh=mesh
        )
        schedule, history = components.learned_schedule(theirs), components.loss_history(theirs)
        loss: Any = None
        return ScoreModel(pipeline, loss, loss, adam, schedule=schedule, history=history)
    about = model, its_shape, scaling, theirs.data.num_classes, None, adam, mesh, 0, size
    if kind == "discriminator":
        frozen = (lambda: None) if theirs.model.pretrained else None
        return Discriminator(*about, encoder=frozen)
    return Classifier(*about)
