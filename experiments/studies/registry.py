"""Mode study: the study that config.study.name names, of those in STUDIES."""

import importlib

from experiments.commands.request import Request
from sde_lib.checks import check_name

STUDIES = {
    "discriminator": "experiments.studies.discriminator.study",
    "guidance": "experiments.studies.guidance.study",
    "memorisation": "experiments.studies.audit.memorisation",
    "one_step": "experiments.studies.exposure.one_step",
    "posterior": "experiments.studies.posterior.study",
}
"""Modules of studies by name, each with run(request). A new one is a file and a line here."""


def run(request: Request) -> None:
    """Runs the study.

    Raises:
        ValueError: an unknown study, or an impossible option of it.
    """
    name = request.config.study.name
    check_name("config.study.name", name, STUDIES)
    importlib.import_module(STUDIES[name]).run(request)
