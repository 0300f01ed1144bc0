"""Mode generate: a file of samples of a trained model, for a discriminator to learn from."""

import logging
from functools import partial
from typing import Any

import jax
import numpy as np

from experiments.build import data
from experiments.commands.request import Request
from experiments.pipeline import draw
from experiments.pipeline.model import TrainedModel
from experiments.runs import devices, hosts, parts, progress
from experiments.runs.samples import read_about, write_samples
from models.config import Config
from samplers.base import check_noise_share

LOG = logging.getLogger(__name__)
FIRST = 1 << 30  # the first sample's number: no other mode draws so many, so the noise is new


def run(request: Request) -> None:
    """Draws config.sampling.n_samples samples of the model itself.

    generated.npz in the run's folder holds them as "samples" (grey levels, uint8, or points), and
    the settings that made them as "about". Latents are "samples" too, and "images" when decoded.
    Classes are "class_labels". With config.sampling.pairs, the noise that each sample was drawn
    from is "noise" (config.source.name="reflow"). A set of the same settings is not drawn again;
    one that was cut off continues.

    Raises:
        ValueError: no checkpoint; or guidance, as a discriminator learns from the model's own
            samples; or pairs by a stochastic sampler, or of a model that does not start from noise.
        FloatingPointError: a sample is not finite.
    """
    config, model, n = request.config, request.model(), request.config.sampling.n_samples
    if found := [*filter(None, [model.auto]), *model.guides]:
        name = type(found[0]).__name__
        raise ValueError(
            f"config.guidance sets {name}, but --mode=generate draws samples without guidance: "
            "leave it out"
        )
    about = _settings(config, model, n)
    classes = {"classes": True} if model.conditions.has_classes else {}
    path = request.folder / "generated.npz"
    if hosts.agree(path.exists() and read_about(path) == about | classes):
        LOG.info("%s exists already, of the same model and settings", path)
    else:
        settings = about | {"sampling": {"digest": model.identity()}}
        part = parts.Parts(request.folder / "generated", "samples", settings)
        size = draw.batch_size(model, n)
        batch = draw.ahead(draw.make_draw(model, size), size, FIRST + n)
        shape = (devices.round_up(model.mesh, size), *model.shape)
        noise = jax.jit(partial(model.sde.prior_sample, model.key, shape))

        def samples(first: int) -> parts.Arrays:
            x = devices.fetch(batch(FIRST + first).x)
            draw.check_finite(x)
            made = {"samples": model.scaling.to_grey(x)}
            if config.sampling.pairs:
                made["noise"] = devices.fetch(noise(FIRST + first))
            return made

        batches = [
            part(f"{first}_{size}", partial(samples, first))
            for first in progress.track(range(0, n, size), "samples")
        ]
        noises = {
            name: np.concatenate([batch[name] for batch in batches])[:n] for name in batches[0]
        }
        rows = noises.pop("samples")
        arrays = {"images": model.to_images(rows)} if model.decoder else {}
        if classes:
            conditions = model.sample_conditions(FIRST + np.arange(n))
            arrays["class_labels"] = conditions["class_labels"]
        write_samples(path, about | classes, samples=rows, **arrays, **noises)
    print(f"{path}: {n} samples of step {model.step}")


def _settings(config: Config, model: TrainedModel, n: int) -> dict[str, Any]:
    """The settings that make the set."""
    about: dict[str, Any] = data.sample_identity(config) | {
        "model": parts.digest(model.params),
        "step": model.step,
        "seed": model.seed,
        "sampling": {"digest": model.identity(), "n_samples": n},
    }
    if config.sampling.pairs:
        check_pairs(model)
        about["pairs"] = True
    return about


def check_pairs(model: TrainedModel) -> None:
    """Raises ValueError unless each sample of the model is a function of its noise."""
    what = "config.sampling.pairs"
    check_noise_share(model.sampler, 0.0, what)
    model.check_flow_from_noise(what)
    if model.codec or not model.sde.is_scalar:
        raise ValueError(
            f"{what} is True, but the noise of this model is not of the shape of its samples: "
            "leave it out"
        )
