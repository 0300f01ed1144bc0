"""The smallest task: the mean of points in the plane, with every part of a task's protocol."""

import dataclasses
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.scaling import Scaling
from experiments.runs import devices, pictures
from experiments.tasks.base import Description, Report
from experiments.tasks.held_out import means
from experiments.training import state
from experiments.training.optimizer import Adam
from experiments.training.options import Training
from experiments.training.step import compiled, make_program
from sde_lib.batch import normal, sample_keys

MESH = devices.make_mesh()


@dataclasses.dataclass(frozen=True, eq=False)
class Toy:
    """Learns the mean of the data, which have noise of the step's keys.

    Attributes:
        adam: the optimizer.
        dropout: standard deviation of noise that is drawn with the key for dropout.
    """

    adam: Adam = Adam(lr=0.1, warmup=0)
    dropout: float = 0.0
    shape = (2,)
    scaling = Scaling(None)
    shared = held_out_shared = MappingProxyType({})

    @property
    def optimizer(self):
        return self.adam.create()

    @property
    def reports(self):
        return {"distance": self.distance, "quality": self.quality}

    def init(self, key):
        return {"mean": 3 + jax.random.normal(key, (2,)), "unused": jnp.zeros(())}

    def init_carry(self):
        return None

    def update_carry(self, carry, aux):
        return carry

    def values(self, dataset, split):
        return getattr(dataset, split), {}

    def example_conditions(self):
        return {}

    def loss(self, params, keys, carry, first_index, x, conditions):
        x += normal(sample_keys(keys["loss"], len(x), first_index), x.shape)
        x += self.dropout * jax.random.normal(keys["dropout"], x.shape)
        return jnp.mean(jnp.square(x - params["mean"])), {}

    def prepare(self, dataset, folder):
        return self

    def start(self, state):
        return state

    def metrics(self, params, key, batch, first_index):
        return {"loss": jnp.sum(jnp.square(batch[0] - params["mean"]), axis=1)}

    def held_out(self, result):
        return means(result, ("loss",))

    def pictures(self, params, step, dataset, folder):
        image = np.full((1, 4, 4, 3), step, np.uint8)
        return [pictures.save_grid(folder / "samples" / f"toy_{step}.png", image, 1, {})]

    def distance(self, params, step, dataset, folder):
        distance = np.linalg.norm(np.mean(dataset.test, axis=0) - params["mean"])
        return Report([f"distance {distance:.3f}"], {"distance": f"{distance:.3f}"}, [])

    def quality(self, params, step, dataset, folder):
        return Report([], {"gap": f"{step / 8} +- 0.1 (samples: 3)"}, [])

    def describe(self):
        return Description("toy", "to test tasks", "--mode=train", ["It knows a mean."])


def options(**changes):
    """The options of a small training without other sinks than files."""
    small = {"n_iters": 8, "batch_size": 8, "log_freq": 4, "sinks": ("jsonl",), "seed": 3}
    return Training(**small | changes)


def first_state(objective, seed=0, n_averages=1):
    """The state before the first step."""
    params = objective.init(jax.random.key(seed))
    made = state.with_params(objective, 0, params, params, n_averages)
    # Copies: a compiled program is given the buffers, each of them once.
    return jax.device_put(jax.tree.map(jnp.array, made), devices.state_shardings(MESH, made))


def program(objective, training):
    """The compiled program of a training."""
    abstract = state.abstract_state(objective, 0, MESH)
    return compiled(make_program(objective, training, MESH), abstract)
