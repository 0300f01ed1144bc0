"""The scaling between grey levels and model space, the values that networks see."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from sde_lib.batch import fold_in, sample_keys

DEQUANTIZE = 1 << 20  # folded into a sample's key: no draw of a loss has this number


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Grey levels 0, ..., levels - 1 and an interval of model space.

    Attributes:
        levels: grey levels of the data; None for floats (points, latents), which stay as they are.
        centered: model space is [-1, 1]; otherwise [0, 1].
        dequantize: training adds uniform noise to the grey levels.
    """

    levels: int | None
    centered: bool = True
    dequantize: bool = True

    @property
    def range(self) -> tuple[float, float]:
        """The interval of model space that images fill."""
        return (-1.0, 1.0) if self.centered else (0.0, 1.0)

    def to_model(
        self, key: PRNGKeyArray, batch: Array, dequantize: bool | None = None
    ) -> Float[Array, "batch *shape"]:
        """Grey levels [B, ...] in model space; floats stay as they are.

        Args:
            key: randomness of the dequantisation.
            batch: grey levels, or floats.
            dequantize: add a uniform draw to each grey level first, so that the density of the
                result gives the probability of the grey levels (sde_lib.bits_per_dim with `range`).
                None: as in training.
        """
        if self.levels is None:
            return batch
        grey = batch.astype(jnp.float32)
        if self.dequantize if dequantize is None else dequantize:
            unit = (grey + jax.random.uniform(key, batch.shape)) / self.levels
        else:
            unit = grey / (self.levels - 1)
        low, high = self.range
        return low + (high - low) * unit

    def to_model_each(
        self,
        key: PRNGKeyArray,
        batch: Array,
        first_index: int | Array,
        dequantize: bool | None = None,
    ) -> Float[Array, "batch *shape"]:
        """The same as to_model with a key for each sample: independent of the batch."""
        keys = fold_in(sample_keys(key, batch.shape[0], first_index), DEQUANTIZE)
        return jax.vmap(lambda key, x: self.to_model(key, x, dequantize))(keys, batch)

    def to_grey(self, x: np.ndarray) -> np.ndarray:
        """The nearest grey levels, uint8: the inverse of to_model. Floats stay as they are."""
        if self.levels is None:
            return x
        unit = self._unit(x)
        grey = np.floor(unit * self.levels)
        if not self.dequantize:
            grey = np.round(unit * (self.levels - 1))
        return np.clip(grey, 0, self.levels - 1).astype(np.uint8)

    def to_uint8(self, x: np.ndarray) -> UInt8[np.ndarray, "..."]:
        """Images in model space as 0, ..., 255, rounded."""
        return np.round(np.clip(self._unit(x), 0, 1) * 255).astype(np.uint8)

    def _unit(self, x: np.ndarray) -> np.ndarray:
        low, high = self.range
        return (x - low) / (high - low)
