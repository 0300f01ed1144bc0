"""The state of training."""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from experiments.runs import devices
from experiments.training.checkpoints import Checkpoints
from experiments.training.objective import Objective
from experiments.training.schedules import Constant


class TrainState(NamedTuple):
    """The step, the weights, their average, and the optimizer's state.

    opt_state is a pair with the objective's carry, if the objective has one. averages are further
    averages of the weights, if the training has more than one.
    """

    step: jax.Array
    params: Any
    ema_params: Any
    opt_state: Any
    averages: tuple[Any, ...] = ()


def init_state(objective: Objective, seed: int, abstract: TrainState) -> TrainState:
    """The state before the first step, made sharded as `abstract` is.

    The program runs once, so on a CPU it is compiled fast and not well: in 3 s in place of 12 for
    the digits.
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    init = partial(_initial, objective, seed, 1 + len(abstract.averages))
    return jax.jit(init, out_shardings=shardings, compiler_options=options)()


def abstract_state(objective: Objective, seed: int, mesh: Mesh, n_averages: int = 1) -> TrainState:
    """Shapes, types and shardings of the state, as jax.ShapeDtypeStruct.

    n_averages: of the weights, as many as training.average has.
    """
    return _placed(jax.eval_shape(lambda: _initial(objective, seed, n_averages)), mesh)


def _placed(abstract: Any, mesh: Mesh) -> Any:
    """Shapes and types with the shardings of a state."""

    def place(leaf, sharding):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(place, abstract, devices.state_shardings(mesh, abstract))


def restore(
    checkpoints: Checkpoints, objective: Any, like: TrainState, step: int | None = None
) -> TrainState | None:
    """The newest state that can be read, or that of a step; None if none was saved.

    Warm-up and schedules may come and go: an optimizer whose learning rate changes counts its
    steps, and another does not, but its checkpoints can be read.

    Args:
        checkpoints: of the run.
        objective: the task; its `adam`, if it has one, is the optimizer whose rate may change.
        like: its abstract state.
        step: of the checkpoint; None: the newest.

    Raises:
        ValueError: there are checkpoints, and none can be read.
    """
    adam = getattr(objective, "adam", None)
    if adam is None:
        return checkpoints.restore(like, step)
    other = {"warmup": 0, "schedule": Constant()} if adam.counts_steps else {"warmup": 1}
    adam = dataclasses.replace(adam, **other)
    init = partial(init_opt_state, dataclasses.replace(objective, adam=adam))
    opt_state = jax.eval_shape(init, like.params)
    mesh = like.step.sharding.mesh  # pyright: ignore[reportAttributeAccessIssue]
    state = checkpoints.restore(like, step, like._replace(opt_state=_placed(opt_state, mesh)))
    if state is None or jax.tree.structure(state) == jax.tree.structure(like):
        return state
    found = dict(jax.tree_util.tree_leaves_with_path(state))

    def leaf(path: Any, wanted: jax.ShapeDtypeStruct) -> jax.Array:
        return found[path] if path in found else jax.device_put(state.step + 0, wanted.sharding)

    return jax.tree_util.tree_map_with_path(leaf, like)


def is_sound(state: Any) -> bool:
    """True for a state worth saving: it can be read, and is finite.

    A step that failed has taken the memory of the state before it, or leaves values that cannot be
    read. All of them have to be on this process's devices.
    """
    leaves = jax.tree.leaves(state)
    if any(leaf.is_deleted() for leaf in leaves):
        return False
    try:
        return all(np.isfinite(jax.device_get(leaf)).all() for leaf in leaves)
    except jax.errors.JaxRuntimeError:
        return False


def with_params(
    objective: Objective, step: int, params: Any, ema_params: Any, n_averages: int = 1
) -> TrainState:
    """A state of given weights with a fresh optimizer; all averages begin with ema_params."""
    opt_state, more = init_opt_state(objective, params), (ema_params,) * (n_averages - 1)
    return TrainState(jnp.asarray(step, jnp.int32), params, ema_params, opt_state, more)


def with_weights(state: TrainState, weights: Any) -> TrainState:
    """A state before the first step with other weights, in the averages too.

    `weights` is a tree of some of the parameters; the others stay as they are.
    """

    def put(state, weights):
        params = flatten_dict(state.params) | flatten_dict(weights)
        params = unflatten_dict(params)
        averages = (params,) * len(state.averages)
        return state._replace(params=params, ema_params=params, averages=averages)

    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    return jax.jit(put, out_shardings=shardings)(state, weights)


def init_opt_state(objective: Objective, params: Any) -> Any:
    """The optimizer's state before the first step, with the objective's carry if there is one."""
    opt_state, carry = objective.optimizer.init(params), objective.init_carry()
    return opt_state if carry is None else (opt_state, carry)


def _initial(objective: Objective, seed: int, n_averages: int) -> TrainState:
    params = objective.init(jax.random.key(seed))
    return with_params(objective, 0, params, params, n_averages)
