"""Loss weightings w(log-SNR): weights of the squared error of the predicted noise.

A network may predict the noise, x_0, v or the score; at a given noise level l = sigma / alpha their
errors are multiples of one another (that of x_0 is l times that of the noise). So one function of
SNR = 1 / l^2 defines the weighting, whatever the network predicts.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from sde_lib.batch import PerSample
from sde_lib.checks import check_in, check_name

Weighting = Callable[[PerSample], PerSample]
MIN_SNR_CAP = 5.0


def create(name: str, sigma_data: float = 0.5, bias: float = 2.0) -> Weighting | None:
    """Makes the weighting w(log-SNR) of this name; None for "variance", which is w = 1.

    "variance": the error of the noise (Ho et al. 2020, Eq. 14); "snr" in k-diffusion.
    "x0": the error of x_0, w = l^2.
    "v": the error of v if alpha^2 + sigma^2 = 1, w = 1 + l^2 (Salimans & Ho 2022, "SNR + 1").
    "velocity": the error of noise - x_0 with alpha = 1 - t, sigma = t, w = (1 + l)^2: the loss of
        rectified flow (Liu et al. 2022) and flow matching (Lipman et al. 2022).
    "edm": w = (l^2 + sigma_data^2) / sigma_data^2 (Karras et al. 2022, Table 1).
    "min_snr": min(SNR, 5) on x_0, w = min(1, 5 l^2) (Hang et al. 2023, arXiv 2303.09556).
    "soft_min_snr": k-diffusion's and HDiT's, w = l^2 / (l^2 + sigma_data^2) (Crowson et al. 2024,
        arXiv 2401.11605).
    "truncated_snr": max(SNR, 1) on x_0, w = max(1, l^2) (Salimans & Ho 2022, Section 4).
    "sigmoid": w = sigmoid(bias - log-SNR) (Kingma & Gao 2023, arXiv 2303.00848; simpler diffusion,
        Hoogeboom et al. 2024). Both integrate over log-SNR: use the noise density "log_uniform".
        With bias 0 it is P2's (Choi et al. 2022).

    Args:
        name: one of the above.
        sigma_data: standard deviation of the data in "edm" and "soft_min_snr".
        bias: log-SNR at which the weight of "sigmoid" is 1/2.

    Raises:
        ValueError: an unknown name, a sigma_data that is not positive, or a bias that is not
            finite.
    """
    check_in("(0, inf)", **{"sigma_data of the weighting": sigma_data})
    check_in("(-inf, inf)", **{"bias of the weighting": bias})
    weightings = {
        "variance": None,
        "x0": lambda log_snr: jnp.exp(-log_snr),
        "v": lambda log_snr: 1 + jnp.exp(-log_snr),
        "velocity": lambda log_snr: (1 + jnp.exp(-0.5 * log_snr)) ** 2,
        "edm": lambda log_snr: 1 + jnp.exp(-log_snr) / sigma_data**2,
        "min_snr": lambda log_snr: jnp.minimum(1.0, MIN_SNR_CAP * jnp.exp(-log_snr)),
        "soft_min_snr": lambda log_snr: jax.nn.sigmoid(-2 * math.log(sigma_data) - log_snr),
        "truncated_snr": lambda log_snr: jnp.maximum(1.0, jnp.exp(-log_snr)),
        "sigmoid": lambda log_snr: jax.nn.sigmoid(bias - log_snr),
    }
    check_name("weighting", name, weightings)
    return weightings[name]
