"""The data as a config describes them: source, shape, scaling and augmentation."""

import dataclasses
import math
from typing import Any

import models
from experiments.build.checks.missing import missing
from experiments.build.fields import sections
from experiments.data import augment
from experiments.data.dataset import DataSpec
from experiments.data.prepare.picture import Transform
from experiments.data.scaling import Scaling
from experiments.data.sources import SOURCES
from models.config import Config
from sde_lib.checks import check_at_least, check_in, check_name

LEVELS = {"uint8": 256, "uint16": 65_536, "float": None}
"""Grey levels by config.data.dtype."""
MOST_FEATURES = 4096  # numbers of a sample that are its features


def scaling(config: Config) -> Scaling:
    """The scaling from the data to model space, without the moments of standardised data."""
    dtype, options = data_dtype(config), (config.data.centered, config.data.uniform_dequantization)
    if config.data.autoencoder:
        return Scaling(None, *options)
    levels = LEVELS[dtype] if dtype else source(config).levels
    return Scaling(levels, *options, standardized=dtype == "float", missing=missing(config))


def source(config: Config) -> Any:
    """The source that config.data.dataset names."""
    check_name("config.data.dataset", config.data.dataset, SOURCES)
    return SOURCES[config.data.dataset]


def data_dtype(config: Config) -> str:
    """The kind of the values of arrays and tables; "" for data sets with values of their own."""
    data, known = config.data, source(config).dtypes
    if not known:
        columns = "label_column", "condition_columns", "attribute_columns", "caption_column"
        for field in ("dtype", *columns):
            if data[field]:
                raise ValueError(
                    f"config.data.{field} is {data[field]!r}, but {data.dataset!r} has values and "
                    "labels of its own: leave it out"
                )
        return ""
    dtype = data.dtype or known[0]
    check_name("config.data.dtype", dtype, known)
    if dtype == "float" and not data.centered:
        raise ValueError(
            "config.data.centered is False, which is for grey levels, and the data are floats, "
            "which are standardised: leave it out"
        )
    return dtype


def data_spec(config: Config) -> DataSpec:
    """The request for the data set."""
    data = config.data
    return DataSpec(
        data.dataset,
        _data_shape(config),
        data.path,
        data.cache,
        data.test_fraction,
        config.model.text == "bytes",
        data.first_frame,
        data.max_unreadable,
        data_dtype(config),
        data.label_column,
        missing(config),
        tuple(data.condition_columns),
        tuple(data.attribute_columns),
        data.caption_column,
        data.conditions,
        data.num_classes,
    )


def data_shape(config: Config) -> tuple[int, ...]:
    """The shape of one sample of the data set."""
    return data_spec(config).shape


def _data_shape(config: Config) -> tuple[int, ...]:
    """The shape of one sample.

    It is the source's own, config.data.shape, or that of square images by config.data.image_size
    and num_channels.

    Raises:
        ValueError: two of these that contradict each other, or an impossible shape.
    """
    data, of = config.data, source(config)
    fixed = of.shape or ((2,) if of.levels is None and not data.shape else ())
    shape = fixed or tuple(data.shape)
    for name in ("image_size", "num_channels"):
        if shape and sections.is_set(config, f"data.{name}"):
            what = f"{data.dataset!r} are {models.data_kind(fixed)}, not images" if fixed else ""
            raise ValueError(
                f"config.data.{name} is {data[name]!r}, but "
                f"{what or f'config.data.shape = {shape} says it too'}: leave {name} out"
            )
    if fixed and tuple(data.shape) not in ((), fixed):
        raise ValueError(
            f"config.data.shape is {tuple(data.shape)}, but a sample of {data.dataset!r} has the "
            f"shape {fixed}: leave it out"
        )
    if not 0 <= len(shape) <= 4 or not all(type(side) is int and side > 0 for side in shape):
        raise ValueError(
            f"config.data.shape is {shape}: it must be one to four integers from 1 on, such as "
            "(D,), (L, C), (H, W, C) or (D, H, W, C)"
        )
    return shape or models.data_shape(config)


def feature_shape(config: Config) -> tuple[int, ...]:
    """The shape of samples for sample quality: floats, and other data than images, are rows."""
    shape = data_shape(config)
    return shape if len(shape) == 3 and data_dtype(config) != "float" else (math.prod(shape),)


def check_features(config: Config) -> None:
    """Raises ValueError for data whose sample quality cannot be measured."""
    shape, options = feature_shape(config), config.eval
    if len(shape) == 3:
        return
    if options.features:
        raise ValueError(
            f"config.eval.features is {options.features!r}, which is for images of grey levels: "
            "leave it out, these data are compared by their numbers"
        )
    if shape[0] > MOST_FEATURES:
        raise ValueError(
            f"sample quality compares these data by their numbers, {shape[0]:,} in a sample, and "
            f"{MOST_FEATURES:,} are the most: set config.eval.enable_sampling=False, "
            "config.training.quality_freq=0, and leave 'quality' out of training.at_end"
        )


def latent_shape(config: Config) -> tuple[int, ...]:
    """The shape of the latents of config's autoencoder."""
    factor = 2 ** (len(config.model.ch_mult) - 1)
    sides = (side // factor for side in data_shape(config)[:-1])
    return *sides, config.autoencoder.latent_channels


def side(shape: tuple[int, ...]) -> int:
    """The side, in pixels, of a square or cubic image of as many pixels."""
    return round(math.prod(shape[:-1]) ** (1 / max(len(shape) - 1, 1)))


def transform(config: Config) -> Transform:
    """The size and kind of images that mode prepare makes."""
    options = config.prepare
    check_at_least(0, **{"config.prepare.processes": options.processes})
    check_in("(0, 1)", **{"config.data.test_fraction": config.data.test_fraction})
    names = [field.name for field in dataclasses.fields(Transform)]
    return Transform(**{name: options[name] for name in names})


def augmentation(config: Config) -> float:
    """The probability of each augmentation."""
    data, model = config.data, config.model
    for name in ("random_flip", "augment"):
        if data[name] and len(data_shape(config)) != 3:
            raise ValueError(
                f"config.data.{name} is {data[name]!r}, which is for images, and the data are "
                f"{models.data_kind(data_shape(config))}: leave it out"
            )
    if not 0 <= data.augment <= 1:
        raise ValueError(
            f"config.data.augment is {data.augment}: it must be a probability, in [0, 1]"
        )
    check_at_least(0, **{"config.model.augment_dim": model.augment_dim})
    if data.augment and model.augment_dim != augment.N_LABELS:
        raise ValueError(
            f"config.model.augment_dim is {model.augment_dim}: config.data.augment has "
            f"{augment.N_LABELS} labels for the network; set it to that, or data.augment to 0"
        )
    if data.augment and data.random_flip:
        raise ValueError(
            "config.data.augment flips images already: set config.data.random_flip=False"
        )
    return data.augment
