"""Data sets from configs, with all that other runs add to them: latents, confidences, samples."""

from functools import cache
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import models
from experiments.build import components, related
from experiments.data import confidence, latents
from experiments.data.dataset import Dataset
from experiments.data.load import load
from experiments.runs import devices
from experiments.runs.samples import read_samples
from experiments.tasks.discriminator import with_samples
from models.config import Config


def images(config: Config) -> Dataset:
    """The images, or points, that config.data describes."""
    return load(components.data_spec(config))


def lazily(config: Config) -> Any:
    """A function without arguments that loads the data of a model once."""
    return cache(lambda: dataset(config))


def dataset(config: Config) -> Dataset:
    """The data of a model: images or their latents, with confidences if it is conditioned on them.

    Of a discriminator, they are the data and the samples of a model.
    """
    found = images(config)
    if config.data.autoencoder:
        found = latents.encode_dataset(found, autoencoder(config))
    if models.kind(config) == "discriminator":
        return discriminated(config, found)
    if config.model.label_confidence:
        found = with_confidence(config, found)
    return found


def autoencoder(config: Config) -> latents.Autoencoder:
    """The autoencoder in config.data.autoencoder.

    Raises:
        ValueError: there is no run, or one of no autoencoder, or of other data.
    """
    folder = Path(config.data.autoencoder)
    theirs = related.autoencoder_config(config)
    params, step = related.weights(theirs, folder)
    about = models.create(theirs), params, step, folder, components.scaling(theirs)
    return latents.Autoencoder(*about, components.mesh(config), config.eval.batch_size)


def with_confidence(config: Config, found: Dataset) -> Dataset:
    """The data with a confidence of each label: their own, or by a classifier."""
    if not config.data.confidence:
        return confidence.check(found)
    folder = Path(config.data.confidence)
    theirs = related.config(config, folder, "config.data.confidence", "classifier")
    aspects = ("shape of data", "number of classes")
    related.check_equal(config, theirs, folder, "classifier", aspects)
    sde, mesh = components.sde(theirs), components.mesh(config)
    model = components.noise_model(theirs, sde, related.shape(theirs))
    params, _ = related.weights(theirs, folder)

    def probabilities(x: jax.Array) -> jax.Array:
        logits = model.outputs(devices.gather(mesh, params))
        return nn.softmax(logits(x, jnp.full(len(x), sde.train_t_min)))

    about = components.scaling(theirs), theirs.seed, mesh, config.eval.batch_size
    return confidence.by_classifier(found, probabilities, *about)


def discriminated(config: Config, real: Dataset) -> Dataset:
    """The data, of class 1, and the samples of config.data.generated, of class 0."""
    path = Path(config.data.generated)
    about, samples = read_samples(path)
    for name, ours in sample_identity(config).items():
        if about[name] != ours:
            raise ValueError(
                f"the samples in {path} are of a model with {name} = {about[name]}, here it is "
                f"{ours}: take the config of that model, and generate with it"
            )
    return with_samples(real, samples, path)


def sample_identity(config: Config) -> dict[str, Any]:
    """Returns the noise and format of the data, which samples must share to be told from them."""
    scaling = components.scaling(config)
    return {
        "sde": str(components.sde(config)),
        "shape": list(related.shape(config)),
        "levels": scaling.levels,
        "range": list(scaling.range),
        "uniform_dequantization": scaling.dequantize,
    }
