"""Runs as training leaves them, of random or given weights, without training."""

from contextlib import closing
from pathlib import Path
from typing import Any

import weights

from experiments.build import restored
from experiments.build.components import optimization
from experiments.build.fields import configs
from experiments.training.checkpoints import Checkpoints
from experiments.training.state import abstract_state, with_params


def save(config: Any, folder: Path, params: Any = None, steps: tuple[int, ...] = (1,)) -> Any:
    """Writes config.json and checkpoints of these steps; returns the weights.

    Args:
        config: of the run.
        folder: its folder.
        params: the weights, averaged ones too; None: random ones.
        steps: of the checkpoints.
    """
    objective, mesh = restored.skeleton(config), optimization.mesh(config)
    if params is None:
        params = weights.drawn(abstract_state(objective, config.seed, mesh).params)
    configs.save(config, folder)
    with closing(Checkpoints(folder)) as checkpoints:
        for step in steps:
            checkpoints.save(step, with_params(objective, step, params, params))
    return params
