"""The models that are measured: experiments of configs/, with untrained weights."""

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.build import pipelines, related
from experiments.build.components import diffusion, networks
from experiments.build.fields import choices, sections
from experiments.pipeline.pipeline import Pipeline
from models import NoiseModel
from models.config import Config


@dataclasses.dataclass(frozen=True)
class Subject:
    """An experiment: `variant` of configs/`file`.py, with (field, value) pairs in its config."""

    file: str
    variant: str
    changes: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        return " ".join([f"{self.file}:{self.variant}", *(f"{k}={v}" for k, v in self.changes)])

    def having(self, *changes: tuple[str, Any]) -> "Subject":
        """The experiment with more changes."""
        return dataclasses.replace(self, changes=(*self.changes, *changes))

    def config(self) -> Config:
        """The experiment's config."""
        config = importlib.import_module(f"configs.{self.file}").get_config(self.variant)
        config.update_from_flattened_dict(dict(self.changes))
        return config

    def flags(self) -> list[str]:
        """The experiment as flags of `python -m experiments.main`."""
        path = Path(str(importlib.import_module(f"configs.{self.file}").__file__))
        changes = [f"--config.{field}={value}" for field, value in self.changes]
        return [f"--config={path}:{self.variant}", *changes]

    def network(self) -> "Network":
        """The experiment's network, of any kind of model."""
        config = self.config()
        sde, shape = diffusion.sde(config), related.shape(config)
        model = networks.noise_model(config, sde, shape)
        init = jax.jit(model.init, static_argnums=1)
        params = init(jax.random.key(config.seed), sde.state_shape((1, *shape)))
        return Network(model, params, shape)

    def pipeline(self, params: Any, sampler: str = "", n_steps: int = 0) -> Pipeline:
        """The experiment's model with these weights; with a sampler's name, drawn by that one."""
        config = self.config()
        if sampler:
            own = choices.SAMPLER.components[sampler].values()
            sections.reset(config, choices.SAMPLER.fields())
            config.sampling.method = sampler
            for field, value in {"n_steps": n_steps, "corrector": "langevin"}.items():
                if f"sampling.{field}" in own:
                    config.sampling[field] = value
        return pipelines.untrained(config).replace(params=params)


class Network(NamedTuple):
    """A network with untrained weights, whose values cost as much as any others.

    model: with its preconditioning and SDE. params: its weights. shape: of one sample.
    """

    model: NoiseModel
    params: Any
    shape: tuple[int, ...]

    def score(self, params: Any, x: jax.Array, t: jax.Array, **conditions: Any) -> jax.Array:
        """The score as a function of the weights too."""
        return self.model.score_fn(params, **conditions)(x, t)

    def inputs(self, n: int) -> tuple[jax.Array, jax.Array]:
        """x and t of n samples."""
        return jnp.ones((n, *self.shape)), jnp.full(n, 0.5 * self.model.sde.t_max)

    def call(self, n: int) -> Callable[[jax.Array], jax.Array]:
        """call(x): the bare compiled call of n samples."""
        score, (_, t) = jax.jit(self.score), self.inputs(n)
        return lambda x: score(self.params, x, t)
