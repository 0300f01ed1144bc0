"""Every sampler by its name."""

import dataclasses
from typing import Any

from samplers.annealed_langevin import AnnealedLangevin
from samplers.edm import EDM, Heun
from samplers.euler import DDIM, DDPM, Euler, EulerAncestral
from samplers.euler_maruyama import EulerMaruyama
from samplers.predictor_corrector import PredictorCorrector
from samplers.probability_flow import ProbabilityFlow
from samplers.solver import NoiseLevelSolver
from sde_lib.checks import check_name

Sampler = AnnealedLangevin | EulerMaruyama | NoiseLevelSolver | PredictorCorrector | ProbabilityFlow

SAMPLERS: dict[str, Any] = {
    "annealed_langevin": AnnealedLangevin,
    "ddim": DDIM,
    "ddpm": DDPM,
    "edm": EDM,
    "euler": Euler,
    "euler_ancestral": EulerAncestral,
    "euler_maruyama": EulerMaruyama,
    "heun": Heun,
    "predictor_corrector": PredictorCorrector,
    "probability_flow": ProbabilityFlow,
}


def create(name: str, **options) -> Sampler:
    """The sampler `name`, with its own options.

    Raises:
        ValueError: an unknown name or option, or an impossible value.
    """
    check_name("sampler", name, SAMPLERS)
    for option in options:
        check_name(
            f"option of {name}", option, (f.name for f in dataclasses.fields(SAMPLERS[name]))
        )
    return SAMPLERS[name](**options)
