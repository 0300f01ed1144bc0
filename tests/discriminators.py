"""Runs of a tiny model of points, sets of its samples, and configs of discriminators of them."""

import json

import jax.numpy as jnp
import numpy as np
from experiments.training.checkpoint import Checkpoints

import models
from configs import points
from experiments import build
from experiments.commands import generate
from experiments.runs import parts, workdir
from experiments.training import state

N_FAKES = 800  # of points, 20,000 and 2,000 of which are data: 727 and 73


def model_config():
    config = points.get_config("moons")
    config.model.nf, config.model.num_res_blocks = 8, 1
    config.sampling.method, config.sampling.n_steps = "euler", 4
    config.training.update(n_iters=20, batch_size=64, eval_freq=100, log_freq=10)
    config.training.noise_density = "log_uniform"
    return config


def config_of(folder, **model):
    """Of a discriminator of what is in the folder."""
    config = model_config()
    config.data.generated = str(folder / "generated.npz")
    config.model.update({"name": "discriminator", "encoder": "mlp", **model})
    return config


def save_run(config, folder):
    model = models.create(config)
    workdir.claim(config, folder)
    checkpoints = Checkpoints(folder)
    made = state.init_state(config, model)
    checkpoints.save(1, made._replace(step=jnp.array(1)))
    checkpoints.close()
    return made.ema_params


def save_samples(folder, config=None, n=N_FAKES, levels=None, **about):
    config = config or model_config()
    about = generate.identity(config, levels) | {"model": "", "step": 1} | about
    samples = np.random.RandomState(0).randn(n, *build.image_shape(config)).astype("f4")
    parts.save(folder / "generated.npz", samples=samples, about=np.asarray(json.dumps(about)))
