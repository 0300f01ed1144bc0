"""Configs of other runs that a config refers to, checked, and the shapes of their data."""

from pathlib import Path

import models
from experiments.build.components import specs
from experiments.build.fields import configs
from experiments.runs import folder as folders
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
    check_run(folder, field)
    theirs = beside(ours, folder)
    if models.kind(theirs) != kind:
        what = "score model" if kind == "score" else kind
        raise ValueError(
            f"{field}, {folder}, holds the model {theirs.model.name!r}: that is no {what}; "
            "give the folder of a trained one"
        )
    return theirs


def check_run(folder: Path, field: str) -> None:
    """Raises ValueError unless the folder that a field names holds a run."""
    change = f"which {field} names: train that run first, or give its place"
    if not folder.exists():
        raise ValueError(f"there is no folder {folder}, {change}")
    if not folders.has_run(folder):
        raise ValueError(f"there is no {folders.CONFIG} in {folder}, {change}")


def beside(ours: Config, folder: Path) -> Config:
    """The config of another run, on our devices, with our autoencoder if it has one.

    The folder that it names may have moved. alike.check_noise compares what was in it.
    """
    theirs = configs.load(folder)
    theirs.mesh = ours.mesh
    if theirs.data.autoencoder and ours.data.autoencoder:
        theirs.data.autoencoder = ours.data.autoencoder
    return theirs


def shape(ours: Config) -> tuple[int, ...]:
    """The shape of one sample in model space: of an image or its latent, or (2,) for points."""
    if not ours.data.autoencoder:
        return specs.data_shape(ours)
    return specs.latent_shape(autoencoder_config(ours))


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
