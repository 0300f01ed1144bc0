"""Mode generate: samples of a trained model in a file, with whose they are."""

import json
import logging
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from experiments import build
from experiments.data import data, latent
from experiments.pipeline import guides, sample
from experiments.runs import hosts, parts, sharding
from experiments.training import state
from models.config import Config

LOG = logging.getLogger(__name__)
FIRST = 1 << 30  # the first sample's number: no other mode draws so many, its noise is new


def run(config: Config, workdir: Path) -> None:
    """Draws config.sampling.n_samples samples of the model itself, for a discriminator.

    <workdir>/generated.npz has them in "samples": grey levels, uint8, or points. Its "about" tells
    what decides on them. Latents are in "samples" as a discriminator of latents takes them, and
    decoded in "images". A set that is there is not drawn again, nor are its batches.

    Raises:
        ValueError: no checkpoint, or guides: a discriminator corrects what the model does alone.
        FloatingPointError: a sample is not finite.
    """
    guides.refuse(config, "generate")
    model, params, step = state.load(config, workdir)
    levels, n = data.load(config).levels, config.sampling.n_samples
    about = identity(config, levels) | {
        "model": parts.digest(params),
        "step": step,
        "seed": config.seed,
        "sampling": sample.settings(config) | {"n_samples": n},
    }
    path = workdir / "generated.npz"
    if hosts.agree(path.exists() and read_about(path) == about):
        LOG.info("%s is there already, of the same model and settings", path)
    else:
        settings = about | {"sampling": about["sampling"] | {"n_samples": None}}
        part = parts.Parts(workdir / "generated", "samples", settings)
        size = sharding.round_up(sharding.make_mesh(config), config.sampling.batch_size)
        draw = sample.make_draw(config, model, params, size, workdir=workdir)

        def samples(first: int) -> parts.Arrays:
            x = sharding.fetch(draw(FIRST + first).x)
            sample.check_finite(x)
            return {"samples": data.to_grey(config, levels, x)}

        batches = [
            part(f"{first}_{size}", partial(samples, first))["samples"]
            for first in tqdm(range(0, n, size), unit="batch", desc="samples", disable=None)
        ]
        rows = np.concatenate(batches)[:n]
        arrays = {"samples": rows, "about": np.asarray(json.dumps(about))}
        if config.data.autoencoder:
            arrays["images"] = data.to_uint8(config, latent.make_decode(config, workdir)(rows))
        parts.save(path, **arrays)
    print(f"{path}: {n} samples of step {step}")


def identity(config: Config, levels: int | None) -> dict[str, Any]:
    """What samples share with the data and the noise that they are to be told from."""
    return {
        "sde": str(build.make_sde(config)),
        "shape": list(build.image_shape(config)),
        "levels": levels,
        "range": list(data.data_range(config)),
        "uniform_dequantization": config.data.uniform_dequantization,
    }


def read_about(path: Path) -> dict[str, Any]:
    """What is known of a set of samples.

    Raises:
        ValueError: there is no such file, or not of this mode.
    """
    if zipfile.is_zipfile(path):
        with np.load(path) as file:
            if {"samples", "about"} <= set(file.files):
                return json.loads(str(file["about"]))
    raise ValueError(
        f"{path} is no file of samples: make one of a trained model by --mode=generate"
    )
