"""Every sampler by its name."""

import dataclasses

from samplers.annealed_langevin import AnnealedLangevin
from samplers.euler_maruyama import EulerMaruyama
from samplers.predictor_corrector import PredictorCorrector
from samplers.probability_flow import ProbabilityFlow
from sde_lib.checks import check_name

SAMPLERS = {
    "annealed_langevin": AnnealedLangevin,
    "euler_maruyama": EulerMaruyama,
    "predictor_corrector": PredictorCorrector,
    "probability_flow": ProbabilityFlow,
}


Sampler = AnnealedLangevin | EulerMaruyama | PredictorCorrector | ProbabilityFlow


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
