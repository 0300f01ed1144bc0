"""Cascades: models that make the images of smaller ones larger (Ho et al. 2021, arXiv 2106.15282).

A super-resolution model is told, beside x, its image in config.model.low_res_size pixels a side:
means over blocks of x. They are given Gaussian noise, whose standard deviation the model is told
too, so that it forgives a smaller model's flaws; then each pixel is repeated to the size of x.
"""

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

import models
from experiments import build
from experiments.data import model_space
from experiments.pipeline.conditions import Conditions
from experiments.runs import parts
from experiments.runs import workdir as workdirs
from experiments.training import state
from models.config import Config
from models.resample import Image
from sde_lib.batch import expand, fold_in, normal, sample_keys
from sde_lib.checks import check_positive

NOISE = model_space.DEQUANTIZE + 1  # folded into a sample's key: no other draw has this number
LEVEL = NOISE + 1


def told_of(
    config: Config,
    key: PRNGKeyArray,
    x: Image,
    first_index: int | Array,
    noise: float | None = None,
) -> Conditions:
    """What a super-resolution model is told of images x in model space; {} for other models.

    Sample i's noise depends on key and i alone.

    Args:
        noise: its standard deviation; None: drawn for each image, up to config.model.low_res_noise.
    """
    size = config.model.low_res_size
    return told_smaller(config, key, smaller(x, size), first_index, noise) if size else {}


def told_smaller(
    config: Config,
    key: PRNGKeyArray,
    low_res: Image,
    first_index: int | Array,
    noise: float | None = None,
) -> Conditions:
    """told_of the images whose smaller ones these are."""
    keys = sample_keys(key, len(low_res), first_index)
    if noise is None:
        level = config.model.low_res_noise * jax.vmap(jax.random.uniform)(fold_in(keys, LEVEL))
    else:
        level = jnp.full(len(low_res), noise)
    low_res += expand(level, low_res) * normal(fold_in(keys, NOISE), low_res.shape)
    return {"low_res": larger(low_res, config.data.image_size), "low_res_noise": level}


def smaller(x: Image, size: int) -> Image:
    """Means over the blocks of x that make `size` pixels a side of it."""
    n, height, width, channels = x.shape
    blocks = x.reshape(n, size, height // size, size, width // size, channels)
    return blocks.mean(axis=(2, 4))


def larger(x: Image, size: int) -> Image:
    """Each pixel repeated, to `size` a side: it holds what x does, and no more."""
    return x.repeat(size // x.shape[1], axis=1).repeat(size // x.shape[2], axis=2)


def given(config: Config) -> str:
    """What a likelihood is conditional on; "" for a model that makes no images larger."""
    size, noise = config.model.low_res_size, config.sampling.low_res_noise
    return f"{size} x {size} means with noise {noise:g}" if size else ""


def check(config: Config) -> None:
    """Raises ValueError for what no super-resolution model can do, before anything is loaded."""
    model, options, side = config.model, config.sampling, config.data.image_size
    size, most, noise = model.low_res_size, model.low_res_noise, options.low_res_noise
    if not size:
        of = {"model.low_res_noise": most, "sampling.low_res_noise": noise}
        for name, value in (of | {"sampling.low_res": options.low_res}).items():
            if value:
                raise ValueError(
                    f"config.{name} is {value!r}, but the model makes no images larger: train one "
                    "with config.model.low_res_size, or leave it out"
                )
        return
    if not 0 < size < side or side % size:
        raise ValueError(
            f"config.model.low_res_size is {size}: it must be a divisor of config.data.image_size "
            f"= {side}, and smaller"
        )
    if config.data.autoencoder:
        raise ValueError(
            f"config.model.low_res_size is {size}: it is for images, not for the latents of "
            "config.data.autoencoder; leave one of them out"
        )
    check_positive(or_zero=True, **{"config.model.low_res_noise": most})
    if not 0 <= noise <= most:
        raise ValueError(
            f"config.sampling.low_res_noise is {noise}: it must be in [0, {most}], the noise of "
            "training, config.model.low_res_noise"
        )
    if options.low_res:
        base_config(config)
        return
    for name, plain in (("label", -1), ("prompt", ""), ("embeddings", "")):
        if options[name] != plain:
            raise ValueError(
                f"config.sampling.{name} is {options[name]!r}, but test images are made larger, "
                "which are of classes and texts already: give config.sampling.low_res, the folder "
                "of a run, or leave it out"
            )


def base_config(config: Config) -> Config:
    """The config of the run in config.sampling.low_res, whose samples are made larger.

    It has its own SDE, sampler and guidance; what the samples are of, a class or a prompt, is said
    once for both.

    Raises:
        ValueError: there is no run, or one of a classifier, of other images, or of a model that is
            not told what this one is.
    """
    folder = Path(config.sampling.low_res)
    theirs = workdirs.load_config(folder)
    if models.is_classifier(theirs) or models.is_autoencoder(theirs):
        raise ValueError(
            f"config.sampling.low_res, {folder}, holds the model {theirs.model.name!r}, which has "
            "no samples: give the folder of a score model"
        )
    size, options = config.model.low_res_size, config.sampling
    needed = {
        "shape of images": ((size, size, config.data.num_channels), build.image_shape(theirs)),
        "range of data": (model_space.data_range(config), model_space.data_range(theirs)),
    }
    if config.model.class_conditional:
        needed["number of classes"] = config.data.num_classes, theirs.data.num_classes
    for field, names in (("class_conditional", ("label",)), ("text", ("prompt", "embeddings"))):
        if config.model[field]:
            needed[f"config.model.{field}"] = config.model[field], theirs.model[field]
            theirs.sampling.update({name: options[name] for name in names})
    for what, (ours, other) in needed.items():
        if ours != other:
            raise ValueError(
                f"the {what} of config.sampling.low_res, {folder}, is {other!r}, and here must be "
                f"{ours!r}: give another run, or train one like that"
            )
    check(theirs)
    theirs.mesh = config.mesh
    return theirs


def load_base(config: Config) -> tuple[Config, nn.Module, Any]:
    """That config, with the run's network and averaged parameters."""
    theirs = base_config(config)
    model, params, _ = state.load(theirs, Path(config.sampling.low_res))
    return theirs, model, params


def identity(config: Config) -> str:
    """What changes with the samples that config.sampling.low_res gives; "" without that."""
    if not config.sampling.low_res:
        return ""
    theirs, _, params = load_base(config)
    return parts.digest([theirs.to_dict(), params, identity(theirs)])
