"""Diffusion in the latents of an autoencoder (Rombach et al. 2022): they are data like others.

Each image's latent is the mean that the encoder of config.data.autoencoder gives. Each channel has
its own mean taken off, and is divided by its own deviation: noise is alike in all of them, and so
none is lost in it before the others, and sigma_data = 1 is true of each.
"""

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from experiments import build
from experiments.data import model_space
from experiments.data.dataset import Dataset, identity
from experiments.runs import parts, sharding
from experiments.runs import workdir as workdirs
from experiments.training import state
from models.config import Config

RECORD = "latents.json"


def load(config: Config, images: Dataset) -> Dataset:
    """The latents of images, float32 [N, h, w, channels], with what else is known of these.

    They are kept in the autoencoder's folder, for its weights and these images. dataset.latents
    says which these weights are, and what the latents were normalised by.

    Raises:
        ValueError: no autoencoder, one of other data, or one with a channel that is constant.
    """
    theirs, folder = build.autoencoder_config(config), Path(config.data.autoencoder)
    model, params, step = state.load(theirs, folder)
    mesh, levels, weights = sharding.make_mesh(config), images.levels, parts.digest(params)

    @jax.jit
    def encode(params, batch, first_index):
        key = jax.random.key(0)  # nothing is drawn
        x = model_space.to_model_space(theirs, levels, key, batch, dequantize=False)
        return {"latents": apply(model, sharding.gather(mesh, params), x, "encode")[0]}

    def of(values: Any) -> parts.Arrays:
        return parts.over(mesh, values, config.eval.batch_size, partial(encode, params))

    both = {"train": images.train, "test": images.test}
    kept = parts.Parts(folder, "latents", [weights, *map(identity, both.values())])
    z = {name: kept(name, partial(of, values))["latents"] for name, values in both.items()}
    rows = z["train"].reshape(-1, z["train"].shape[-1])
    if (rows.min(0) == rows.max(0)).any():
        raise ValueError(
            f"channels {np.flatnonzero(rows.min(0) == rows.max(0)).tolist()} of the latents of "
            f"{folder} are constant: train an autoencoder with fewer latent_channels"
        )
    of_rows = (fn(0, dtype=np.float64) for fn in (rows.mean, rows.std))
    mean, std = (values.astype(np.float32) for values in of_rows)
    about = {"autoencoder": weights, "step": step, "mean": mean.tolist(), "std": std.tolist()}
    normalised = {name: (values - mean) / std for name, values in z.items()}
    return dataclasses.replace(images, **normalised, levels=None, latents=about)


def claim(config: Config, dataset: Dataset, workdir: Path) -> None:
    """Writes latents.json: whose latents a run learns.

    Raises:
        ValueError: the folder's run began with another autoencoder's, or other images'.
    """
    if dataset.latents is None:
        return
    path = workdir / RECORD
    about = workdirs.read_record(path) if path.exists() else dataset.latents
    if about["autoencoder"] != dataset.latents["autoencoder"]:
        raise ValueError(
            f"the model in {workdir} was trained in other latents than those of the autoencoder "
            f"now in {config.data.autoencoder}: choose another --workdir"
        )
    workdirs.write_text(path, json.dumps(about, indent=2) + "\n")


def make_decode(config: Config, workdir: Path) -> Callable[[np.ndarray], np.ndarray]:
    """decode(x): of latents as a run samples them, [..., h, w, channels], images in model space.

    Without config.data.autoencoder, x as it is.

    Raises:
        ValueError: no autoencoder, or not the one that the run in workdir was trained with.
    """
    if not config.data.autoencoder:
        return lambda x: x
    theirs, folder = build.autoencoder_config(config), Path(config.data.autoencoder)
    model, params, step = state.load(theirs, folder)
    about = workdirs.read_record(workdir / RECORD)
    if about["autoencoder"] != parts.digest(params):
        raise ValueError(
            f"the model in {workdir} makes latents of the autoencoder in {folder} at step "
            f"{about['step']}, which now is another, at step {step}: train the model anew"
        )
    mesh = sharding.make_mesh(config)
    mean, std = (np.asarray(about[name], np.float32) for name in ("mean", "std"))

    @jax.jit
    def of(params, z, first_index):
        z = z * std + mean
        return {"images": apply(model, sharding.gather(mesh, params), z, "decode")}

    def decode(x: np.ndarray) -> np.ndarray:
        rows = np.asarray(x).reshape(-1, *x.shape[-3:])
        images = parts.over(mesh, rows, config.sampling.batch_size, partial(of, params))["images"]
        return images.reshape(*x.shape[:-3], *images.shape[1:])

    return decode


def apply(model: nn.Module, params: Any, values: jax.Array, method: str) -> Any:
    return model.apply({"params": params}, values, method=method)
