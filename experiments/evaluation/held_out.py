"""Losses on held-out data, along time too: where the model is bad."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import models
from experiments import build
from experiments.data import data
from experiments.pipeline import cascade, conditions, scores
from experiments.runs import parts, sharding
from experiments.tasks import autoencoder, classifier
from experiments.training.state import TrainState
from models.config import Config
from sde_lib import EDM, SDE, VP

N_BUCKETS = 5


def values(config: Config, dataset: data.Dataset) -> tuple[Any, conditions.Conditions]:
    """The test data, and what the model is told of them."""
    return dataset.test, conditions.of_data(config, dataset, "test")


def make_losses(
    config: Config, model: nn.Module, dataset: data.Dataset
) -> Callable[..., dict[str, jax.Array]]:
    """losses(params, key, batch, first_index): what training minimises, without dropout.

    A batch is of values(config, dataset). It has no soft truncation, whose smallest time would be
    one for all of the data.

    "loss" [B] comes with "t" [B] and, of a score model, "error" [B], the mean square of
    sigma score + z, which is 1 for a model that knows nothing; of a classifier, "correct" [B].
    Sample i of the data is dequantised and perturbed by a key of its own.
    """
    if models.is_autoencoder(config):
        return autoencoder.make_metrics(config, model, dataset)
    sde, mesh = build.make_sde(config), sharding.make_mesh(config)
    loss = build.make_loss(config, dataset.levels)
    is_classifier = models.is_classifier(config)
    dequantize, density = config.data.uniform_dequantization, build.make_noise_density(config)

    @jax.jit
    def losses(params, key, batch, first_index):
        x, told = batch
        x = data.to_model_space_each(config, dataset.levels, key, x, first_index, dequantize)
        if is_classifier:
            fn = classifier.logits_fn(config, sde, model, sharding.gather(mesh, params))
            about = told["class_labels"], first_index, density
            values, about = classifier.cross_entropy(key, sde, fn, x, *about)
        else:
            told |= cascade.told_of(config, key, x, first_index)
            fn = scores.score_fn(config, sde, model, mesh, params, told)
            options = {"first_index": first_index, "stratified": False}
            if config.training.soft_truncation is not None:
                options["soft_truncation"] = None
            values, about = loss(key, sde, fn, x, **options)
        return {"loss": values} | about

    return losses


def make_evaluation(
    config: Config, model: nn.Module, dataset: data.Dataset
) -> Callable[[int, TrainState], dict[str, float]]:
    """evaluation(step, state): the averaged model's loss on test data, the same ones each time.

    They are config.eval.batch_size, at even distances: "eval_loss" is their mean loss,
    "eval_error_t0.2" the mean error of those with t below 0.2 t_max, and so on up to 1.
    """
    mesh, sde = sharding.make_mesh(config), build.make_sde(config)
    losses, key = make_losses(config, model, dataset), jax.random.key(config.seed)
    n = len(dataset.test)
    indices = np.linspace(0, n - 1, min(n, config.eval.batch_size)).astype(int)
    some = jax.tree.map(lambda leaf: leaf[indices], values(config, dataset))

    def evaluation(step: int, state: TrainState) -> dict[str, float]:
        result = parts.over(mesh, some, len(indices), partial(losses, state.ema_params, key))
        of_all = result.keys() & {"loss", "psnr", "kl", "code_error"}
        metrics = {f"eval_{name}": float(result[name].mean()) for name in sorted(of_all)}
        for name in result.keys() & {"error", "correct"}:
            along = along_time(sde, result["t"], result[name])
            metrics |= {f"eval_{name}_t{edge:g}": mean for edge, mean in along.items()}
        return metrics

    return evaluation


def along_time(sde: SDE, t: np.ndarray, values: np.ndarray) -> dict[float, float]:
    """Means over equal intervals of t, by their upper ends; without those that t leaves empty.

    Under EDM, whose t is the noise level, the intervals are of VP's t.
    """
    if isinstance(sde, EDM):
        sde, t = VP(), np.asarray(VP().inverse_noise_level(jnp.asarray(t)))
    bucket = np.minimum(t / sde.t_max * N_BUCKETS, N_BUCKETS - 1).astype(int)
    return {
        (k + 1) / N_BUCKETS * sde.t_max: float(values[bucket == k].mean())
        for k in range(N_BUCKETS)
        if (bucket == k).any()
    }


def report(config: Config, model: nn.Module, params: Any, dataset: data.Dataset) -> str:
    """A classifier's accuracy and loss on the test set, each sample at a random t, and along t."""
    mesh, sde = sharding.make_mesh(config), build.make_sde(config)
    losses = partial(make_losses(config, model, dataset), params, jax.random.key(config.seed))
    result = parts.over(mesh, values(config, dataset), config.eval.batch_size, losses)
    along = along_time(sde, result["t"], result["correct"]).items()
    along_t = ", ".join(f"{mean:.2f} to t = {edge:g}" for edge, mean in along)
    accuracy, loss = result["correct"].mean(), result["loss"].mean()
    commonest = np.bincount(np.asarray(dataset.test_labels)).max() / len(result["correct"])
    return (
        f"test accuracy {accuracy:.3f} (the commonest class: {commonest:.3f}), loss {loss:.4f}; "
        f"accuracy {along_t}"
    )
