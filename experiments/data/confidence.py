"""How sure the labels of a data set are: what a model with config.model.label_confidence learns."""

import dataclasses
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp

import models
from experiments import build
from experiments.data import data
from experiments.runs import parts, sharding
from experiments.runs import workdir as workdirs
from experiments.tasks import classifier
from experiments.training import state
from models.config import Config


def claim(config: Config, workdir: Path) -> None:
    """Writes confidence.json: whose trust in the labels a run learns from.

    Raises:
        ValueError: the folder's run began with another's, or the same one's at another step.
    """
    if not config.data.confidence:
        return
    folder = Path(config.data.confidence)
    theirs = workdirs.load_config(folder)
    theirs.mesh = config.mesh
    _, params, step = state.load(theirs, folder)
    workdirs.record(
        workdir / "confidence.json",
        {"model": parts.digest(params), "step": step},
        f"the model in {workdir} was trained with the confidences of another model than that now "
        f"in {folder}: choose another --workdir",
    )


def load(config: Config, dataset: data.Dataset) -> data.Dataset:
    """The data with a confidence of each label: their own, or the trust of a classifier.

    That of config.data.confidence, the folder of one: the probability that it gives to the label at
    its SDE's least noise, of the data as it was trained on them. It goes before the data's own.

    Raises:
        ValueError: there are none, or the folder's model is no classifier of these data.
    """
    if not config.data.confidence:
        if dataset.train_confidence is None or dataset.test_confidence is None:
            raise ValueError(
                "config.model.label_confidence needs a confidence of each label: give the folder "
                "of a trained classifier as config.data.confidence, or an .npz file with arrays "
                "'train_confidence' and 'test_confidence' (README.md, Data)"
            )
        return dataset
    folder = Path(config.data.confidence)
    theirs = workdirs.load_config(folder)
    theirs.mesh = config.mesh
    if not models.is_classifier(theirs) or models.is_discriminator(theirs):
        raise ValueError(f"{folder} holds the model {theirs.model.name!r}: that is no classifier")
    for what, ours, other in (
        ("shape of data", build.image_shape(config), build.image_shape(theirs)),
        ("number of classes", config.data.num_classes, theirs.data.num_classes),
    ):
        if ours != other:
            raise ValueError(f"the {what} of the classifier in {folder} is {other}, here {ours}")
    model, params, _ = state.load(theirs, folder)
    sde, mesh, key = build.make_sde(theirs), sharding.make_mesh(theirs), jax.random.key(theirs.seed)
    levels, dequantize = dataset.levels, theirs.data.uniform_dequantization

    @jax.jit
    def trust(params, batch, first_index):
        x, labels = batch
        x = data.to_model_space_each(theirs, levels, key, x, first_index, dequantize)
        fn = classifier.logits_fn(theirs, sde, model, sharding.gather(mesh, params))
        probabilities = nn.softmax(fn(x, jnp.full(len(x), sde.train_t_min)))
        return {"trust": jnp.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0]}

    def of(*values):
        return parts.over(mesh, values, config.eval.batch_size, partial(trust, params))["trust"]

    return dataclasses.replace(
        dataset,
        train_confidence=of(dataset.train, dataset.train_labels),
        test_confidence=of(dataset.test, dataset.test_labels),
    )
