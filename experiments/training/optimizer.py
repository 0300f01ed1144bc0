"""The optimizer: Adam with linear warm-up, after clipping the gradient to a global norm."""

import dataclasses
from typing import Any

import optax

from sde_lib.checks import check_at_least, check_in, check_types

PREFIX = "config.optim."
RANGES = {
    "(0, inf)": ("lr",),
    "[0, 1)": ("beta1", "beta2"),
    "[0, inf)": ("eps", "weight_decay"),
    "(-inf, inf)": ("grad_clip",),
}


@dataclasses.dataclass(frozen=True)
class Adam:
    """Adam, with decoupled weight decay (optax.adamw).

    Attributes:
        lr: learning rate after the warm-up.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        eps: added to the square root of the second moment.
        weight_decay: as a multiple of the learning rate.
        warmup: steps over which the learning rate rises from 0.
        grad_clip: the largest global norm of a gradient; 0 or less: no limit.

    Raises:
        ValueError: a number out of range.
    """

    lr: float = 2e-4
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    warmup: int = 5000
    grad_clip: float = 1.0

    def __post_init__(self):
        check_types(self, PREFIX)
        check_at_least(0, **{f"{PREFIX}warmup": self.warmup})
        for interval, names in RANGES.items():
            check_in(interval, **{f"{PREFIX}{name}": getattr(self, name) for name in names})

    def rate(self, step: Any) -> Any:
        """The learning rate at a step."""
        schedule = optax.linear_schedule(0.0, self.lr, self.warmup) if self.warmup else None
        return schedule(step) if schedule else self.lr

    def create(self) -> optax.GradientTransformation:
        """The transformation of gradients to updates."""
        clip = optax.identity()
        if self.grad_clip > 0:
            clip = optax.clip_by_global_norm(self.grad_clip)
        rate: Any = self.rate if self.warmup else self.lr
        return optax.chain(
            clip,
            optax.adamw(rate, self.beta1, self.beta2, self.eps, weight_decay=self.weight_decay),
        )


OPTIMIZERS = {"Adam": Adam}
