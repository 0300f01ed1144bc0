"""Autoencoders: their training (Rombach et al. 2022, Section 3.1 and Appendix G).

The loss of an image x of reconstruction y is the mean |x - y| over its numbers, and
- "kl": kl_weight times KL(N(mean, variance) | N(0, I)), in nats a number of the image;
- "vq": the mean square of sg(z) - c, and commitment times that of z - sg(c), of latents z and codes
  c; no gradient passes sg (van den Oord et al. 2017, Eq. 3).
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

from experiments import data, parts, pictures, sharding
from models.config import Config
from sde_lib.batch import Batch, PerSample, normal, sample_keys

SHOWN = 8  # test images in the picture


def make_objective(config: Config, model: nn.Module) -> Callable[..., jax.Array]:
    """objective(params, keys, first_index, x, told): mean loss of a microbatch."""

    def objective(params, keys, first_index, x, told):
        sample = sample_keys(keys["loss"], len(x), first_index)
        return jnp.mean(reconstruct(config, model, params, x, sample)[1]["loss"])

    return objective


def reconstruct(
    config: Config, model: nn.Module, params: Any, x: Batch, keys: jax.Array | None = None
) -> tuple[Batch, dict[str, PerSample]]:
    """Of images their reconstructions, and metrics.

    Args:
        keys: [B], to draw the latents of "kl" by; None: they are the means.

    Returns:
        The reconstructions, and [B] each "loss", "psnr" in decibels, and "kl" in nats or, of "vq",
        "code_error", the mean square of latents less codes.
    """
    options, apply = config.autoencoder, partial(model.apply, {"params": params})
    z, log_variance = apply(x, method="encode")
    if log_variance is None:
        codes = apply(z, method="quantize")
        about = {"code_error": mean_square(z - codes)}
        regularization = mean_square(lax.stop_gradient(z) - codes)
        regularization += options.commitment * mean_square(z - lax.stop_gradient(codes))
    else:
        about = {"kl": gaussian_kl(z, log_variance)}
        regularization = options.kl_weight * about["kl"] / x[0].size
        if keys is not None:
            z += jnp.exp(0.5 * log_variance) * normal(keys, z.shape)
    y = apply(z, method="decode")
    low, high = data.data_range(config)
    about["psnr"] = 10 * jnp.log10((high - low) ** 2 / mean_square(y - x))
    loss = jnp.mean(jnp.abs(y - x), axis=(1, 2, 3)) + regularization
    return y, {"loss": loss} | about


def gaussian_kl(mean: Batch, log_variance: Batch) -> PerSample:
    """KL(N(mean, variance) | N(0, I)) in nats: 1/2 sum(mean^2 + variance - 1 - log variance)."""
    each = mean**2 + jnp.expm1(log_variance) - log_variance
    return 0.5 * jnp.sum(each, axis=(1, 2, 3))


def mean_square(x: Batch) -> PerSample:
    return jnp.mean(x**2, axis=(1, 2, 3))


def make_metrics(
    config: Config, model: nn.Module, dataset: data.Dataset
) -> Callable[..., dict[str, jax.Array]]:
    """metrics(params, key, batch, first_index) of `reconstruct`, from the latents' means.

    A batch is of held_out.values; nothing is drawn: the key is for other models.
    """
    mesh = sharding.make_mesh(config)

    @jax.jit
    def metrics(params, key, batch, first_index):
        x = data.to_model_space(config, dataset.levels, key, batch[0], dequantize=False)
        return reconstruct(config, model, sharding.gather(mesh, params), x)[1]

    return metrics


def report(config: Config, model: nn.Module, params: Any, dataset: data.Dataset) -> str:
    """Means over the test set of what `reconstruct` measures."""
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
    y = jax.jit(partial(reconstruct, config, model))(params, x)[0]
    pairs = np.stack([np.asarray(x), sharding.fetch(y)], axis=1).reshape(-1, *x.shape[1:])
    about = pictures.provenance(config=config.to_dict(), seed=config.seed, step=step)
    path = workdir / "samples" / f"reconstructions_{step}.png"
    return pictures.save_grid(path, data.to_uint8(config, pairs), 2 * SHOWN, about)
