"""The numbers that the training data advise, by the fields of the config that hold them."""

import inspect
import logging
import math
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.build import data, tasks
from experiments.build.components import diffusion, networks, specs
from experiments.build.fields import choices, configs, sections
from experiments.data import latents
from experiments.data.dataset import Dataset
from experiments.data.inspection import rules
from experiments.data.inspection.measure import MOST, Measures, measure, subset
from experiments.data.inspection.rules import Advice
from experiments.runs import folder as folders
from models.config import Config
from sde_lib import noise_density

FEW = 256  # samples that are measured before every new training
FAR_DATA = 2.0  # factor between config.model.sigma_data and the data's std that is warned of
FAR_MAX = 3.0  # factor from sigma_max to the largest distance that is warned of
LOG = logging.getLogger(__name__)


def measured(config: Config, found: Dataset) -> Measures:
    """Measures of the training images in model space, or of their latents if a model sees those."""
    if config.data.autoencoder:
        found = latents.encode_dataset(found, data.autoencoder(config))
    return measures(config, found.train)


def measures(config: Config, train: Any, most: int = MOST) -> Measures:
    """Measures in model space of training data as a model has them."""
    scaling = specs.scaling(config)
    if scaling.standardized:  # a run's own moments are those of all samples
        values = subset(train, np.asarray, most).astype(np.float64)
        axes = tuple(range(values.ndim - 1))
        seen = np.ma.masked_array(values, np.isnan(values))
        mean, std = (each.filled(0) for each in (seen.mean(axis=axes), seen.std(axis=axes)))
        if not std.all():
            constant = ", ".join(map(str, np.flatnonzero(std == 0)))
            raise ValueError(
                f"the training data are constant in channel or column {constant}: leave it out, as "
                "it has no density"
            )
        scaling = scaling.with_moments({"mean": mean.tolist(), "std": std.tolist()})

    def to_model(batch: np.ndarray) -> np.ndarray:
        return np.asarray(scaling.to_model(None, jnp.asarray(batch), dequantize=False))  # pyright: ignore[reportArgumentType]

    return measure(train, to_model, most, scaling.missing)


def advise(config: Config, found: Measures) -> dict[str, Advice]:
    """Advice for each field of configs.ADVISED, whether the config uses it or not.

    Raises:
        ValueError: all samples are equal.
    """
    if not found.largest:
        raise ValueError(
            f"all {found.n:,} training samples that were compared are equal: there is nothing to "
            "learn; give other data"
        )
    scaling, spread, gap = specs.scaling(config), rules.noise_std(found), None
    if scaling.levels is not None:
        gap = (scaling.range[1] - scaling.range[0]) / (scaling.levels - 1)
    if config.noise_density.name == "log_logistic":
        scale = round(float(spread.value) * math.sqrt(3) / math.pi, 2)
        spread = Advice(scale, f"{spread.reason}; a logistic's scale is std sqrt(3) / pi")
    return {
        "model.sigma_data": rules.sigma_data(found),
        "model.sigma_max": rules.sigma_max(found),
        "model.sigma_min": rules.sigma_min(found, gap),
        "noise_density.mean": rules.noise_mean(found),
        "noise_density.std": spread,
    }


def used(config: Config) -> set[str]:
    """The fields of configs.ADVISED that the config's SDE, network and noise density use."""
    sde, density = (choices.SDE.components, choices.NOISE_DENSITY.components)
    fields = {*sde[config.training.sde].values(), *density[config.noise_density.name].values()}
    fields |= {"model.sigma_data"} if networks.uses_sigma_data(config) else set()
    return fields & {*configs.ADVISED}


def settled(config: Config, folder: Path) -> tuple[Config, Dataset | None]:
    """The config with the advised numbers, if config.data.auto asks for them, and the data.

    Fields that differ from their defaults stay. A run that exists keeps the numbers that it has.

    Args:
        config: of a training.
        folder: the run's.

    Returns:
        The config, and the data set if it was loaded.
    """
    if not config.data.auto:
        return config, None
    config = config.copy_and_resolve_references()
    if folders.has_run(folder):
        configs.take_advised(config, folder)
        return config, None
    tasks.task(config)  # checks the fields before data are loaded
    found = data.images(config)
    advised, ours = advise(config, measured(config, found)), used(config)
    for field in filter(ours.__contains__, advised):
        advice = advised[field]
        if sections.is_set(config, field):
            kept = sections.get(config, field)
            LOG.info("config.%s stays %s; the data advise %s", field, kept, advice.value)
            continue
        sections.put(config, field, advice.value)
        LOG.info("config.%s = %s by the data: %s", field, advice.value, advice.reason)
    return config, found


def warn(config: Config, train: Any) -> None:
    """Warns, in a line each, of numbers in the config that are far from those of some samples."""
    on = networks.uses_sigma_data(config), config.training.sde == "vesde"
    if not any(on):
        return
    seen, model = measures(config, train, FEW), config.model
    if on[0] and seen.std and not 1 / FAR_DATA < model.sigma_data / seen.std < FAR_DATA:
        LOG.warning(
            "config.model.sigma_data is %g, but the standard deviation of the training data is "
            "%.3g in model space: set it to that, or config.data.auto=True",
            *(model.sigma_data, seen.std),
        )
    if on[1] and model.sigma_max < seen.largest / FAR_MAX:
        LOG.warning(
            "config.model.sigma_max is %g, but the largest distance among %d training samples is "
            "%.3g: set it to about that, or config.data.auto=True",
            *(model.sigma_max, seen.n, seen.largest),
        )


def table(config: Config, found: Measures) -> list[dict[str, Any]]:
    """Rows with the keys quantity, measured, field, config, advice and reason."""
    few = "" if found.n == found.total else f" of {found.n:,} samples"
    measured = {
        "model.sigma_data": ("standard deviation", f"{found.std:.3g}"),
        "model.sigma_max": ("largest distance", f"{found.largest:.3g}{few}"),
        "model.sigma_min": ("nearest neighbours", f"median {found.nearest:.3g}{few}"),
        "noise_density.mean": ("density of noise, mean", f"std {found.std:.3g}"),
        "noise_density.std": ("density of noise, std", " x ".join(map(str, found.shape))),
    }
    advised, ours, rows = advise(config, found), used(config), []
    for field, (quantity, text) in measured.items():
        value = _value(config, field) if field in ours else None
        row = {"quantity": quantity, "field": field, "measured": text, "config": value}
        reason = advised[field].reason
        if field not in ours:
            reason = f"(not used by this config) {reason}"
        rows.append(row | {"advice": advised[field].value, "reason": reason})
    return [*rows, _sde_row(config, found), _depth_row(config, found)]


def _value(config: Config, field: str) -> Any:
    """The value of a field; the noise density's own default in place of None."""
    value = sections.get(config, field)
    name = field.rpartition(".")[2]
    return (
        inspect.signature(noise_density.create).parameters[name].default if value is None else value
    )


def _sde_row(config: Config, found: Measures) -> dict[str, Any]:
    name = config.training.sde
    reaches = {name: _reach(diffusion.sde(config))}
    for other in ("edm", "vpsde"):
        reaches.setdefault(other, _reach(choices.SDES[other][0]()))
    advice = rules.sde(found, name, reaches)
    return {
        "quantity": "SDE",
        "measured": f"distances to {found.largest:.3g}",
        "field": "training.sde",
        "config": name,
        "advice": advice.value,
        "reason": advice.reason,
    }


def _depth_row(config: Config, found: Measures) -> dict[str, Any]:
    advice = rules.halvings(found.shape)
    levels = config.model.get("ch_mult")
    return {
        "quantity": "halvings of the grid",
        "measured": " x ".join(map(str, found.shape[:-1] or found.shape)),
        "field": "model.ch_mult",
        "config": len(levels) - 1 if levels else None,
        "advice": advice.value,
        "reason": advice.reason,
    }


def _reach(sde: Any) -> float:
    """The largest noise level sigma / alpha; that of CLD, whose state is larger, is not known."""
    return float(sde.noise_level(jnp.float32(sde.t_max))) if sde.is_scalar else 0.0
