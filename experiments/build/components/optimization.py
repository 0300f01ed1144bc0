"""The training of a config: devices, optimizer, averages and options."""

import dataclasses
from typing import Any

from jax.sharding import Mesh

from experiments.build.fields import choices, sections
from experiments.runs import devices
from experiments.training.averages.power import PowerAverage
from experiments.training.optimizer import OPTIMIZERS, Adam
from experiments.training.options import Average, Training
from experiments.training.schedules import SCHEDULES
from models.config import Config
from sde_lib.checks import check_name


def mesh(config: Config, its_devices: Any = None) -> Mesh:
    """The devices as config.mesh arranges them."""
    return devices.make_mesh(config.mesh.data, config.mesh.fsdp, its_devices)


def adam(config: Config) -> Adam:
    """The optimizer that config.optim describes."""
    optim = config.optim
    check_name("config.optim.optimizer", optim.optimizer, OPTIMIZERS)
    fields = {field.name for field in dataclasses.fields(OPTIMIZERS[optim.optimizer])}
    values = {name: optim[name] for name in fields - {"schedule"}}
    name, options = choices.LEARNING_RATE.read(config)
    return OPTIMIZERS[optim.optimizer](**values, schedule=SCHEDULES[name](**options))


def training(config: Config) -> Training:
    """The options of training."""
    options = config.training
    own = {field.name for field in dataclasses.fields(Training)} & set(options)
    return Training(
        **{name: options[name] for name in own - {"sinks"}},
        sinks=tuple(options.sinks),
        random_flip=config.data.random_flip,
        nan_to_num=config.optim.nan_to_num,
        resident_bytes=config.data.resident_bytes,
        max_unreadable=config.data.max_unreadable,
        seed=config.seed,
        average=average(config),
        optimizer=adam(config),
    )


def average(config: Config) -> Average | PowerAverage:
    """The averages of the weights that training keeps."""
    name, options = choices.AVERAGE.read(config)
    if name == "power":
        return PowerAverage(tuple(options["lengths"]))
    sections.check_needed(config, "model", "ema_halflife", ("ema_rampup",))
    return Average(**options)
