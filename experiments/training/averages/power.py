"""The averages of the weights by power functions that training keeps."""

import dataclasses

import jax
import jax.numpy as jnp

from experiments.training.averages.power_function import gamma_of
from sde_lib.checks import check_types


@dataclasses.dataclass(frozen=True)
class PowerAverage:
    """Averages of the weights by power functions (Karras et al. 2024, section 3).

    Attributes:
        lengths: the standard deviation of each average's profile, as a share of the training so
            far. Two are enough for all others (averages/power_function.py); the first one is the
            model's.

    Raises:
        ValueError: no length, one twice, or one that is impossible.
    """

    lengths: tuple[float, ...] = (0.05, 0.10)

    def __post_init__(self):
        check_types(self, "config.model.ema_")
        if not self.lengths or len(set(self.lengths)) < len(self.lengths):
            raise ValueError(
                f"config.model.ema_lengths is {self.lengths}: give one length or more, each once, "
                "such as (0.05, 0.1)"
            )
        check_lengths("config.model.ema_lengths", self.lengths)

    @property
    def count(self) -> int:
        """The number of averages."""
        return len(self.lengths)

    def new_weights(self, step: jax.Array, batch_size: int) -> tuple[jax.Array, ...]:
        """The shares of the new weights in the averages after a step, counted from 0.

        They are 1 - beta of Eq. 127, exact in float32 at any step. Steps are of equal size, so that
        the batch size does not matter.
        """
        log_kept = jnp.log1p(-1 / (1 + step.astype(jnp.float32)))
        return tuple(-jnp.expm1((gamma_of(length) + 1) * log_kept) for length in self.lengths)


def check_lengths(field: str, lengths: tuple[float, ...]) -> None:
    """Raises ValueError for a length of an average that no power function has."""
    for length in lengths:
        if isinstance(length, bool) or not isinstance(length, int | float):
            raise ValueError(f"{field} has {length!r}: give numbers, such as 0.05")
        gamma_of(length, field)
