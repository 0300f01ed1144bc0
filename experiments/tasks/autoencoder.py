"""Autoencoders: their training (Rombach et al. 2022, Section 3.1 and Appendix G).

The loss of an image x of reconstruction y is the mean |x - y| over its numbers, and
- "kl": kl_weight times KL(N(mean, variance) | N(0, I)), in nats a number of the image;
- "vq": the mean square of sg(z) - c, and commitment times that of z - sg(c), of latents z and codes
  c; no gradient passes sg (van den Oord et al. 2017, Eq. 3);
- perceptual_weight times the distance of experiments/perceptual.py, where there is one;
- adversarial_weight times the mean of -D(y), D the patch discriminator's logits, where it is
  positive; then D has a loss too, the mean of (max(0, 1 - D(x)) + max(0, 1 + D(y))) / 2 (Esser et
  al. 2021). Both are in one sum: D stands behind sg in the first, and y in the second.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.data import data
from experiments.runs import parts, pictures, sharding
from experiments.tasks import perceptual
from models.config import Config
from sde_lib.batch import Batch, PerSample, normal, sample_keys

SHOWN = 8  # columns of test images in the picture, and rows


def make_objective(config: Config, model: nn.Module) -> Callable[..., jax.Array]:
    """objective(params, keys, first_index, x, told): mean loss of a microbatch.

    keys["step"] is the step: the discriminator is there from adversarial_start on.
    """
    options, reconstruct = config.autoencoder, make_reconstruct(config, model)

    def objective(params, keys, first_index, x, told):
        own = sample_keys(keys["loss"], len(x), first_index)
        y, about = reconstruct(params, x, own)
        loss = jnp.mean(about["loss"])
        if options.adversarial_weight > 0:
            both = adversarial_losses(model, params, x, y)
            started = keys["step"] >= options.adversarial_start
            loss += jnp.where(started, options.adversarial_weight * both[0] + both[1], 0.0)
        return loss

    return objective


def adversarial_losses(
    model: nn.Module, params: Any, x: Batch, y: Batch
) -> tuple[jax.Array, jax.Array]:
    """The reconstructions' loss, which has no gradient in the discriminator, and its own alone."""

    def logits(params: Any, x: Batch) -> jax.Array:
        result: Any = model.apply({"params": params}, x, method="discriminate")
        return result

    real, made = logits(params, x), logits(params, lax.stop_gradient(y))
    own = 0.5 * (jnp.mean(nn.relu(1 - real)) + jnp.mean(nn.relu(1 + made)))
    return -jnp.mean(logits(lax.stop_gradient(params), y)), own


def make_reconstruct(
    config: Config, model: nn.Module
) -> Callable[..., tuple[Batch, dict[str, PerSample]]]:
    """reconstruct(params, x, keys=None) -> y, metrics [B].

    The keys, [B], are to draw the latents of "kl" by; with None, they are the means. Metrics are
    "loss", without a discriminator's; "psnr" in decibels; and "kl" in nats or, of "vq",
    "code_error", the mean square of latents less codes.
    """
    options, (low, high) = config.autoencoder, data.data_range(config)
    distance = perceptual.load(config) if options.perceptual else None

    def reconstruct(params: Any, x: Batch, keys: jax.Array | None = None):
        apply: Any = partial(model.apply, {"params": params})
        z, log_variance = apply(x, method="encode")
        if log_variance is None:
            codes = apply(z, method="quantize")
            about = {"code_error": mean_of(jnp.square(z - codes))}
            loss = mean_of(jnp.square(lax.stop_gradient(z) - codes))
            loss += options.commitment * mean_of(jnp.square(z - lax.stop_gradient(codes)))
        else:
            about = {"kl": gaussian_kl(z, log_variance)}
            loss = options.kl_weight * about["kl"] / x[0].size
            if keys is not None:
                z += jnp.exp(0.5 * log_variance) * normal(keys, z.shape)
        y = apply(z, method="decode")
        loss += mean_of(jnp.abs(y - x))
        if distance is not None:
            loss += options.perceptual_weight * distance(x, y)
        about["psnr"] = 10 * jnp.log10((high - low) ** 2 / mean_of(jnp.square(y - x)))
        return y, {"loss": loss} | about

    return reconstruct


def gaussian_kl(mean: Batch, log_variance: Batch) -> PerSample:
    """KL(N(mean, variance) | N(0, I)) in nats: 1/2 sum(mean^2 + variance - 1 - log variance)."""
    each = mean**2 + jnp.expm1(log_variance) - log_variance
    return 0.5 * jnp.sum(each, axis=(1, 2, 3))


def mean_of(x: Batch) -> PerSample:
    return jnp.mean(x, axis=(1, 2, 3))


def make_metrics(
    config: Config, model: nn.Module, dataset: data.Dataset
) -> Callable[..., dict[str, jax.Array]]:
    """metrics(params, key, batch, first_index) of make_reconstruct, from the latents' means.

    A batch is of held_out.values; nothing is drawn: the key is for other models.
    """
    mesh, reconstruct = sharding.make_mesh(config), make_reconstruct(config, model)

    @jax.jit
    def metrics(params, key, batch, first_index):
        x = data.to_model_space(config, dataset.levels, key, batch[0], dequantize=False)
        return reconstruct(sharding.gather(mesh, params), x)[1]

    return metrics


def report(config: Config, model: nn.Module, params: Any, dataset: data.Dataset) -> str:
    """Means over the test set of make_reconstruct's metrics."""
    metrics = partial(make_metrics(config, model, dataset), params, None)
    mesh, size = sharding.make_mesh(config), config.eval.batch_size
    result = parts.over(mesh, (dataset.test,), size, metrics)
    means = {name: values.mean() for name, values in result.items()}
    names = {"kl": "KL {:.1f} nats", "code_error": "squared distance to codes {:.4f}"}
    about = [text.format(means[name]) for name, text in names.items() if name in means]
    return f"test PSNR {means['psnr']:.1f} dB, {about[0]}, loss {means['loss']:.4f}"


def save_reconstructions(
    config: Config, model: nn.Module, params: Any, dataset: data.Dataset, step: int, workdir: Path
) -> Path:
    """The picture of test images, at even distances, beside their reconstructions."""
    n = len(dataset.test)
    images = dataset.test[np.linspace(0, n - 1, min(n, SHOWN * SHOWN)).astype(int)]
    x = data.to_model_space(config, dataset.levels, jax.random.key(0), jnp.asarray(images), False)
    y = jax.jit(make_reconstruct(config, model))(params, x)[0]
    pairs = np.stack([np.asarray(x), sharding.fetch(y)], axis=1).reshape(-1, *x.shape[1:])
    about = pictures.provenance(config=config.to_dict(), seed=config.seed, step=step)
    path = workdir / "samples" / f"reconstructions_{step}.png"
    return pictures.save_grid(path, data.to_uint8(config, pairs), 2 * SHOWN, about)
