"""Images that are made of a sample, for the network to see beside x: OPERATORS by name.

A network that sees the grey image learns to colour it, one that sees fewer pixels to enlarge it,
one that sees a part to complete it. A new operator is a class here with the protocol `Operator`,
and a line in OPERATORS.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from models.config import Config, data_kind, data_shape, describe
from models.layers import nearest_sides
from models.resample import Image
from sde_lib.batch import block_means
from sde_lib.checks import check_at_least, check_name

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601, as Pillow has it
BOX = (0.25, 0.75)  # least and largest side of an unknown box, in sides of the image


class Operator(Protocol):
    """A map from samples [B, *sides, C] to images of the same sides.

    It is made of two halves: `measure` gives what a user would have, and `spread` brings that to
    the sides of the sample.
    """

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of what is measured of a sample. Raises ValueError for impossible samples."""
        ...

    def measure(self, x: Image, keys: Array) -> Image:
        """The measurement of samples; unknown places are NaN. `keys` [B] are of its randomness."""
        ...

    def spread(self, measured: Any) -> Any:
        """The measurement on the sides of the samples; of jax's or numpy's arrays."""
        ...


@dataclasses.dataclass(frozen=True)
class Grey:
    """The grey image of one with colours: the model learns to colour it."""

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(shape) < 2 or shape[-1] == 1:
            raise ValueError(
                "config.image_condition.name is 'grey', but the data have no colours "
                f"(a sample has the shape {shape}): take another, or data with colours"
            )
        return *shape[:-1], 1

    def measure(self, x: Image, keys: Array) -> Image:
        channels = x.shape[-1]
        weights = LUMA if channels == 3 else (1 / channels,) * channels
        return jnp.sum(x * jnp.asarray(weights), axis=-1, keepdims=True)

    def spread(self, measured: Any) -> Any:
        return measured


@dataclasses.dataclass(frozen=True)
class LowRes:
    """The means over blocks: the model learns to enlarge them.

    Attributes:
        factor: length of every side of a block.

    Raises:
        ValueError: a factor below 2.
    """

    factor: int = 2

    def __post_init__(self):
        check_at_least(2, **{"config.image_condition.factor": self.factor})

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        _check_sides("low_res", shape)
        if any(side % self.factor for side in shape[:-1]):
            raise ValueError(
                f"config.image_condition.factor is {self.factor}, which does not divide the sides "
                f"of {describe(shape)}: take a divisor of each, or sides of "
                f"{nearest_sides(shape, self.factor)}"
            )
        return *(side // self.factor for side in shape[:-1]), shape[-1]

    def measure(self, x: Image, keys: Array) -> Image:
        return block_means(x, self.factor)

    def spread(self, measured: Any) -> Any:
        for axis in range(1, measured.ndim - 1):
            measured = measured.repeat(self.factor, axis)
        return measured


@dataclasses.dataclass(frozen=True)
class Masked:
    """A part of the sample: the model learns to complete it.

    Attributes:
        mask: "boxes": all but a box, a random one for each sample, is known. "left": the first half
            of the last side is known, which is the past of a series.

    Raises:
        ValueError: another mask.
    """

    mask: str = "boxes"

    def __post_init__(self):
        check_name("config.image_condition.mask", self.mask, ("boxes", "left"))

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        _check_sides("masked", shape)
        return shape

    def measure(self, x: Image, keys: Array) -> Image:
        sides = x.shape[1:-1]
        if self.mask == "left":
            unknown = jnp.broadcast_to(jnp.arange(sides[-1]) >= sides[-1] // 2, (len(x), *sides))
        else:
            unknown = jax.vmap(lambda key: _box(key, sides))(keys)
        return jnp.where(unknown[..., None], jnp.nan, x)

    def spread(self, measured: Any) -> Any:
        return measured


def _check_sides(name: str, shape: tuple[int, ...]) -> None:
    if len(shape) < 2:
        raise ValueError(
            f"config.image_condition.name is {name!r}, but the data are {data_kind(shape)} of the "
            f"shape {shape}, without sides: take data with sides"
        )


def _box(key: Array, sides: Sequence[int]) -> Bool[Array, "*sides"]:
    """True in a random box."""
    inside = jnp.ones(tuple(sides), bool)
    for axis, side in enumerate(sides):
        length, place = jax.random.uniform(jax.random.fold_in(key, axis), (2,))
        length = side * (BOX[0] + (BOX[1] - BOX[0]) * length)
        first = (side - length) * place
        middles = jnp.arange(side) + 0.5
        along = (middles >= first) & (middles < first + length)
        inside &= along.reshape(-1, *(1,) * (len(sides) - axis - 1))
    return inside


OPERATORS: dict[str, Any] = {"grey": Grey, "low_res": LowRes, "masked": Masked}
"""Operators by their names in config.image_condition.name."""


def operator(config: Config) -> Operator | None:
    """The operator of config.image_condition; None for none, and for images of the data.

    Raises:
        ValueError: an unknown name, or an impossible option.
    """
    section = config.get("image_condition")
    name = section.name if section else ""
    check_name("config.image_condition.name", name, ("", "data", *OPERATORS))
    if name not in OPERATORS:
        return None
    fields = (field.name for field in dataclasses.fields(OPERATORS[name]))
    options = {field: section[field] for field in fields if section.get(field) is not None}
    return OPERATORS[name](**options)


def image_channels(config: Config) -> int:
    """Channels of the images that a network sees beside x; 0 for none.

    Raises:
        ValueError: the operator does not go with the data.
    """
    made, section = operator(config), config.get("image_condition")
    if not section or not section.name:
        return 0
    shape = data_shape(config)
    if made:
        return made.shape(shape)[-1]
    channels = shape[-1] if section.channels is None else section.channels
    check_at_least(1, **{"config.image_condition.channels": channels})
    return channels
