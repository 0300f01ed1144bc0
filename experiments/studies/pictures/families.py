"""The SDEs that a picture compares, by their names in config.training.sde."""

from collections.abc import Iterable

from experiments.build.components import diffusion
from experiments.build.fields import choices
from models.config import Config
from sde_lib import SDE
from sde_lib.checks import check_name

NAMES = tuple(name for name in choices.SDES if name not in ("cld", "chain"))
"""SDEs in continuous time with one alpha and sigma."""


def sdes(config: Config, field: str, names: Iterable[str]) -> dict[str, SDE]:
    """The SDEs of these names. The one that the config chooses has the numbers of the config.

    Raises:
        ValueError: a name that is not in NAMES, or impossible numbers.
    """
    made = {}
    for name in names:
        check_name(field, name, NAMES)
        own = name == config.training.sde and config.training.continuous
        made[name] = diffusion.sde(config) if own else choices.SDES[name][0]()
    return made
