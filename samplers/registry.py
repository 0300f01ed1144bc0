"""Every sampler by its name."""

import dataclasses

from samplers.euler_maruyama import EulerMaruyama
from samplers.predictor_corrector import PredictorCorrector
from samplers.probability_flow import ProbabilityFlow
from sde_lib.checks import check_name

SAMPLERS = {
    "euler_maruyama": EulerMaruyama,
    "predictor_corrector": PredictorCorrector,
    "probability_flow": ProbabilityFlow,
}


def create(name: str, **options) -> EulerMaruyama | PredictorCorrector | ProbabilityFlow:
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
