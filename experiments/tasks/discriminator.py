"""Discriminators: what tells a model's samples from the data, at every noise level.

Kim et al. 2023 (arXiv 2211.17091) weigh the cross-entropy by g^2 / sigma^2 and draw t with that
density. As g^2 / sigma^2 = d log(sigma^2 / alpha^2) / dt for every SDE here, that is a uniform
log-SNR: config.training.noise_density = "log_uniform", and nothing else. Training is that of a
classifier (experiments/classifier.py), of two classes: 0 are samples, 1 data.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import traverse_util

import models
from experiments.commands import generate
from experiments.data.dataset import Dataset
from experiments.runs import workdir as workdirs
from experiments.training import state
from experiments.training.state import TrainState
from models.config import Config

FREE = {"name", "parent", "remat", "dtype", "dropout", "num_outputs"}  # the features stay


@dataclasses.dataclass(frozen=True)
class Joined:
    """Two arrays, or images in files, one after the other; to be indexed by an array."""

    first: Any
    second: Any

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.first.shape[1:])

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        in_second = indices >= len(self.first)
        rows = np.empty((len(indices), *self.shape[1:]), self.first.dtype)
        rows[~in_second] = self.first[indices[~in_second]]
        rows[in_second] = self.second[indices[in_second] - len(self.first)]
        return rows


def load_data(config: Config, real: Dataset) -> Dataset:
    """The data, of class 1, and the samples of config.data.generated, of class 0.

    Of the samples, the last are for tests, as large a part as of the data.

    Raises:
        ValueError: no file of samples, of other data or of another SDE, or too few.
    """
    path = Path(config.data.generated)
    about = generate.read_about(path)
    for name, ours in generate.identity(config, real.levels).items():
        if about[name] != ours:
            raise ValueError(
                f"the samples in {path} are of a model with {name} = {about[name]}, here it is "
                f"{ours}: take the config of that model, and generate with it"
            )
    with np.load(path) as file:
        samples = file["samples"]
    n_test = round(len(samples) * len(real.test) / (len(real.train) + len(real.test)))
    if not 0 < n_test < len(samples):
        raise ValueError(
            f"the {len(samples)} samples in {path} are too few for a test set of their own: set "
            "config.sampling.n_samples to about the size of the data for --mode=generate"
        )

    def labels(real: Any, fake: np.ndarray) -> np.ndarray:
        return np.repeat(np.array([1, 0], np.int32), [len(real), len(fake)])

    train, test = (real.train, samples[:-n_test]), (real.test, samples[-n_test:])
    images: dict[str, Any] = {"train": Joined(*train), "test": Joined(*test)}
    about: dict[str, Any] = {"train_labels": labels(*train), "test_labels": labels(*test)}
    return Dataset(**images, **about, levels=real.levels)


def claim(config: Config, dataset: Dataset, workdir: Path) -> None:
    """Writes generated.json: whose samples a discriminator knows, and the log odds of training.

    Raises:
        ValueError: the folder's are others.
    """
    about = generate.read_about(Path(config.data.generated))
    n_samples, n_data = np.bincount(np.asarray(dataset.train_labels))
    about["log_odds"] = math.log(n_data / n_samples)
    workdirs.record(
        workdir / "generated.json",
        about,
        f"the discriminator in {workdir} was trained on other samples than those that are now in "
        f"{config.data.generated}: choose another --workdir",
    )


def init_state(config: Config, model: nn.Module, abstract: TrainState | None = None) -> TrainState:
    """state.init_state, with the weights of config.model.pretrained, averaged, in the encoder."""
    made = state.init_state(config, model, abstract)
    if not models.is_discriminator(config) or not config.model.pretrained:
        return made
    _, params, _ = state.load(check_encoder(config), Path(config.model.pretrained))
    params = traverse_util.flatten_dict(params)
    names = traverse_util.flatten_dict(made.params["encoder"])
    encoder = traverse_util.unflatten_dict({name: params[name] for name in names})

    def put(made, encoder):
        params = made.params | {"encoder": encoder}
        return made._replace(params=params, ema_params=params)

    shardings = jax.tree.map(lambda leaf: leaf.sharding, made)
    return jax.jit(put, out_shardings=shardings)(made, encoder)


def check_encoder(config: Config) -> Config:
    """The config of the run that the encoder is from.

    Raises:
        ValueError: no run, or one of another network, noise or data.
    """
    folder = Path(config.model.pretrained)
    theirs = state.load_related_config(config, folder, "encoder")
    if theirs.model.class_conditional:
        raise ValueError(
            f"the network in {folder} is told classes, which a discriminator is not: take another "
            "config.model.pretrained"
        )
    fields = {"model.name": (config.model.encoder, theirs.model.name)}
    if theirs.model.name == config.model.encoder:
        ours, other = models.create(config).encoder, models.create(theirs)
        names = {field.name for field in dataclasses.fields(ours)} - FREE
        fields |= {f"model.{name}": (getattr(ours, name), getattr(other, name)) for name in names}
        for name in () if models.is_classifier(theirs) else ("parametrization", "sigma_data"):
            fields[f"model.{name}"] = config.model[name], theirs.model[name]
    for name, (ours, other) in fields.items():
        if ours != other:
            raise ValueError(
                f"the network in {folder} has {name} = {other!r}, the encoder here {ours!r}: take "
                "the fields of config.model from that run"
            )
    return theirs
