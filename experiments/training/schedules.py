"""Schedules of the learning rate after its warm-up, as factors of the largest rate.

A new schedule is a class here and a line in SCHEDULES; its options are fields of config.optim.
"""

import dataclasses
from typing import Any, Protocol

import jax.numpy as jnp

from sde_lib.checks import check_at_least, check_types


class Schedule(Protocol):
    """A frozen dataclass, whose fields are its options."""

    def __call__(self, step: Any) -> Any:
        """The factor of the learning rate at a step, in (0, 1]."""
        ...


@dataclasses.dataclass(frozen=True)
class Constant:
    """The factor 1."""

    def __call__(self, step: Any) -> float:
        return 1.0


@dataclasses.dataclass(frozen=True)
class InverseSqrt:
    """The factor 1 / sqrt(max(step / decay_start, 1)) (Karras et al. 2024, 2312.02696, Eq. 67).

    Weights of a fixed norm need it: nothing else makes their relative updates smaller.

    Attributes:
        decay_start: the last step of the full rate.
    """

    decay_start: int = 70_000

    def __post_init__(self):
        check_types(self, "config.optim.")
        check_at_least(1, **{"config.optim.decay_start": self.decay_start})

    def __call__(self, step: Any) -> Any:
        return jnp.maximum(step / self.decay_start, 1.0) ** -0.5


SCHEDULES: dict[str, type[Schedule]] = {"constant": Constant, "inverse_sqrt": InverseSqrt}
