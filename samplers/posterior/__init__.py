"""Posterior samplers: samples of x_0 given a measurement y = operator(x_0) + noise, by name.

base.py states how they are called. One paper a file; a new method is a frozen dataclass with the
protocol PosteriorMethod, and a line in METHODS. samplers/measurement.py has the operators.

    method = posterior.create("moment_matching", n_iterations=3)
    samples = method(key, sampler, sde, score_fn, operator, y, shape, noise_std=0.1)
"""

from typing import Any

from samplers.posterior.base import PosteriorMethod, ScoreMethod
from samplers.posterior.checks import Operator, check_linear, check_operator
from samplers.posterior.dps import DPS
from samplers.posterior.linearized import Linearized
from samplers.posterior.moment_matching import MomentMatching
from samplers.posterior.pigdm import PiGDM
from samplers.posterior.replacement import Replacement
from samplers.posterior.twisted_smc import TwistedSMC
from sde_lib.checks import create_by_name

METHODS: dict[str, Any] = {
    "dps": DPS,
    "moment_matching": MomentMatching,
    "pigdm": PiGDM,
    "replacement": Replacement,
    "twisted_smc": TwistedSMC,
}
"""Posterior samplers by name."""


def create(name: str, **options: Any) -> PosteriorMethod:
    """Makes the posterior sampler `name` in METHODS. The options are its fields.

    Raises:
        ValueError: an unknown name or option, or a value out of range.
    """
    return create_by_name("posterior method", METHODS, name, options)


__all__ = [
    "DPS",
    "METHODS",
    "Linearized",
    "MomentMatching",
    "Operator",
    "PiGDM",
    "PosteriorMethod",
    "Replacement",
    "ScoreMethod",
    "TwistedSMC",
    "check_linear",
    "check_operator",
    "create",
]
