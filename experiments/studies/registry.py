"""Mode study: the study that config.study.name names, of those in STUDIES."""

import importlib

from experiments.build.fields import choices
from experiments.commands.request import Request
from sde_lib.checks import check_name

STUDIES = {
    "autoguidance": "experiments.studies.guidance.toy",
    "discriminator": "experiments.studies.discriminator.study",
    "forward": "experiments.studies.pictures.forward",
    "grid": "experiments.studies.grid.study",
    "guidance": "experiments.studies.guidance.study",
    "langevin": "experiments.studies.pictures.learned_langevin",
    "memorisation": "experiments.studies.audit.memorisation",
    "one_step": "experiments.studies.exposure.one_step",
    "posterior": "experiments.studies.posterior.study",
    "schedules": "experiments.studies.pictures.schedules",
    "trajectories": "experiments.studies.pictures.trajectories",
}
"""Modules of studies by name, each with run(request).

A new one is a file, a line here, and a section of its options in configs/default.py.
"""


def run(request: Request) -> None:
    """Runs the study.

    Raises:
        ValueError: an unknown study, an option of another one, or an impossible one of its own.
    """
    check_name("config.study.name", request.config.study.name, STUDIES)
    name, _ = choices.STUDY.read(request.config)
    importlib.import_module(STUDIES[name]).run(request)
