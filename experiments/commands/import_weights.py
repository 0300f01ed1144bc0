"""Mode import: a published model becomes a run, which every other mode takes.

The config is the one given by --config or, without it, the model's own
(experiments/build/published.py). The run's folder gets config.json, imported/ with the weights, a
model card, and published.json with the model's source and license.
"""

import logging
from typing import Any

import models
from experiments.build import data, published, related, restored
from experiments.build.fields import configs
from experiments.build.published import RECORD
from experiments.build.reports import ALWAYS
from experiments.commands.request import Request
from experiments.runs import card, files
from experiments.runs import folder as folders
from experiments.training import imported
from models.config import Config, data_shape
from models.published import skeleton

LOG = logging.getLogger(__name__)


def run(request: Request) -> None:
    """Writes the averaged weights of a published model, and those before averaging if it has them.

    A file that does not know its step gets the last one of the config, so that training is over.

    Raises:
        ValueError: the folder has weights or another config, or the file does not fit.
    """
    config, folder = related.in_latents(request.config), request.folder
    if request.checkpoint is None:
        raise ValueError("--mode=import needs --checkpoint: a published file, folder or hub name")
    model = published.open_(request.checkpoint)
    configs.check_same(config, folder, configs.RESUME)
    if (folder / imported.FILE).exists() or any((folder / "checkpoints").glob("[0-9]*")):
        raise ValueError(f"{folder} holds weights already: choose another --workdir")
    restored.skeleton(config)  # refuses a config that no run can have
    bare = skeleton(config, related.shape(config))
    averaged, last = model.convert(bare, model.found.arrays), model.found.last
    last = None if last is None else model.convert(bare, last)
    step = config.training.n_iters if model.found.step is None else model.found.step
    record = model.record() | {"assumed": model.assumed(config)}
    n_params = sum(leaf.size for leaf in bare.shapes.values())
    _say(record, config, n_params)
    with folders.locked(folder):
        imported.write(folder, step, bare.shapes, averaged, last)
        data.claim_latents(config, folder)
        files.write_json(folder / RECORD, record)
        rows = configs.differences(config, ALWAYS)
        files.write_text(folder / imported.CARD, card.imported(record, n_params, rows))
        configs.save(config, folder)
    LOG.info("%s: the weights of %s, at step %d", folder, model.path, step)


def _say(record: dict[str, Any], config: Config, n_params: int) -> None:
    """Logs what was found, and warns of what the file does not tell and the license forbids."""
    labelled = config.model.get("class_conditional")
    classes = f", {config.data.num_classes} classes" if labelled else ""
    noise = f", SDE {config.training.sde}, parametrization {config.model.parametrization}"
    noise = "" if models.kind(config) == "autoencoder" else noise
    LOG.info(
        "%s: %s with %s parameters, %s%s%s; license: %s",
        record["model"],
        config.model.name,
        f"{n_params:,}",
        " x ".join(map(str, data_shape(config))),
        classes,
        noise,
        record["license"],
    )
    if assumed := [f"config.{name} = {value!r}" for name, value in record["assumed"].items()]:
        LOG.warning(
            "the file does not tell these fields, which are as is usual in this format "
            "(--config.FIELD=VALUE changes one):\n  %s",
            "\n  ".join(assumed),
        )
    if not record["commercial"]:
        LOG.warning("the license of these weights, %s, forbids commercial use", record["license"])
