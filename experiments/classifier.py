"""Classifiers of noisy data: their training, their accuracy, and sampling guided by one.

p(label | x, t) turns the score of p_t(x) into that of p_t(x | label) by Bayes' rule (Song et al.
2021, Section 5 and Appendix I). A classifier is a run of its own, in a folder of its own.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import models
import sde_lib
from experiments import build, data, scores, state
from experiments import workdir as workdirs
from models.config import Config
from samplers import guidance
from sde_lib import SDE, ScoreFn
from sde_lib.batch import Batch, PerSample
from sde_lib.noise_density import Quantile

Guide = Callable[[ScoreFn, Any, jax.Array], ScoreFn]
"""guide(score_fn, parameters of the classifier, indices of the samples) -> score_fn"""


def logits_fn(config: Config, sde: SDE, model: nn.Module, params: Any, **options) -> ScoreFn:
    """logits(x, t): [B, classes]. The classifier sees the noise as a score network does."""
    noise_labels = models.noise_labels(config, sde)
    return lambda x, t: model.apply({"params": params}, x, noise_labels(t), **options)  # pyright: ignore


def cross_entropy(
    key: jax.Array,
    sde: SDE,
    logits_fn: Callable[[Batch, PerSample], jax.Array],
    x0: Batch,
    labels: jax.Array,
    first_index: int | jax.Array = 0,
    noise_density: Quantile | None = None,
) -> tuple[PerSample, dict[str, PerSample]]:
    """-log p(label | x_t, t) in nats of each sample, at a random t; sample i has its own key.

    Returns:
        The losses [B], and metrics [B]: "t" and "correct", whether the likeliest is the label.
    """
    x, t, *_ = sde_lib.perturb(key, sde, x0, noise_density, first_index=first_index)
    logits = logits_fn(x, t)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses, {"t": t, "correct": (jnp.argmax(logits, axis=1) == labels).astype(jnp.float32)}


def make_objective(config: Config, model: nn.Module) -> Callable[..., jax.Array]:
    """objective(params, keys, first_index, x, labels): mean cross-entropy of a microbatch."""
    sde, noise_density = build.make_sde(config), build.make_noise_density(config)

    def objective(params, keys, first_index, x, labels):
        logits = logits_fn(
            config, sde, model, params, train=True, rngs={"dropout": keys["dropout"]}
        )
        about = labels, first_index, noise_density
        return jnp.mean(cross_entropy(keys["loss"], sde, logits, x, *about)[0])

    return objective


def load_guide(config: Config, sde: SDE) -> tuple[Guide, Any]:
    """What config.sampling.classifier, the folder of one, makes of a score, and its parameters.

    config.sampling.label is the class of all samples; with -1, sample i is of class i modulo their
    number. Without a classifier the score stays what it is.

    Raises:
        ValueError: the folder's model is no classifier, or not one of this noise and data, or
            without the class.
    """
    options = config.sampling
    if not options.classifier:
        return lambda score_fn, *_: score_fn, None
    folder = Path(options.classifier)
    theirs = workdirs.load_config(folder)
    theirs.mesh = config.mesh
    if not models.is_classifier(theirs):
        raise ValueError(f"{folder} holds the model {theirs.model.name!r}: that is no classifier")
    for what, ours, other in (
        ("SDE", sde, build.make_sde(theirs)),
        ("shape of data", build.image_shape(config), build.image_shape(theirs)),
        ("range of data", data.data_range(config), data.data_range(theirs)),
    ):
        if ours != other:
            raise ValueError(f"the {what} of the classifier in {folder} is {other}, here {ours}")
    n_classes = theirs.data.num_classes
    scores.check_label(config, n_classes)
    model, params, _ = state.load(theirs, folder)

    def guide(score_fn, params, indices):
        labels = scores.sampled_classes(config, n_classes, indices)

        def log_prob(x, t):
            logits = logits_fn(theirs, sde, model, params)(x, t)
            return jnp.take_along_axis(nn.log_softmax(logits), labels[:, None], axis=1)[:, 0]

        return guidance.gradient(score_fn, log_prob, options.guidance_weight)

    return guide, params
