"""Couplings and bridges from configs, and what does not go with them and with sources."""

from typing import Any

import sde_lib
from experiments.build.fields import choices, sections
from models.config import Config
from sde_lib import transport

CONDITIONS = (  # fields of conditions, whose samples would get noise that depends on them
    *("model.class_conditional", "model.text", "model.vector_dim", "model.attributes"),
    *("image_condition.name", "model.low_res_size"),
)
WHOLE = {  # fields that go neither with couplings nor with sources
    "data.missing": "of which no sample is whole",
    "data.augment": "which changes samples, and not their partners",
    "latent.name": "whose latents change in training",
    "eval.enable_bound": "the variational bound of a diffusion",
}
COUPLED = WHOLE | dict.fromkeys(
    CONDITIONS, "a condition, given which the coupled noise would not be that of sampling"
)
SOURCED = WHOLE | {
    "data.random_flip": "which flips samples, and not their partners",
    "model.low_res_size": "which starts from noise",
    "model.class_conditional": "which is not supported",
}


def losses(config: Config, sde: sde_lib.SDE) -> dict[str, Any]:
    """The coupling and the bridges of the loss, as options of sde_lib.perturb; {} without.

    Raises:
        ValueError: an impossible option, a group that does not divide a microbatch, or other fields
            that do not go with them.
    """
    name, options = choices.COUPLING.read(config)
    bridge, sourced = bool(config.objective.bridge), bool(config.source.name)
    if bridge and not (name or sourced):
        raise ValueError(
            "config.objective.bridge is True, but without a coupling and a source it changes "
            "nothing: set config.source.name or config.coupling.name, or leave it out"
        )
    if not name:
        return {"bridge": True} if bridge else {}
    check(config, COUPLED, "coupling.name")
    if config.source.name in ("pairs", "reflow"):
        raise ValueError(
            f"config.source.name is {config.source.name!r}, whose samples are paired already: "
            "leave out config.coupling.name"
        )
    if name == "sinkhorn" and bridge and "entropy" not in options:
        options["entropy"] = transport.entropy(sde, from_noise=not sourced)
    try:
        made = transport.create(name, **options)
    except ValueError as error:
        raise ValueError(f"config.coupling.{error}") from error
    size = config.training.batch_size // config.training.n_microbatches
    if size % made.group:
        raise ValueError(
            f"config.coupling.group is {made.group}, and a microbatch has {size} samples "
            "(config.training.batch_size / n_microbatches): it must have whole groups"
        )
    return {"coupling": made, "bridge": bridge}


def only_eta(config: Config) -> float | None:
    """The one amount of noise, eta, with which samplers may use the model's score; None: any."""
    if config.objective.bridge:
        return 1.0
    return 0.0 if config.coupling.name or config.source.name else None


def check(config: Config, fields: dict[str, str], of: str) -> None:
    """Raises ValueError for one of these fields that is set, which does not go with another one."""
    for field, why in fields.items():
        if value := sections.get(config, field):
            raise ValueError(
                f"config.{field} is {value!r}, {why}: leave it out, or leave out config.{of}"
            )
