"""Mode import: a published PyTorch checkpoint becomes the first checkpoint of a run."""

import logging
from contextlib import closing
from pathlib import Path

import jax
import jax.numpy as jnp

from experiments import build, sharding
from experiments import workdir as workdirs
from experiments.checkpoint import Checkpoints
from experiments.state import TrainState
from models import torch_import
from models.config import Config

LOG = logging.getLogger(__name__)


def run(config: Config, workdir: Path, path: Path) -> None:
    """Saves the weights in `path`, their averages and its step, with a fresh optimiser.

    From there the modes that use a model do, and training goes on.

    Args:
        config: of the network that the checkpoint holds.
        workdir: the run's folder; made if need be.
        path: a .pth file of the PyTorch score_sde.

    Raises:
        ValueError: the folder has checkpoints or another config, or the file does not fit.
    """
    workdirs.check_owner(config, workdir)
    if any((workdir / "checkpoints").glob("[0-9]*")):
        raise ValueError(f"{workdir} holds checkpoints already: choose another --workdir")
    checkpoint = torch_import.load_pth(path)
    step = checkpoint["step"]
    params = torch_import.score_sde(checkpoint["model"], config)
    ema_params = torch_import.score_sde(torch_import.ema_state_dict(checkpoint), config)
    opt_state = build.make_optimizer(config).init(params)
    state = TrainState(jnp.asarray(step, jnp.int32), params, ema_params, opt_state)
    state = jax.device_put(state, sharding.of_state(sharding.make_mesh(config), state))
    workdirs.claim(config, workdir)
    with closing(Checkpoints(workdir)) as checkpoints:
        checkpoints.save(step, state)
    LOG.info("%s: the weights of %s, at step %d", workdir, path, step)
