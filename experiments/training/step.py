"""One training step, and the compiled program of several."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from experiments.data import batches
from experiments.runs import devices
from experiments.training.objective import RAW_IMAGES, Objective
from experiments.training.options import Training
from experiments.training.state import TrainState

NONE: Mapping[str, Any] = MappingProxyType({})
HUGE = 1e5  # replaces an infinite gradient, with nan_to_num (EDM's number)
Step = Callable[..., tuple[TrainState, dict[str, jax.Array]]]


def make_train_step(objective: Objective, training: Training, mesh: Mesh) -> Step:
    """A pure function step(state, batch, conditions={}, shared={}) -> (state, metrics).

    batch is [microbatches, samples in each, ...] as the data set has it, and so are the conditions.
    `shared` are the objective's arrays of this name.
    The result depends on the objective, training.seed, the state and the batch alone. Where the
    loss, the gradient or the new weights are not finite, only state.step changes; with
    training.nan_to_num, the gradient is made finite first.
    """
    n, scaling, optimizer = training.n_microbatches, objective.scaling, objective.optimizer
    loss_and_gradient = _accumulated(objective.loss, n, mesh)

    def train_step(state, batch, conditions=NONE, shared=NONE):
        keys = _keys(training.seed, state.step) | {"step": state.step}
        if training.random_flip and batch.ndim == 5:  # images
            flip = jax.random.bernoulli(keys["flip"], shape=(*batch.shape[:2], 1, 1, 1))
            batch = jnp.where(flip, batch[..., ::-1, :], batch)
            if RAW_IMAGES in conditions:
                images = conditions[RAW_IMAGES]
                mirrored = jnp.where(flip, images[..., ::-1, :], images)
                conditions = {**conditions, RAW_IMAGES: mirrored}
        x = scaling.to_model(keys["dequantize"], batch)

        opt_state, carry = state.opt_state, objective.init_carry()
        if carry is not None:
            opt_state, carry = opt_state
        (loss, aux), grads = loss_and_gradient(
            state.params, keys, carry, dict(shared), x, dict(conditions)
        )
        grads = training.optimizer.of_trained(grads)
        if training.nan_to_num:
            grads = jax.tree.map(partial(jnp.nan_to_num, posinf=HUGE, neginf=-HUGE), grads)
        updates, opt_state = optimizer.update(grads, opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        weights = training.average.new_weights(state.step, training.batch_size)
        averages = [
            # In this form the average of weights that do not change is exact.
            jax.tree.map(lambda new, old, w=w: old + w * (new - old), params, average)
            for w, average in zip(weights, (state.ema_params, *state.averages), strict=True)
        ]
        if carry is not None:
            opt_state = opt_state, objective.update_carry(carry, aux)
        new = TrainState(state.step, params, averages[0], opt_state, tuple(averages[1:]))

        norms = {"grad_norm": optax.tree.norm(grads), "param_norm": optax.tree.norm(params)}
        metrics = {"loss": loss, **norms}
        is_finite = jnp.isfinite(jnp.stack(list(metrics.values()))).all()
        new = jax.tree.map(partial(jnp.where, is_finite), new, state)
        return new._replace(step=state.step + 1), metrics

    return train_step


def make_program(objective: Objective, training: Training, mesh: Mesh) -> Step:
    """A function program(state, held, *batches) -> (state, metrics [steps]).

    It makes a train step for each batch. `make_batches` gives its arguments after the state: `held`
    are the data that the batches index, or None, and the arrays that all samples share.
    """
    train_step = make_train_step(objective, training, mesh)

    def program(state, held, *arguments):
        resident, shared = held

        def step(state, batch):
            return train_step(state, *batches.fetch(resident, batch), shared=shared)

        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *arguments)
        return jax.lax.scan(step, state, stacked)

    return program


def make_batches(
    values: Any,
    training: Training,
    mesh: Mesh,
    start: int,
    shared: Mapping[str, np.ndarray] = NONE,
) -> Iterator[tuple]:
    """The arguments, after the state, of one program after another, up to step training.n_iters.

    A program makes training.steps_per_jit steps; it ends at a multiple of that, or at the end.

    Args:
        values: (samples, conditions) of the training set.
        training: sizes, seed and where the data live.
        mesh: the devices.
        start: the step to continue from.
        shared: arrays that all samples share.

    Raises:
        ValueError: fewer samples than a batch has.
    """
    n = len(jax.tree.leaves(values)[0])
    check_batch(n, training)
    resident = batches.resident(mesh, values, training.resident_bytes)
    held = resident, devices.everywhere(mesh, dict(shared))
    if resident is not None:
        values = np.arange(n, dtype=np.int32)
    shape, place = training.batch_shape(mesh), devices.batch_sharding(mesh, axis=1)
    about = training.seed, shape, start, place, training.max_unreadable
    stream = batches.batches(values, *about)
    while start < training.n_iters:
        n_steps = training.steps_per_jit - start % training.steps_per_jit
        n_steps = min(n_steps, training.n_iters - start)
        yield held, *itertools.islice(stream, n_steps)
        start += n_steps


def check_batch(n: int, training: Training) -> None:
    """Raises ValueError for fewer training samples than a batch has."""
    if n < training.batch_size:
        raise ValueError(
            f"there are {n} training samples: config.training.batch_size = {training.batch_size} "
            "must not exceed that"
        )


def compiled(step: Step, abstract: TrainState) -> Any:
    """A train step or program in place: the new state takes the old one's memory and shardings.

    Every host can read its metrics.
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, shardings.step))


def _keys(seed: int, step: jax.Array) -> dict[str, jax.Array]:
    """The keys of a step, by their use."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    names = ("dequantize", "flip", "loss", "dropout")
    keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))
    # Folded in, so that the keys above stay as they were before there were these.
    later = {"augment": len(names), "labels": len(names) + 1}
    return keys | {name: jax.random.fold_in(key, n) for name, n in later.items()}


def _accumulated(loss: Callable[..., Any], n: int, mesh: Mesh) -> Callable[..., tuple[Any, Any]]:
    """The function (params, keys, carry, shared, x, conditions) -> ((loss, aux), gradient).

    Loss and gradient are means over n microbatches; aux is {} if there are several.
    """

    def one(k, params, keys, carry, shared, *batch):
        x, conditions = jax.tree.map(lambda leaf: leaf[k], batch)
        keys = keys | {"dropout": jax.random.fold_in(keys["dropout"], k)}
        whole = devices.gather(mesh, params)
        result, grads = jax.value_and_grad(loss, has_aux=True)(
            whole, keys, carry, k * len(x), x, conditions | shared
        )
        # Added up whole first: else XLA for TPU computes slice after slice, in more memory.
        grads = devices.gather(mesh, grads)
        shardings = devices.state_shardings(mesh, grads)
        return result, jax.lax.with_sharding_constraint(grads, shardings)

    def several(params, *arguments):
        def add(k, total):
            (value, _), grads = one(k, params, *arguments)
            return jax.tree.map(jnp.add, total, (value, grads))

        total = jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)
        total = jax.lax.fori_loop(0, n, add, total)
        value, grads = jax.tree.map(lambda leaf: leaf / n, total)
        return (value, {}), grads

    return partial(one, 0) if n == 1 else several
