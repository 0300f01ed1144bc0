"""Runs with random weights, written to their folders without training or compiling."""

from contextlib import closing

import jax
import numpy as np

from experiments.build import configs, tasks
from experiments.training.checkpoints import Checkpoints
from experiments.training.state import abstract_state


def save(config, folder, step=1):
    """Writes a run's config and a checkpoint of the step. Returns its task and its weights."""
    task, generator = tasks.task(config), np.random.RandomState(step)

    def draw(leaf):
        if not np.issubdtype(leaf.dtype, np.floating):
            return np.full(leaf.shape, step, leaf.dtype)
        values = generator.standard_normal(leaf.shape) / np.sqrt(max(np.prod(leaf.shape[:-1]), 1))
        return values.astype(leaf.dtype)

    abstract = abstract_state(task, config.seed, task.mesh)
    state = jax.tree.map(lambda leaf: jax.device_put(draw(leaf), leaf.sharding), abstract)
    configs.save(config, folder)
    with closing(Checkpoints(folder)) as checkpoints:
        checkpoints.save(step, state)
    return task, state.ema_params
