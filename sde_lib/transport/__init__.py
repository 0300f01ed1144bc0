"""Transport: pairs of data and noise, or data and another source, that are not independent."""

from sde_lib.transport.bridges import Brownian, at_eta, entropy
from sde_lib.transport.couplings import COUPLINGS, Assignment, Coupling, Sinkhorn, create

__all__ = [
    "COUPLINGS",
    "Assignment",
    "Brownian",
    "Coupling",
    "Sinkhorn",
    "at_eta",
    "create",
    "entropy",
]
