"""What is measured: an experiment of configs/, with changes, and the network that it names."""

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

import models
from experiments import build
from experiments.training.state import init_state
from models.config import Config
from sde_lib import SDE


@dataclasses.dataclass(frozen=True)
class Subject:
    """An experiment: `variant` of configs/`file`.py, with (field, value) pairs in its config."""

    file: str
    variant: str
    changes: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        return " ".join([f"{self.file}:{self.variant}", *(f"{k}={v}" for k, v in self.changes)])

    def having(self, *changes: tuple[str, Any]) -> "Subject":
        """With more changes."""
        return dataclasses.replace(self, changes=(*self.changes, *changes))

    def config(self) -> Config:
        config = importlib.import_module(f"configs.{self.file}").get_config(self.variant)
        config.update_from_flattened_dict(dict(self.changes))
        return config

    def flags(self) -> list[str]:
        """The same, for `python -m experiments.main`."""
        path = Path(str(importlib.import_module(f"configs.{self.file}").__file__))
        changes = [f"--config.{field}={value}" for field, value in self.changes]
        return [f"--config={path}:{self.variant}", *changes]


class Network(NamedTuple):
    """A network of untrained weights, whose values cost as much as any, and its SDE."""

    config: Config
    sde: SDE
    model: nn.Module
    params: Any

    @classmethod
    def of(cls, config: Config) -> "Network":
        model = models.create(config)
        return cls(config, build.make_sde(config), model, init_state(config, model).params)

    def score(self, params: Any, x: jax.Array, t: jax.Array, **conditions: Any) -> jax.Array:
        """models.score_fn's, a function of the weights too."""
        return models.score_fn(self.config, self.sde, self.model, params, **conditions)(x, t)

    def inputs(self, n: int) -> tuple[jax.Array, jax.Array]:
        """x and t of n samples."""
        return jnp.ones((n, *build.image_shape(self.config))), jnp.full(n, 0.5 * self.sde.t_max)

    def call(self, n: int) -> Callable[[jax.Array], jax.Array]:
        """call(x): the bare compiled call of n samples."""
        score, (_, t) = jax.jit(self.score), self.inputs(n)
        return lambda x: score(self.params, x, t)
