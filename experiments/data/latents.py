"""Diffusion in the latents of an autoencoder (Rombach et al. 2022): latents are data like others.

The latent of an image is the mean that the encoder gives. Each channel is shifted and scaled to
mean 0 and standard deviation 1 over the training set: noise then affects all channels alike, and
sigma_data = 1 holds for each. A published model has numbers of its own for that, which stay when it
is trained further.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.data.dataset import Dataset, identity
from experiments.data.scaling import Scaling
from experiments.runs import devices, folder, parts

RECORD = "latents.json"


@dataclasses.dataclass(frozen=True, eq=False)
class Autoencoder:
    """A trained autoencoder.

    Attributes:
        network: a models.autoencoder.Autoencoder.
        params: its parameters.
        step: the step that they are from.
        folder: its run's folder.
        scaling: of its images.
        mesh: the devices.
        batch_size: images at a time.
    """

    network: nn.Module
    params: Any
    step: int
    folder: Path
    scaling: Scaling
    mesh: Mesh
    batch_size: int = 256

    def digest(self) -> str:
        """A digest of the weights."""
        return parts.digest(self.params)

    def encode(self, values: Any) -> np.ndarray:
        """Latents [N, h, w, channels] of images [N, H, W, C] in grey levels, or in model space."""

        @jax.jit
        def batch(params, images, first_index):
            levels, key = jnp.issubdtype(images.dtype, jnp.integer), jax.random.key(0)
            x = self.scaling.to_model(key, images, dequantize=False) if levels else images
            return {"latents": self.apply(params, x, "encode")[0]}

        return self._over(values, partial(batch, self.params), "encoding")["latents"]

    def decode(self, z: np.ndarray) -> np.ndarray:
        """Images in model space of latents [N, h, w, channels]."""
        return self._over(z, partial(self._decode_batch, self.params), "decoding")["images"]

    @partial(jax.jit, static_argnums=0)
    def _decode_batch(self, params, z, first_index):
        return {"images": self.apply(params, z, "decode")}

    def apply(self, params: Any, values: jax.Array, method: str) -> Any:
        """Inside jit: the network's method "encode" or "decode", with these parameters."""
        params = devices.gather(self.mesh, params)
        return self.network.apply({"params": params}, values, method=method)

    def _over(self, values: Any, fn: Callable, title: str) -> parts.Arrays:
        return parts.over(self.mesh, values, self.batch_size, fn, title=title)


@dataclasses.dataclass(frozen=True, eq=False)
class Decoder:
    """From the normalised latents of a run to images.

    Attributes:
        autoencoder: the autoencoder that the run was trained with.
        mean: of each channel of its latents.
        std: likewise, the standard deviation.
    """

    autoencoder: Autoencoder
    mean: np.ndarray
    std: np.ndarray

    @property
    def scaling(self) -> Scaling:
        """The scaling of the decoded images."""
        return dataclasses.replace(self.autoencoder.scaling, dequantize=False)

    def record(self) -> dict[str, Any]:
        """The content of latents.json."""
        about = {"mean": self.mean.tolist(), "std": self.std.tolist()}
        return about | {"autoencoder": self.autoencoder.digest(), "step": self.autoencoder.step}

    def image_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the image of a latent of this shape."""
        auto, z = self.autoencoder, jax.ShapeDtypeStruct((1, *shape), np.float32)
        decode = partial(auto.network.apply, method="decode")
        return jax.eval_shape(decode, {"params": auto.params}, z).shape[1:]

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Latents as the run samples them of images [N, H, W, C] in model space."""
        return (self.autoencoder.encode(images) - self.mean) / self.std

    def decode(self, x: np.ndarray) -> np.ndarray:
        """Images in model space of latents as the run samples them, [..., h, w, channels]."""
        rows = np.asarray(x).reshape(-1, *x.shape[-3:]) * self.std + self.mean
        images = self.autoencoder.decode(rows.astype(np.float32))
        return images.reshape(*x.shape[:-3], *images.shape[1:])

    def encoded(self, params: Any, images: jax.Array) -> jax.Array:
        """Inside jit: what `encode` gives, with these parameters of the autoencoder."""
        return (self.autoencoder.apply(params, images, "encode")[0] - self.mean) / self.std

    def decoded(self, params: Any, x: jax.Array) -> jax.Array:
        """Inside jit: what `decode` gives of latents [N, h, w, channels], to be differentiated."""
        return self.autoencoder.apply(params, x * self.std + self.mean, "decode")


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """The mean and the standard deviation of each channel of latents, which become 0 and 1.

    Raises:
        ValueError: not as many of both, or a std that is not positive.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self):
        if len(self.mean) != len(self.std) or not all(std > 0 for std in self.std):
            raise ValueError(
                f"config.data.latent_mean is {self.mean}, latent_std {self.std}: give a number for "
                "each channel of the latents, those of latent_std positive"
            )

    def decoder(self, autoencoder: Autoencoder) -> Decoder:
        """The decoder of the normalised latents of an autoencoder.

        Raises:
            ValueError: the latents have more channels, or fewer.
        """
        channels = getattr(autoencoder.network, "latent_channels", len(self.mean))
        if channels != len(self.mean):
            raise ValueError(
                f"config.data.latent_mean has {len(self.mean)} numbers, but the latents of "
                f"{autoencoder.folder} have {channels} channels: give one for each"
            )
        return Decoder(autoencoder, *(np.asarray(v, np.float32) for v in (self.mean, self.std)))


def encode_dataset(
    images: Dataset, autoencoder: Autoencoder, given: Normalisation | None = None
) -> Dataset:
    """The data set of the normalised latents of images, float32 [N, h, w, channels].

    The latents are kept in the autoencoder's folder, for its weights and these images. The result's
    `latents` holds the digest of the weights and the mean and std of the normalisation.

    Args:
        images: the data set of images.
        autoencoder: gives the latents.
        given: the normalisation; None: by the training set.

    Raises:
        ValueError: a channel of the latents is constant, or `given` has other channels.
    """
    weights, splits = autoencoder.digest(), {"train": images.train, "test": images.test}
    kept = parts.Parts(autoencoder.folder, "latents", [weights, *map(identity, splits.values())])

    def compute(values: Any) -> parts.Arrays:
        return {"latents": autoencoder.encode(values)}

    z = {name: kept(name, partial(compute, values))["latents"] for name, values in splits.items()}
    rows = z["train"].reshape(-1, z["train"].shape[-1])
    if given is None and (rows.min(0) == rows.max(0)).any():
        raise ValueError(
            f"channels {np.flatnonzero(rows.min(0) == rows.max(0)).tolist()} of the latents of "
            f"{autoencoder.folder} are constant: train an autoencoder with fewer latent_channels"
        )
    moments = (fn(0, dtype=np.float64) for fn in (rows.mean, rows.std))
    own = (tuple(values.astype(np.float32).tolist()) for values in moments)
    decoder = (given or Normalisation(*own)).decoder(autoencoder)
    normalised = {name: (values - decoder.mean) / decoder.std for name, values in z.items()}
    return dataclasses.replace(images, **normalised, levels=None, latents=decoder.record())


def claim(latents: dict[str, Any] | None, run: Path, autoencoder: Path) -> None:
    """Writes latents.json, which says whose latents a run learns, if it learns latents.

    Raises:
        ValueError: the run began with the latents of another autoencoder, or of other images.
    """
    if latents is None:
        return
    path = run / RECORD
    about = folder.read_record(path) if path.exists() else latents
    if about["autoencoder"] != latents["autoencoder"]:
        raise ValueError(
            f"the model in {run} was trained in other latents than those of the autoencoder now in "
            f"{autoencoder}: choose another --workdir"
        )
    folder.record(path, about, f"{path} has changed: choose another --workdir")


def load_decoder(autoencoder: Autoencoder, run: Path) -> Decoder:
    """The decoder of the run's latents.

    Raises:
        ValueError: the run was trained with another autoencoder, or not at all.
    """
    about = folder.read_record(run / RECORD)
    if about["autoencoder"] != autoencoder.digest():
        raise ValueError(
            f"the model in {run} makes latents of the autoencoder in {autoencoder.folder} at step "
            f"{about['step']}, but that folder now holds another, at step {autoencoder.step}: give "
            "the folder as it was, or train another run with this autoencoder"
        )
    return Decoder(autoencoder, *(np.asarray(about[n], np.float32) for n in ("mean", "std")))
