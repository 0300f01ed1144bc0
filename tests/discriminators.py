"""Runs of a tiny model of points, sets of its samples, and configs of discriminators of them."""

from contextlib import closing

import jax
import numpy as np

from configs import points
from experiments.build import data, restored
from experiments.build.components import specs
from experiments.build.fields import configs
from experiments.runs.samples import write_samples
from experiments.training.checkpoints import Checkpoints
from experiments.training.state import with_params

N_FAKES = 800  # of points, 20,000 and 2,000 of which are data: 727 and 73


def model_config():
    """The config of a score model of points."""
    config = points.get_config("mixture")
    config.model.nf, config.model.num_res_blocks = 8, 1
    config.sampling.method, config.sampling.n_steps = "euler", 4
    config.training.update(n_iters=20, batch_size=64, eval_freq=100, log_freq=10, at_end=())
    config.training.sinks = ("jsonl",)
    config.noise_density.name = "log_uniform"
    return config


def config_of(folder, **model):
    """The config of a discriminator of the samples in a folder."""
    config = model_config()
    config.data.generated = str(folder / "generated.npz")
    config.model.update({"name": "discriminator", "encoder": "mlp", **model})
    return config


def save_run(config, folder):
    """Writes a run of initial weights, at step 1, and returns the weights."""
    objective = restored.skeleton(config)
    params = objective.init(jax.random.key(config.seed))
    configs.save(config, folder)
    with closing(Checkpoints(folder)) as checkpoints:
        checkpoints.save(1, with_params(objective, 1, params, params))
    return params


def save_samples(folder, config=None, n=N_FAKES, **about):
    """Writes a set of samples of a config's model."""
    config = config or model_config()
    about = data.sample_identity(config) | {"model": "", "step": 1} | about
    samples = np.random.RandomState(0).randn(n, *specs.data_shape(config)).astype("f4")
    write_samples(folder / "generated.npz", about, samples=samples)
