"""Conditioning on images beside x: those of the data, or those that an operator makes of x."""

import dataclasses
from functools import cached_property
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import scaling as scalings
from experiments.data.dataset import Dataset, Split
from experiments.data.scaling import Scaling
from experiments.pipeline.conditions.base import Arrays, Load, in_turn
from experiments.training.objective import RAW_IMAGES
from models.operators import Masked, Operator

FIELD = "config.image_condition"


@dataclasses.dataclass(frozen=True, eq=False)
class Image:
    """An image, series or volume of the sides of the sample, in the data's own units.

    Without `drawn`, samples are drawn for the images of the test data, in turn.

    Attributes:
        shape: of the images that the network sees, (*sides, channels).
        scaling: from the units of the images to model space. That of images of the data is known
            from the training set.
        operator: makes the image of a sample; None: the images come with the data.
        source: the shape of the images that users give.
        centered: grey levels fill [-1, 1] in model space; otherwise [0, 1].
        seed: of what is random in images that are made of test data.
        drawn: the images to draw samples for, in turn; None: the test data's.
    """

    shape: tuple[int, ...]
    scaling: Scaling | None
    operator: Operator | None
    source: tuple[int, ...]
    centered: bool = True
    seed: int = 0
    drawn: np.ndarray | None = None
    droppable: ClassVar[bool] = True
    kind: ClassVar[str] = "image"
    keywords: ClassVar[tuple[str, ...]] = ("images",)

    def from_data(self, dataset: Dataset, split: Split) -> Arrays:
        return {} if self.operator else {RAW_IMAGES: self._of(dataset, split)}

    def for_samples(self, indices: np.ndarray, dataset: Load) -> Arrays:
        if self.drawn is not None:
            return self.given(in_turn(self._rows(self.drawn), indices))
        if self.operator is None:
            return self.given(in_turn(self._of(dataset(), "test"), indices))
        return {"images": self._make(jnp.asarray(in_turn(dataset().test, indices)), indices)}

    @cached_property
    def _make(self) -> Any:
        """The images that are made of samples, given their indices; compiled."""

        @jax.jit
        def make(rows: Any, indices: Any) -> jax.Array:
            keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(self.seed), indices)
            x = self._known_scaling.to_model(keys[0], rows, dequantize=False)
            return self._measured(x, keys)

        return make

    def _measured(self, x: jax.Array, keys: jax.Array) -> jax.Array:
        assert self.operator
        x = self._known_scaling.without_noise(x)
        return self.operator.spread(self.operator.measure(x, keys))

    def null(self, n: int) -> Arrays:
        return {"images": np.full((n, *self.shape), np.nan, np.float32)}

    def negative(self, n: int) -> Arrays:
        return {}

    @property
    def is_asked(self) -> bool:
        return self.drawn is not None

    def given(self, values: Any) -> Arrays:
        rows = self._rows(values)
        levels = self._known_scaling.levels
        if self.operator and levels:
            x = self._known_scaling.centres(rows)
        else:
            x = self._known_scaling.to_model(jax.random.key(0), jnp.asarray(rows), dequantize=False)
        x = np.asarray(x, np.float32)
        return {"images": self.operator.spread(x) if self.operator else x}

    def _rows(self, values: Any) -> np.ndarray:
        """Images of users as float32 [N, *source]; a single one is brought there."""
        rows = np.asarray(values)
        rows = rows[None] if rows.shape == self.source else rows
        if rows.dtype.kind not in "fiub" or rows.shape[1:] != self.source or not len(rows):
            raise ValueError(
                f"the condition 'image' is {rows.dtype} of the shape {rows.shape}: it must be "
                f"numbers of the shape (N, {', '.join(map(str, self.source))})"
            )
        rows = rows.astype(np.float32)
        holes, levels = np.isnan(rows), self._known_scaling.levels
        if np.isinf(rows).any() or (holes.any() and not isinstance(self.operator, Masked)):
            raise ValueError(
                "the condition 'image' has numbers that are not finite: fill them in (NaN stands "
                f"for unknown places with {FIELD}.name='masked' alone)"
            )
        known = rows[~holes]
        if levels and known.size and not (known.min() >= 0 and known.max() <= levels - 1):
            raise ValueError(
                f"the condition 'image' has values from {known.min():g} to {known.max():g}: they "
                f"must be grey levels, 0 to {levels - 1}, as the data's"
            )
        return rows

    @property
    def _known_scaling(self) -> Scaling:
        if self.scaling is None:
            raise ValueError(
                "the values of the condition images are not known: training records them in the "
                "run's folder"
            )
        return self.scaling

    def asked(self, values: Any) -> Self:
        return dataclasses.replace(self, drawn=np.asarray(values))

    def complete(self, values: Arrays, keys: jax.Array, x: jax.Array) -> Arrays:
        if "images" in values:
            return values
        if self.operator:
            return values | {"images": self._measured(x, keys)}
        others = {name: value for name, value in values.items() if name != RAW_IMAGES}
        raw = values[RAW_IMAGES].astype(jnp.float32)
        return others | {"images": self._known_scaling.to_model(keys[0], raw, dequantize=False)}

    def record(self, dataset: Dataset) -> dict[str, Any]:
        """The kind of values of the images that come with the data, and their moments."""
        if self.operator:
            return {}
        train, _ = (self._of(dataset, split) for split in ("train", "test"))
        levels = {"uint8": 256, "uint16": 65_536}.get(train.dtype.name)
        what = "images of the training data's conditions"
        return {"levels": levels} | ({} if levels else scalings.measured(train, what))

    def with_record(self, about: dict[str, Any]) -> Self:
        if self.operator:
            return self
        standardized = about["levels"] is None
        made = Scaling(about["levels"], self.centered, False, standardized)
        return dataclasses.replace(self, scaling=made.with_moments(about) if standardized else made)

    def with_scaling(self, scaling: Scaling) -> Self:
        """The condition of data with this scaling, which is that of images made of them too."""
        return dataclasses.replace(self, scaling=scaling) if self.operator else self

    def _of(self, dataset: Dataset, split: Split) -> Any:
        rows = dataset.conditions(split).get(self.kind)
        if rows is None:
            raise ValueError(
                f"{FIELD}.name is 'data', but the data have no images beside the samples: take "
                "data with some (docs/howto/conditions.md), or make them by 'low_res', 'grey' or "
                "'masked'"
            )
        if rows.shape[1:] != self.shape:
            raise ValueError(
                f"the condition images of the {split} data have the shape {rows.shape[1:]}, and "
                f"must have {self.shape}, the sides of the data and {FIELD}.channels: resize them, "
                "or set the channels"
            )
        if rows.dtype.name not in ("uint8", "uint16") and rows.dtype.kind != "f":
            raise ValueError(
                f"the condition images of the {split} data are {rows.dtype}: they must be uint8, "
                "uint16 or floats"
            )
        return rows
