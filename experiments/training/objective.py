"""The protocol of an objective: the part of a task that a train step uses."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import optax

from experiments.data.scaling import Scaling
from sde_lib.batch import PerSample

Params = Any
Carry = Any
Loss = Callable[..., tuple[PerSample, dict[str, PerSample]]]
"""loss(key, sde, score_fn, x, **options): of each sample, [B], with figures of it by name."""
Conditions = dict[str, Any]
"""Arrays [B, ...] by the network's keyword, such as class_labels."""


RAW_IMAGES = "raw_images"
"""The keyword of condition images as the data have them: a flip of the samples flips them too."""


class Objective(Protocol):
    """A trainable network with its loss.

    Attributes:
        scaling: from the data to model space.
        optimizer: of all parameters.
    """

    @property
    def scaling(self) -> Scaling: ...

    @property
    def optimizer(self) -> optax.GradientTransformation: ...

    @property
    def shared(self) -> dict[str, Any]:
        """Arrays that the loss of every sample takes whole, by keyword.

        They are the rows of a source, or the parameters of a teacher.
        """
        ...

    def init(self, key: jax.Array) -> Params:
        """The parameters before the first step."""
        ...

    def init_carry(self) -> Carry | None:
        """State that the objective keeps between steps, such as a loss history; None for none."""
        ...

    def loss(
        self,
        params: Params,
        keys: Mapping[str, jax.Array],
        carry: Carry | None,
        first_index: int | jax.Array,
        x: jax.Array,
        conditions: Conditions,
    ) -> tuple[jax.Array, Any]:
        """The mean loss of a microbatch, and arrays for `update_carry`.

        Args:
            params: of the network.
            keys: independent keys "loss", "dropout", "augment" and "labels", and "step", the step.
            carry: from init_carry or update_carry.
            first_index: index of the microbatch's first sample in the batch.
            x: the samples in model space.
            conditions: of these samples, and the arrays that they share.
        """
        ...

    def update_carry(self, carry: Carry, aux: Any) -> Carry:
        """The carry after a step whose loss came with `aux`."""
        ...
