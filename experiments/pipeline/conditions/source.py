"""The source: samples from which the paths of a model start, in place of normal noise."""

import dataclasses
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.dataset import Dataset, Split
from experiments.data.scaling import Scaling
from experiments.pipeline.conditions.base import Arrays, Load, in_turn
from sde_lib.batch import fold_in

SOURCE = "source"
"""The keyword of source samples in model space, which the network does not see."""
RAW_SOURCE = "raw_source"
Origin = Literal["samples", "pairs", "image", "reflow"]
DRAW = 7  # folded into a sample's key for the row of its source


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """Source samples in the data's own units and shape; floats may lie between grey levels.

    Without `drawn`, samples start from the test samples of the source, in turn.

    Attributes:
        shape: of one sample.
        scaling: from the data's units to model space.
        origin: "samples": a data set of its own, of which each training sample gets a random row.
            All samples share its rows (`shared`).
            "pairs": rows beside the data. "image": the images of config.image_condition, which the
            network sees too. "reflow": the noise, in model space, that each sample of another model
            was drawn from (Liu et al. 2023, arXiv 2209.03003); it is known in training alone, and
            samples start from the prior.
        load: loads the data set of "samples".
        drawn: the samples to start from, in turn; None: the test samples.
    """

    shape: tuple[int, ...]
    scaling: Scaling
    origin: Origin = "pairs"
    load: Load | None = None
    drawn: np.ndarray | None = None
    droppable: ClassVar[bool] = False
    kind: ClassVar[str] = "source"
    keywords: ClassVar[tuple[str, ...]] = (SOURCE,)

    def from_data(self, dataset: Dataset, split: Split) -> Arrays:
        stored = self.origin in ("pairs", "reflow")
        return {RAW_SOURCE: self._of(dataset, split)} if stored else {}

    def for_samples(self, indices: np.ndarray, dataset: Load) -> Arrays:
        rows = self.drawn
        if rows is None and self.origin in ("image", "reflow"):
            return {}
        if rows is None:
            rows = self.load().test if self.load else self._of(dataset(), "test")
        return {SOURCE: self._scaled(in_turn(rows, indices))}

    def null(self, n: int) -> Arrays:
        return {SOURCE: np.zeros((n, *self.shape), np.float32)}

    def negative(self, n: int) -> Arrays:
        return {}

    @property
    def is_asked(self) -> bool:
        return self.drawn is not None

    def given(self, values: Any) -> Arrays:
        return {SOURCE: self._scaled(self._rows("the condition 'source'", values))}

    def asked(self, values: Any) -> Self:
        return dataclasses.replace(self, drawn=self._rows("the condition 'source'", values))

    def complete(self, values: Arrays, keys: jax.Array, x: jax.Array) -> Arrays:
        if SOURCE in values:
            return values
        if self.origin == "image":
            return values | {SOURCE: values["images"]}
        if RAW_SOURCE not in values:
            return values  # it is known in training alone
        others = {name: value for name, value in values.items() if name != RAW_SOURCE}
        rows = values[RAW_SOURCE]
        if self.load is not None:
            draw = jax.vmap(lambda key: jax.random.randint(key, (), 0, len(rows)))
            rows = rows[draw(fold_in(keys, DRAW))]
        return others | {SOURCE: self._scaled(rows)}

    @property
    def shared(self) -> Arrays:
        """The rows of "samples", of which `complete` draws."""
        return {RAW_SOURCE: np.asarray(self.load().train)} if self.load else {}

    def start(self, values: Arrays) -> Any | None:
        """The states that samples with these conditions start from; None: those of the prior."""
        return values.get(SOURCE, values["images"] if self.origin == "image" else None)

    def with_scaling(self, scaling: Scaling) -> Self:
        """The source of data with this scaling."""
        return dataclasses.replace(self, scaling=scaling)

    def _scaled(self, rows: Any) -> Any:
        rows = jnp.asarray(rows, jnp.float32)
        if self.origin == "reflow":
            return rows
        if self.scaling.levels:
            return self.scaling.centres(rows)
        return self.scaling.to_model(jax.random.key(0), rows)

    def _of(self, dataset: Dataset, split: Split) -> Any:
        rows = dataset.conditions(split).get(self.kind)
        if rows is None:
            raise ValueError(
                "config.source.name is 'pairs', but the data have no source beside the samples: "
                "give config.data.conditions, an .npz file with an array 'source', or take "
                "config.source.name='samples' with a data set of its own"
            )
        return self._rows(f"the source of the {split} data", rows)

    def _rows(self, what: str, values: Any) -> np.ndarray:
        """Samples [N, *shape]; a single one is brought there."""
        rows = np.asarray(values)
        rows = rows[None] if rows.shape == self.shape else rows
        if rows.dtype.kind not in "fiu" or rows.shape[1:] != self.shape or not len(rows):
            raise ValueError(
                f"{what} has {rows.dtype} of the shape {rows.shape}: it must be numbers of the "
                f"data's shape, (N, {', '.join(map(str, self.shape))})"
            )
        if not np.isfinite(rows).all():
            raise ValueError(f"{what} has numbers that are not finite: leave such samples out")
        return rows
