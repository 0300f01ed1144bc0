"""Checks that related runs were trained alike: on the same noise, data, latents and conditions."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from experiments.build import related, restored
from experiments.build.components import diffusion, specs
from experiments.build.fields import sections
from experiments.data import latents
from experiments.data import scaling as scalings
from experiments.data.scaling import Scaling
from experiments.runs import folder as folders
from experiments.runs import parts
from models.config import Config


def check_noise(
    ours: Config, theirs: Config, folder: Path, what: str, field: str, any_sde: bool = False
) -> None:
    """Raises ValueError unless a related model sees the same noisy data, or data of any SDE."""
    aspects = ("shape of data", "range of data", "autoencoder", "latents")
    check_equal(ours, theirs, folder, what, field, aspects if any_sde else ("SDE", *aspects))
    if ours.data.autoencoder and (folder / latents.RECORD).exists():
        ours_in = Path(ours.data.autoencoder)
        made, _ = restored.weights(
            related.autoencoder_config(ours), ours_in, field="config.data.autoencoder"
        )
        if folders.read_record(folder / latents.RECORD)["autoencoder"] != parts.digest(made):
            raise ValueError(
                f"the {what} in {folder} knows latents of another autoencoder than that now in "
                f"{ours_in}: take one of the same latents"
            )


def check_equal(
    ours: Config, theirs: Config, folder: Path, what: str, field: str, aspects: Iterable[str]
) -> None:
    """Raises ValueError if the model in `field` differs in one of these aspects, of ASPECTS."""
    for name in aspects:
        here, there = ASPECTS[name](ours), ASPECTS[name](theirs)
        if here != there:
            pair = (there or "none", here or "none")
            raise ValueError(
                f"the {name} of the {what} in {folder} is {pair[0]}, here {pair[1]}: set "
                f"{field} to the folder of a run with the same {name}"
            )


def conditions(ours: Config) -> dict[str, Any]:
    """The conditions of a score model, as the fields that a model without any leaves unset."""
    fields = [field for field in CONDITIONS if sections.is_set(ours, field)]
    classes = ("data.num_classes",) if ours.model.class_conditional else ()
    return {field: sections.get(ours, field) for field in (*fields, *classes)}


CONDITIONS = (
    *("model.class_conditional", "model.label_confidence", "model.text", "model.text_length"),
    *("model.text_width", "model.vector_dim", "model.attributes", "model.low_res_size"),
    *("image_condition.name", "data.missing", "latent.name"),
)
"""Fields of a score model's conditions, and of what else it sees beside noisy data."""
ASPECTS: dict[str, Callable[[Config], Any]] = {
    "SDE": diffusion.sde,
    "shape of data": related.shape,
    "range of data": lambda config: specs.scaling(config).range,
    "conditions": conditions,
    "number of classes": lambda config: config.data.num_classes,
    "autoencoder": lambda config: config.data.autoencoder,
    "latents": lambda config: (tuple(config.data.latent_mean), tuple(config.data.latent_std)),
}
WORK_WITH = (
    *("guidance.auto.run", "guidance.classifier.run", "guidance.discriminator.run"),
    "sampling.low_res",
)
"""Fields that hold runs which see the same model space."""


def check_moments(ours: Config, scaling: Scaling) -> None:
    """Raises ValueError unless runs that our model works with standardise the data as it does."""
    for field in filter(partial(sections.get, ours), WORK_WITH if scaling.standardized else ()):
        if scalings.of_run(scaling, Path(sections.get(ours, field))) != scaling:
            raise ValueError(
                f"the run in config.{field} was trained on data of another mean and standard "
                "deviation: train one on the same data"
            )
