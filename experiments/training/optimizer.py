"""The optimizer: Adam with linear warm-up, after clipping the gradient to a global norm.

The learning rate is lr, times min(step / warmup, 1), times a schedule of SCHEDULES.

Parameters can be frozen by their names, which join the names of the modules from the outside in by
"/": "Conv_0/kernel".
"""

import dataclasses
import difflib
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.training.schedules import Constant, Schedule
from sde_lib.checks import check_at_least, check_in, check_types

Project = Callable[[Any], Any]
"""A pure function from parameters to those that are allowed, such as weights of norm 1."""
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
        lr: the largest learning rate.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        eps: added to the square root of the second moment.
        weight_decay: as a multiple of the learning rate.
        warmup: steps over which the learning rate rises from 0.
        schedule: the learning rate after the warm-up, as a factor of lr at each step.
        grad_clip: the largest global norm of a gradient; 0 or less: no limit.
        freeze: regular expressions; a parameter whose whole name matches one stays as it is. It has
            no moments, no weight decay, and no part in the norm of the gradient.

    Raises:
        ValueError: a number out of range, or no regular expression.
    """

    lr: float = 2e-4
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    warmup: int = 5000
    grad_clip: float = 1.0
    freeze: tuple[str, ...] = ()
    schedule: Schedule = Constant()

    def __post_init__(self):
        check_types(self, PREFIX)
        check_at_least(0, **{f"{PREFIX}warmup": self.warmup})
        for interval, names in RANGES.items():
            check_in(interval, **{f"{PREFIX}{name}": getattr(self, name) for name in names})
        for pattern in self.freeze:
            try:
                re.compile(pattern)
            except (re.error, TypeError) as error:
                raise ValueError(
                    f"{PREFIX}freeze has {pattern!r}, which is no regular expression ({error}): "
                    "give some such as 'Conv_0/.*'"
                ) from error

    def rate(self, step: Any) -> Any:
        """The learning rate at a step."""
        rise = optax.linear_schedule(0.0, self.lr, self.warmup) if self.warmup else None
        return (rise(step) if rise else self.lr) * self.schedule(step)

    @property
    def counts_steps(self) -> bool:
        """True if the learning rate changes, so that the state has a counter of steps."""
        return bool(self.warmup) or self.schedule != Constant()

    def create(self, project: Project | None = None) -> optax.GradientTransformation:
        """The transformation of gradients to updates.

        Args:
            project: where parameters are put after each step, such as weights of norm 1; it leaves
                frozen parameters alone. None: they stay where Adam moves them.
        """
        clip = optax.identity()
        if self.grad_clip > 0:
            clip = optax.clip_by_global_norm(self.grad_clip)
        rate: Any = self.rate if self.counts_steps else self.lr
        adam = optax.chain(
            clip,
            optax.adamw(rate, self.beta1, self.beta2, self.eps, weight_decay=self.weight_decay),
        )
        if project is not None:
            adam = projected(adam, project)
        if not self.freeze:
            return adam
        return optax.partition({False: adam, True: optax.set_to_zero()}, self.are_frozen)

    def are_frozen(self, params: Any) -> Any:
        """True for each parameter that is frozen, as a tree."""

        def frozen(path: Any, _: Any) -> bool:
            return any(re.fullmatch(pattern, _name(path)) for pattern in self.freeze)

        return jax.tree_util.tree_map_with_path(frozen, params)

    def of_trained(self, grads: Any) -> Any:
        """A gradient that is 0 for frozen parameters."""
        if not self.freeze:
            return grads
        frozen = self.are_frozen(grads)
        return jax.tree.map(lambda g, off: jnp.zeros_like(g) if off else g, grads, frozen)

    def check_freeze(self, params: Any) -> None:
        """Raises ValueError for a pattern that matches no parameter, or if all are frozen."""
        names = [_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        for pattern in self.freeze:
            if not any(re.fullmatch(pattern, name) for name in names):
                near = difflib.get_close_matches(pattern, names, 3, 0.3)
                raise ValueError(
                    f"{PREFIX}freeze has {pattern!r}, which matches the whole name of no "
                    f"parameter: there are {', '.join(near or names[:3])}, ..."
                )
        if all(jax.tree.leaves(self.are_frozen(params))):
            raise ValueError(
                f"{PREFIX}freeze is {self.freeze}, which freezes all parameters: leave some to be "
                "trained"
            )


def projected(
    optimizer: optax.GradientTransformation, project: Project
) -> optax.GradientTransformation:
    """The optimizer whose updates end at project(parameters + update)."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, state = optimizer.update(updates, state, params)
        ends = project(optax.apply_updates(params, updates))
        return jax.tree.map(jnp.subtract, ends, params), state

    return optax.GradientTransformation(optimizer.init, update)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


OPTIMIZERS = {"Adam": Adam}
