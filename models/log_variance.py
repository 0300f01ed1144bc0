"""The uncertainty u of the loss at a noise level (Karras et al. 2024, arXiv 2312.02696)."""

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from models.edm2 import log_variance

LOG_VARIANCE = "log_variance"  # the name of its parameters, beside those of the network
OF_NETWORK = ("logvar_fourier", "logvar_linear")  # their names in an EDM2, which has its own


class LogVariance(nn.Module):
    """u(label), the logarithm of the loss's variance, trained beside any network.

    Attributes:
        features: random Fourier features of the label, which is log(sigma / alpha) / 4.
    """

    features: int

    @nn.compact
    def __call__(self, labels: Float[Array, " batch"]) -> Float[Array, " batch"]:
        return log_variance(self.features, labels)


def has_own(params: Any) -> bool:
    """True if the network has an uncertainty of its own among its parameters."""
    return OF_NETWORK[0] in params


def parameters(params: Any) -> Any:
    """The parameters of LogVariance among all that are trained."""
    return {name: params[name] for name in OF_NETWORK} if has_own(params) else params[LOG_VARIANCE]
