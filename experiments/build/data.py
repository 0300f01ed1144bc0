"""Data sets from configs, with all that other runs add to them: latents, confidences, samples."""

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import models
from experiments.build import alike, related, restored
from experiments.build.components import diffusion, networks, optimization, specs
from experiments.data import confidence, latents
from experiments.data.dataset import SPLITS, Dataset, split
from experiments.data.lazy_arrays import LazyArray
from experiments.data.lazy_images import POOL, LazyImages
from experiments.data.load import load
from experiments.data.scaling import of_run
from experiments.runs import devices, files, parts
from experiments.runs import folder as folders
from experiments.runs.samples import read_classes, read_noise, read_samples
from experiments.tasks.discriminator import with_samples
from models.config import Config

RECORD = "data.json"
SEEN = 1024  # encoded images of a split that the digest of the data reads


def images(config: Config) -> Dataset:
    """The images, or points, that config.data describes."""
    return load(specs.data_spec(config))


def lazily(config: Config) -> Any:
    """A function without arguments that loads the data of a model once."""
    return cache(lambda: dataset(config))


def claimed(config: Config, folder: Path, found: Dataset | None = None) -> Dataset:
    """The data of a model that is trained in a folder: those that it began with, wherever they are.

    Args:
        config: of the training.
        folder: the run's.
        found: the images; None: they are loaded.

    Raises:
        ValueError: the data are others than those that the run, or its autoencoder, began with.
    """
    found = found or images(config)
    about = identity(config, found)
    for run in map(Path, filter(None, (folder, config.data.autoencoder))):
        if not (folders.has_run(run) and (run / RECORD).exists()):  # it is older, or begins now
            continue
        kept = folders.read_record(run / RECORD)
        differing = [name for name in kept if kept[name] != about.get(name, kept[name])]
        if differing:
            here, there = (f"{each['train']} + {each['test']}" for each in (about, kept))
            raise ValueError(
                f"the data in {config.data.path or config.data.dataset!r} ({here} samples) are not "
                f"those that the run in {run} was trained on ({there} samples): they differ in "
                f"{', '.join(differing)}; give the same data, or choose another --workdir (to go "
                f"on with others all the same, delete {run / RECORD})"
            )
    result = dataset(config, found)
    files.write_json(folder / RECORD, about)
    return result


def identity(config: Config, found: Dataset) -> dict[str, Any]:
    """Numbers and digests of samples and labels: equal for the same data, wherever they are.

    Of encoded images, the digest is of the files' bytes, of at most SEEN of each split, at even
    distances; of arrays beyond memory, of as many samples. Points that a source computes have none:
    another machine may round otherwise.
    """
    about: dict[str, Any] = {split: len(getattr(found, split)) for split in SPLITS}
    if found.levels or config.data.path:
        about["samples"] = parts.digest([_content(getattr(found, split)) for split in SPLITS])
    for name in ("labels", "confidence", "captions"):
        values = [getattr(found, f"{split}_{name}") for split in SPLITS]
        if any(each is not None for each in values):
            about[name] = parts.digest([None if v is None else _plain(v) for v in values])
    for kind in sorted(found.train_conditions):
        values = [_content(found.conditions(split).get(kind)) for split in SPLITS]
        about[f"condition_{kind}"] = parts.digest(values)
    for name, path in (("embeddings", config.data.embeddings), ("source", config.source.path)):
        if path and Path(path).is_file():
            about[name] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return about


def _plain(values: np.ndarray) -> np.ndarray:
    return values.astype(str) if values.dtype == object else values


def _content(values: Any) -> Any:
    if isinstance(values, LazyArray):
        return values.some(SEEN)
    if not isinstance(values, LazyImages):
        return values

    def content(key: Any) -> str:
        with values.open(key) as file:
            return hashlib.sha256(file.read()).hexdigest()

    rows = np.linspace(0, len(values) - 1, min(len(values), SEEN)).astype(int)
    return list(POOL.map(content, values.keys[rows]))


def dataset(config: Config, found: Dataset | None = None) -> Dataset:
    """The data of a model: images or their latents, with confidences if it is conditioned on them.

    Of a discriminator, they are the data and the samples of a model.

    Args:
        config: of the model.
        found: its images; None: they are loaded.
    """
    least = config.data.least_confidence
    drawn = models.kind(config) == "discriminator" or config.source.name == "reflow"
    if least is not None and drawn:
        raise ValueError(
            f"config.data.least_confidence is {least!r}, but samples of a model, which have no "
            "confidence, are among the data: leave it out"
        )
    found = found or images(config)
    if config.data.autoencoder:
        found = latents.encode_dataset(found, autoencoder(config), normalisation(config))
    if models.kind(config) == "discriminator":
        return discriminated(config, found)
    if config.source.name == "reflow":
        return reflowed(config, found)
    if config.model.label_confidence or least is not None:
        found = with_confidence(config, found)
    return found if least is None else confidence.above(found, least)


def autoencoder(config: Config) -> latents.Autoencoder:
    """The autoencoder in config.data.autoencoder.

    Raises:
        ValueError: there is no run, or one of no autoencoder, or of other data.
    """
    folder = Path(config.data.autoencoder)
    theirs = related.autoencoder_config(config)
    params, step = restored.weights(theirs, folder, field="config.data.autoencoder")
    about = models.create(theirs), params, step, folder, of_run(specs.scaling(theirs), folder)
    return latents.Autoencoder(*about, optimization.mesh(config), config.eval.batch_size)


def normalisation(config: Config) -> latents.Normalisation | None:
    """The normalisation of latents that config.data gives; None: that of the training set."""
    mean, std = (tuple(config.data[name]) for name in ("latent_mean", "latent_std"))
    return latents.Normalisation(mean, std) if mean or std else None


def published_decoder(config: Config) -> latents.Decoder | None:
    """The decoder of a published model of latents; None for other models.

    Raises:
        ValueError: the config does not give the normalisation of the latents.
    """
    if not config.data.autoencoder:
        return None
    given = normalisation(config)
    if given is None:
        raise ValueError(
            "config.data.autoencoder is given, but not how the model's latents are normalised: set "
            "config.data.latent_mean and latent_std, a number for each channel"
        )
    return given.decoder(autoencoder(config))


def claim_latents(config: Config, folder: Path) -> None:
    """Writes latents.json of an imported model, if it is one in the latents of an autoencoder."""
    if decoder := published_decoder(config):
        latents.claim(decoder.record(), folder, decoder.autoencoder.folder)


def with_confidence(config: Config, found: Dataset) -> Dataset:
    """The data with a confidence of each label or caption: their own, or by a classifier."""
    if not config.data.confidence:
        return confidence.check(found)
    folder = Path(config.data.confidence)
    theirs = related.config(config, folder, "config.data.confidence", "classifier")
    aspects = ("shape of data", "number of classes")
    alike.check_equal(config, theirs, folder, "classifier", "config.data.confidence", aspects)
    sde, mesh = diffusion.sde(theirs), optimization.mesh(config)
    model = networks.noise_model(theirs, sde, related.shape(theirs))
    params, _ = restored.weights(theirs, folder, field="config.data.confidence")

    def probabilities(x: jax.Array) -> jax.Array:
        logits = model.outputs(devices.gather(mesh, params))
        return nn.softmax(logits(x, jnp.full(len(x), sde.train_t_min)))

    about = of_run(specs.scaling(theirs), folder), theirs.seed, mesh, config.eval.batch_size
    return confidence.by_classifier(found, probabilities, *about)


def discriminated(config: Config, real: Dataset) -> Dataset:
    """The data, of class 1, and the samples of config.data.generated, of class 0."""
    path = Path(config.data.generated)
    about, samples = read_samples(path)
    any_sde = models.preconditioning(config, diffusion.sde(config)).any_sde
    _check_samples(config, about, path, any_sde)
    n_classes = config.data.num_classes if config.model.class_conditional else 0
    classes = None
    if n_classes:
        real.check_labels(n_classes)
        classes = read_classes(path)
        if classes.max() >= n_classes:
            raise ValueError(
                f"the samples in {path} have {classes.max() + 1} classes, but "
                f"config.data.num_classes is {n_classes}: set it to that of their model"
            )
    return with_samples(real, samples, path, config.data.generated_test_fraction, classes)


def reflowed(config: Config, real: Dataset) -> Dataset:
    """Samples of a model in place of the data, each with the noise that it was drawn from.

    The last ones are the test set, by config.data.test_fraction.
    """
    path = Path(config.source.path or "")
    about, samples = read_samples(path)
    _check_samples(config, about, path)
    noise = read_noise(path)
    train, test = split(len(samples), config.data.test_fraction)
    made: dict[str, Any] = {
        "train_conditions": {"source": noise[train]},
        "test_conditions": {"source": noise[test]},
    }
    return Dataset(samples[train], samples[test], real.levels, real=real, **made)


def _check_samples(
    config: Config, about: dict[str, Any], path: Path, any_sde: bool = False
) -> None:
    """Raises ValueError for samples of a model of other noise or data; `any_sde` allows another."""
    for name, ours in sample_identity(config).items():
        if about[name] != ours and not (name == "sde" and any_sde):
            raise ValueError(
                f"the samples in {path} are of a model with {name} = {about[name]}, here it is "
                f"{ours}: take the config of that model, and generate with it"
            )


def sample_identity(config: Config) -> dict[str, Any]:
    """Returns the noise and format of the data, which samples must share to be told from them."""
    scaling = specs.scaling(config)
    return {
        "sde": str(diffusion.sde(config)),
        "shape": list(related.shape(config)),
        "levels": scaling.levels,
        "range": list(scaling.range),
        "uniform_dequantization": scaling.dequantize,
    }
