"""Autoencoders of images (Rombach et al. 2022, Section 3.1 and Appendix G).

The loss of an image x with reconstruction y is the mean |x - y| over its values, plus
- "kl": kl_weight KL(N(mean, variance) | N(0, I)), in nats per value of the image;
- "vq": the mean square of sg(z) - c, plus commitment times that of z - sg(c), for latents z and
  codes c; no gradient passes sg (van den Oord et al. 2017, Eq. 3);
- perceptual_weight times a perceptual distance (tasks/perceptual.py), if there is one;
- adversarial_weight times the mean of -D(y), where D gives the logits of a patch discriminator.

D is trained by the mean of (max(0, 1 - D(x)) + max(0, 1 + D(y))) / 2 (Esser et al. 2021). This is
added to the loss: -D(y) has no gradient in D, and the loss of D has none in y.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh

from experiments.data.dataset import Dataset
from experiments.data.scaling import Scaling
from experiments.runs import charts, devices, parts, pictures
from experiments.runs import folder as folders
from experiments.tasks.base import Description, Records, Report, Values
from experiments.tasks.held_out import means
from experiments.tasks.perceptual import Distance
from experiments.training.optimizer import Adam
from experiments.training.state import TrainState
from sde_lib.batch import Batch, PerSample, normal, sample_keys
from sde_lib.checks import check_at_least, check_positive

SHOWN = 8  # columns and rows of test images in the picture


@dataclasses.dataclass(frozen=True)
class Losses:
    """The weights of an autoencoder's loss, by the formulas above.

    Raises:
        ValueError: a negative weight, or a negative start.
    """

    kl_weight: float = 1e-6
    commitment: float = 0.25
    perceptual_weight: float = 1.0
    adversarial_weight: float = 0.0
    adversarial_start: int = 0

    def __post_init__(self):
        names = {
            "kl.weight": self.kl_weight,
            "vq.commitment": self.commitment,
            "perceptual.weight": self.perceptual_weight,
            "adversarial.weight": self.adversarial_weight,
        }
        check_positive(or_zero=True, **{f"config.autoencoder.{k}": v for k, v in names.items()})
        check_at_least(0, **{"config.autoencoder.adversarial.start": self.adversarial_start})


@dataclasses.dataclass(frozen=True, eq=False)
class Autoencoder:
    """The task of an autoencoder.

    Attributes:
        network: a models.autoencoder.Autoencoder.
        shape: of an image.
        scaling: from grey levels to model space.
        losses: the weights of the loss.
        perceptual: the perceptual distance; None for none.
        adam: the optimizer.
        mesh: the devices.
        batch_size: of the report.
        about: provenance of the pictures.
        records: loads the record of the network of the perceptual distance.
    """

    network: nn.Module
    shape: tuple[int, ...]
    scaling: Scaling
    losses: Losses
    perceptual: Distance | None
    adam: Adam
    mesh: Mesh
    batch_size: int
    about: dict[str, Any]
    records: Callable[[], Records] = dict

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """Adam; the gradient of a patch discriminator is clipped on its own."""
        adam = self.adam.create()
        if not self.losses.adversarial_weight:
            return adam
        are_discriminator = lambda params: {part: part == "discriminator" for part in params}  # noqa: E731
        return optax.partition({False: adam, True: adam}, are_discriminator)

    @property
    def reports(self) -> Mapping[str, Callable[[Any, int, Dataset, Path], Report]]:
        return {"reconstruction": self.reconstruction, "pictures": self.final_pictures}

    def init(self, key: jax.Array) -> Any:
        return self.network.init(key, jnp.zeros((1, *self.shape)), jnp.ones(1))["params"]

    @property
    def shared(self) -> dict[str, Any]:
        return {}

    @property
    def held_out_shared(self) -> dict[str, Any]:
        return {}

    def init_carry(self) -> None:
        return None

    def update_carry(self, carry: Any, aux: Any) -> Any:
        return carry

    def values(self, dataset: Dataset, split: Any) -> Values:
        return getattr(dataset, split), {}

    def example_conditions(self) -> dict[str, Any]:
        return {}

    def loss(self, params, keys, carry, first_index, x, conditions):
        own = sample_keys(keys["loss"], len(x), first_index)
        y, metrics = self.reconstruct(params, x, own)
        loss, options = jnp.mean(metrics["loss"]), self.losses
        if options.adversarial_weight:
            of_images, own_loss = adversarial_losses(self.network, params, x, y)
            started = keys["step"] >= options.adversarial_start
            loss += jnp.where(started, options.adversarial_weight * of_images + own_loss, 0.0)
        return loss, {}

    def reconstruct(
        self, params: Any, x: Batch, keys: jax.Array | None = None
    ) -> tuple[Batch, dict[str, PerSample]]:
        """Reconstructions of images x in model space, and metrics [B].

        Args:
            params: of the network.
            x: [B, H, W, C].
            keys: a key for each sample, [B], to draw the latents of "kl"; None: their means.

        Returns:
            The images, and metrics: "loss", without the adversarial terms; "psnr", in decibels;
            "kl", in nats, or for "vq" "code_error", the mean square of latents minus codes.
        """
        options, (low, high) = self.losses, self.scaling.range
        apply: Any = partial(self.network.apply, {"params": params})
        z, log_variance = apply(x, method="encode")
        if log_variance is None:
            codes = apply(z, method="quantize")
            metrics = {"code_error": mean_of(jnp.square(z - codes))}
            loss = mean_of(jnp.square(lax.stop_gradient(z) - codes))
            loss += options.commitment * mean_of(jnp.square(z - lax.stop_gradient(codes)))
        else:
            metrics = {"kl": gaussian_kl(z, log_variance)}
            loss = options.kl_weight * metrics["kl"] / x[0].size
            if keys is not None:
                z += jnp.exp(0.5 * log_variance) * normal(keys, z.shape)
        y = apply(z, method="decode")
        loss += mean_of(jnp.abs(y - x))
        if self.perceptual is not None:
            loss += options.perceptual_weight * self.perceptual(x, y)
        metrics["psnr"] = 10 * jnp.log10((high - low) ** 2 / mean_of(jnp.square(y - x)))
        return y, {"loss": loss} | metrics

    def with_scaling(self, scaling: Scaling) -> Self:
        return dataclasses.replace(self, scaling=scaling)

    def prepare(self, dataset: Dataset, folder: Path) -> None:
        for name, (values, changed) in self.records().items():
            folders.record(folder / name, values, changed)

    def start(self, state: TrainState) -> TrainState:
        return state

    def metrics(self, params, key, batch, first_index):
        x = self.scaling.to_model(key, batch[0], dequantize=False)
        return self.reconstruct(devices.gather(self.mesh, params), x)[1]

    def held_out(self, result: Mapping[str, Any]) -> dict[str, float]:
        return means(result, ("code_error", "kl", "loss", "psnr"))

    def pictures(self, params: Any, step: int, dataset: Dataset, folder: Path) -> list[Path]:
        n = len(dataset.test)
        rows = np.linspace(0, n - 1, min(n, SHOWN * SHOWN)).astype(int)
        images = jnp.asarray(dataset.test[rows])
        x = self.scaling.to_model(jax.random.key(0), images, dequantize=False)
        y = jax.jit(self.reconstruct)(params, x)[0]
        path = folder / "samples" / f"reconstructions_{step}.png"
        about = pictures.provenance(**self.about, step=step)
        both = {"data": np.asarray(x), "reconstructions": devices.fetch(y)}
        if x.ndim == 3:
            sets = {name: series[:SHOWN] for name, series in both.items()}
            return [charts.save_series(path, sets, about)]
        pairs = np.stack([*both.values()], axis=1).reshape(-1, *x.shape[1:])
        if x.ndim == 5:  # the middle slices of volumes
            pairs = pairs[:, x.shape[1] // 2]
        return [pictures.save_grid(path, self.scaling.to_uint8(pairs), 2 * SHOWN, about)]

    def reconstruction(self, params: Any, step: int, dataset: Dataset, folder: Path) -> Report:
        """The means of the metrics over the test set."""
        metrics = partial(jax.jit(self.metrics), params, jax.random.key(0))
        test = self.values(dataset, "test")
        result = parts.over(self.mesh, test, self.batch_size, metrics, title="reconstruction")
        mean = {name: values.mean() for name, values in result.items()}
        names = {"kl": "KL {:.1f} nats", "code_error": "squared distance to codes {:.4f}"}
        extra = [text.format(mean[name]) for name, text in names.items() if name in mean]
        line = f"test PSNR {mean['psnr']:.1f} dB, {extra[0]}, loss {mean['loss']:.4f}"
        return Report([line], {"test set": line}, [])

    def final_pictures(self, params: Any, step: int, dataset: Dataset, folder: Path) -> Report:
        """The picture of test images beside their reconstructions."""
        paths = self.pictures(params, step, dataset, folder)
        return Report(list(map(str, paths)), {}, paths)

    def describe(self) -> Description:
        return Description(
            "autoencoder",
            "to train diffusion models in its latents, and to decode these",
            "--config=FILE --config.data.autoencoder=RUN",
            ["It has an answer to any input, also to what is unlike its data."],
        )


def adversarial_losses(
    network: nn.Module, params: Any, x: Batch, y: Batch
) -> tuple[jax.Array, jax.Array]:
    """The loss of reconstructions y, without a gradient in the discriminator, and its own."""

    def logits(params: Any, x: Batch) -> jax.Array:
        result: Any = network.apply({"params": params}, x, method="discriminate")
        return result

    real, made = logits(params, x), logits(params, lax.stop_gradient(y))
    own = 0.5 * (jnp.mean(nn.relu(1 - real)) + jnp.mean(nn.relu(1 + made)))
    return -jnp.mean(logits(lax.stop_gradient(params), y)), own


def gaussian_kl(mean: Batch, log_variance: Batch) -> PerSample:
    """KL(N(mean, variance) | N(0, I)) in nats: 1/2 sum(mean^2 + variance - 1 - log variance)."""
    each = mean**2 + jnp.expm1(log_variance) - log_variance
    return 0.5 * jnp.sum(each, axis=tuple(range(1, each.ndim)))


def mean_of(x: Batch) -> PerSample:
    """The mean over the values of each image."""
    return jnp.mean(x, axis=(1, 2, 3))
