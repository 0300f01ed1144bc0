"""Metrics on held-out data during training, along the diffusion time too."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.data.dataset import Dataset
from experiments.runs import devices, parts
from experiments.tasks.base import Task
from experiments.training.state import TrainState
from sde_lib import EDM, SDE, VP

N_BUCKETS = 5


def make_evaluation(
    task: Task, dataset: Dataset, mesh: Mesh, seed: int, batch_size: int
) -> Callable[[int, TrainState], dict[str, float]]:
    """A function (step, state) -> metrics of the averaged weights on some test samples.

    They are the same batch_size samples each time, at even distances in the test set, with the same
    noise.
    """
    key, n = jax.random.key(seed), len(dataset.test)
    rows = np.linspace(0, n - 1, min(n, batch_size)).astype(int)
    some = jax.tree.map(lambda leaf: leaf[rows], task.values(dataset, "test"))
    metrics = compiled(task, mesh)

    def evaluation(step: int, state: TrainState) -> dict[str, float]:
        def batch(values, first_index):
            return metrics(state.ema_params, key, values, first_index)

        return task.held_out(parts.over(mesh, some, len(rows), batch))

    return evaluation


def compiled(task: Any, mesh: Mesh) -> Callable[..., dict[str, jax.Array]]:
    """task.metrics, compiled, of batches without the arrays that all samples share."""
    metrics, shared = jax.jit(task.metrics), devices.everywhere(mesh, dict(task.held_out_shared))

    def of_batch(params, key, batch, first_index):
        x, conditions = batch
        return metrics(params, key, (x, conditions | shared), first_index)

    return of_batch


def means(result: Any, names: tuple[str, ...]) -> dict[str, float]:
    """The means of some metrics, as "eval_NAME"."""
    return {f"eval_{name}": float(result[name].mean()) for name in names if name in result}


def means_along_time(sde: SDE, t: Any, name: str, values: Any) -> dict[str, float]:
    """The means of a metric over intervals of t, as "eval_NAME_tEDGE"."""
    return {f"eval_{name}_t{edge:g}": mean for edge, mean in along_time(sde, t, values).items()}


def along_time(sde: SDE, t: np.ndarray, values: np.ndarray) -> dict[float, float]:
    """Means over equal intervals of t, by their upper ends; empty intervals are dropped.

    Under EDM, whose t is the noise level, the intervals are of VP's t.
    """
    if isinstance(sde, EDM):
        sde, t = VP(), np.asarray(VP().inverse_noise_level(jnp.asarray(t)))
    bucket = np.minimum(t / sde.t_max * N_BUCKETS, N_BUCKETS - 1).astype(int)
    return {
        (k + 1) / N_BUCKETS * sde.t_max: float(values[bucket == k].mean())
        for k in range(N_BUCKETS)
        if (bucket == k).any()
    }
