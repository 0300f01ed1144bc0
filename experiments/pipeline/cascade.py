"""Cascades: models that make smaller images larger (Ho et al. 2021, arXiv 2106.15282).

A super-resolution model sees, beside x, the image in fewer pixels: the means over blocks of x.
Gaussian noise is added to these, and its standard deviation is a condition too, so that the model
tolerates the errors of a smaller model. Then each pixel is repeated to the size of x.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from experiments.data.scaling import DEQUANTIZE
from models.resample import Image
from sde_lib.batch import block_means, expand, fold_in, normal, sample_keys
from sde_lib.checks import check_positive

NOISE = DEQUANTIZE + 1  # folded into a sample's key: no other draw has this number
LEVEL = NOISE + 1


@dataclasses.dataclass(frozen=True)
class SuperResolution:
    """The low-resolution condition of a super-resolution model.

    Attributes:
        size: pixels a side of the smaller images.
        side: pixels a side of the images.
        max_noise: the largest standard deviation of the noise in training.
        noise: its standard deviation in sampling and evaluation.

    Raises:
        ValueError: a size that does not divide side, or a noise outside [0, max_noise].
    """

    size: int
    side: int
    max_noise: float = 0.0
    noise: float = 0.0

    def __post_init__(self):
        if not 0 < self.size < self.side or self.side % self.size:
            raise ValueError(
                f"config.model.low_res_size is {self.size}: it must be a divisor of "
                f"config.data.image_size = {self.side}, and smaller"
            )
        check_positive(or_zero=True, **{"config.model.low_res_noise": self.max_noise})
        if not 0 <= self.noise <= self.max_noise:
            raise ValueError(
                f"config.sampling.low_res_noise is {self.noise}: it must be in [0, "
                f"{self.max_noise}], the noise of training, config.model.low_res_noise"
            )

    def __str__(self) -> str:
        return f"{self.size} x {self.size} means with noise {self.noise:g}"

    def training_conditions(
        self, key: PRNGKeyArray, x: Image, first_index: int | Array
    ) -> dict[str, Any]:
        """The conditions of images x in model space, each with noise of a random level."""
        keys = sample_keys(key, len(x), first_index)
        level = self.max_noise * jax.vmap(jax.random.uniform)(fold_in(keys, LEVEL))
        return self._with_noise(keys, smaller(x, self.size), level)

    def conditions(self, key: PRNGKeyArray, x: Image, first_index: int | Array) -> dict[str, Any]:
        """The conditions of images x in model space, with the noise of sampling."""
        return self.of_smaller(key, smaller(x, self.size), first_index)

    def of_smaller(
        self, key: PRNGKeyArray, low_res: Image, first_index: int | Array
    ) -> dict[str, Any]:
        """The conditions made of smaller images. Sample i's noise depends on key and i alone."""
        keys = sample_keys(key, len(low_res), first_index)
        return self._with_noise(keys, low_res, jnp.full(len(low_res), self.noise))

    def _with_noise(self, keys: Array, low_res: Image, level: Array) -> dict[str, Any]:
        low_res += expand(level, low_res) * normal(fold_in(keys, NOISE), low_res.shape)
        return {"low_res": larger(low_res, self.side), "low_res_noise": level}


def smaller(x: Image, size: int) -> Image:
    """The means over the blocks of x that leave `size` pixels a side."""
    return block_means(x, x.shape[1] // size)


def larger(x: Any, size: int) -> Any:
    """The image with each pixel repeated, `size` a side."""
    return x.repeat(size // x.shape[1], axis=1).repeat(size // x.shape[2], axis=2)
