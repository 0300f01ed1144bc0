"""The state of training, and a trained model from its folder."""

from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

import models
from experiments import build
from experiments.data import model_space
from experiments.runs import sharding
from experiments.runs import workdir as workdirs
from experiments.training.checkpoint import Checkpoints
from models.config import Config
from sde_lib import loss_history


class TrainState(NamedTuple):
    """opt_state is with config.training.loss_history a pair: the optimizer's, and a LossHistory."""

    step: jax.Array
    params: Any
    ema_params: Any
    opt_state: Any


def init_state(config: Config, model: nn.Module, abstract: TrainState | None = None) -> TrainState:
    """The state before the first step, born sharded: a function of config and config.seed.

    `abstract` is abstract_state(config, model), where it is there already.
    """
    abstract = abstract or abstract_state(config, model)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(lambda: _initial(config, model), out_shardings=shardings)()


def abstract_state(config: Config, model: nn.Module, mesh: Mesh | None = None) -> TrainState:
    """Its shapes and shardings, on sharding.make_mesh(config) unless on another mesh."""
    mesh = mesh or sharding.make_mesh(config)
    state = jax.eval_shape(lambda: _initial(config, model))

    def place(leaf, leaf_sharding):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf_sharding)

    return jax.tree.map(place, state, sharding.of_state(mesh, state))


def _initial(config: Config, model: nn.Module) -> TrainState:
    key = jax.random.key(config.seed)
    params = model.init(key, *build.dummy_inputs(config))["params"]
    if config.model.learned_schedule:
        schedule = build.make_schedule(config).init(key, jnp.zeros(()))["params"]
        params = {**params, build.SCHEDULE: schedule}
    return TrainState(jnp.zeros((), jnp.int32), params, params, init_opt_state(config, params))


def init_opt_state(config: Config, params: Any) -> Any:
    """Of a TrainState before the first step."""
    opt_state, n = build.make_optimizer(config).init(params), config.training.loss_history
    return (opt_state, loss_history.empty(config.model.num_scales, n)) if n else opt_state


def load(config: Config, workdir: Path, step: int | None = None) -> tuple[nn.Module, Any, int]:
    """The model of a run, its averaged parameters, and the step that they are from: the last.

    Raises:
        ValueError: there is no run, or it belongs to another config.
    """
    workdirs.check_owner(config, workdir)
    model = models.create(config)
    saved_steps(workdir)
    like = abstract_state(config, model)
    with closing(Checkpoints(workdir, read_only=True)) as checkpoints:
        state = checkpoints.restore(like, step=step)
    assert state is not None  # restore raises where checkpoints are, and none can be read
    return model, state.ema_params, int(state.step)


def load_related_config(config: Config, folder: Path, what: str) -> Config:
    """The config of another run, whose model is to see the same noisy data, on the same devices.

    Raises:
        ValueError: there is no run, or one of another SDE, or of data of another shape or range.
    """
    theirs = workdirs.load_config(folder)
    theirs.mesh = config.mesh
    for name, of in (
        ("SDE", build.make_sde),
        ("shape of data", build.image_shape),
        ("range of data", model_space.data_range),
        ("autoencoder", lambda of: of.data.autoencoder),
    ):
        if of(config) != of(theirs):
            raise ValueError(
                f"the {name} of the {what} in {folder} is {of(theirs)}, here {of(config)}"
            )
    return theirs


def saved_steps(workdir: Path) -> list[int]:
    """The steps that a run has checkpoints of, in order.

    Raises:
        ValueError: there is none.
    """
    found = []
    if (workdir / "checkpoints").exists():  # looking into it would make it
        with closing(Checkpoints(workdir, read_only=True)) as checkpoints:
            found = checkpoints.steps()
    if not found:
        raise ValueError(f"{workdir} holds no checkpoints: train first, or give the --workdir")
    return found
