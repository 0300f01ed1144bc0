"""Mode import: published weights become the first checkpoint of a run."""

import logging
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments.runs import sharding
from experiments.runs import workdir as workdirs
from experiments.training.checkpoint import Checkpoints
from experiments.training.state import TrainState, init_opt_state
from models import torch_import
from models.config import Config

LOG = logging.getLogger(__name__)


def run(config: Config, workdir: Path, path: Path) -> None:
    """Saves the weights in `path`, their averages and its step, with a fresh optimiser.

    From there the modes that use a model do, and training goes on.

    Args:
        config: of the network that the file holds.
        workdir: the run's folder; made if need be.
        path: a .pth file of the PyTorch score_sde, or an .npz file of an EDM network's averages
            (torch_import.load_npz tells how to make one). The latter come without a step, and
            without the weights that they average: they stand for both, at the last step of the
            config's training.

    Raises:
        ValueError: the folder has checkpoints or another config, or the file does not fit.
    """
    workdirs.check_owner(config, workdir)
    if any((workdir / "checkpoints").glob("[0-9]*")):
        raise ValueError(f"{workdir} holds checkpoints already: choose another --workdir")
    step, params, ema_params = _read(config, path)
    opt_state = init_opt_state(config, params)
    state = TrainState(jnp.asarray(step, jnp.int32), params, ema_params, opt_state)
    state = jax.device_put(state, sharding.of_state(sharding.make_mesh(config), state))
    workdirs.claim(config, workdir)
    with closing(Checkpoints(workdir)) as checkpoints:
        checkpoints.save(step, state)
    LOG.info("%s: the weights of %s, at step %d", workdir, path, step)


def _read(config: Config, path: Path) -> tuple[int, Any, Any]:
    """The step, the parameters and their averages."""
    if path.suffix == ".npz":
        params = torch_import.edm(torch_import.load_npz(path), config)
        return config.training.n_iters, params, params
    if path.suffix == ".pkl":
        raise ValueError(
            f"{path} is a pickle, which would run its own code: make an .npz file of its arrays as "
            "models.torch_import.load_npz tells"
        )
    checkpoint = torch_import.load_pth(path)
    averages = torch_import.ema_state_dict(checkpoint)
    return (
        checkpoint["step"],
        torch_import.score_sde(checkpoint["model"], config),
        torch_import.score_sde(averages, config),
    )
