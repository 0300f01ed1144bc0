"""Mode import: published weights become the first checkpoint of a run."""

import logging
from contextlib import closing
from pathlib import Path
from typing import Any

import jax

from experiments.build import components, configs, related
from experiments.commands.request import Request
from experiments.runs import devices
from experiments.runs import folder as folders
from experiments.training.checkpoints import Checkpoints
from experiments.training.state import with_params
from models import torch_import
from models.config import Config

LOG = logging.getLogger(__name__)


def run(request: Request) -> None:
    """Saves the weights in --checkpoint, their averages and their step, with a fresh optimizer.

    The other modes work in that folder, and training continues from there. The file is a .pth file
    of the PyTorch score_sde, or a .pkl file of an EDM network or an .npz file of its arrays. Those
    hold neither a step nor the weights before averaging: the averages are taken for both, at the
    last step of training.

    Raises:
        ValueError: the folder has checkpoints or another config, or the file does not fit.
    """
    config, folder = request.config, request.folder
    if request.checkpoint is None:
        raise ValueError("--mode=import needs --checkpoint=FILE.pth (score_sde) or FILE.pkl (EDM)")
    path = Path(request.checkpoint)
    configs.check_same(config, folder, configs.RESUME)
    if any((folder / "checkpoints").glob("[0-9]*")):
        raise ValueError(f"{folder} holds checkpoints already: choose another --workdir")
    step, params, ema_params = _read(config, path)
    state = with_params(related.skeleton(config), step, params, ema_params)
    mesh = components.mesh(config)
    state = jax.device_put(state, devices.state_shardings(mesh, state))
    with folders.locked(folder), closing(Checkpoints(folder)) as checkpoints:
        configs.save(config, folder)
        checkpoints.save(step, state)
    LOG.info("%s: the weights of %s, at step %d", folder, path, step)


def _read(config: Config, path: Path) -> tuple[int, Any, Any]:
    """The step, the parameters and their averages."""
    if path.suffix in (".npz", ".pkl"):
        params = torch_import.edm(torch_import.load_state_dict(path), config)
        return config.training.n_iters, params, params
    checkpoint = torch_import.load_pth(path)
    averages = torch_import.ema_state_dict(checkpoint)
    return (
        checkpoint["step"],
        torch_import.score_sde(checkpoint["model"], config),
        torch_import.score_sde(averages, config),
    )
