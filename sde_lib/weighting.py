"""Weightings of training: w(log-SNR), the weight of the squared error of the predicted noise.

The errors of all that a network can be said to predict are multiples of one another: with the noise
level l = sigma / alpha and SNR = 1 / l^2, that of x_0 is l times that of the noise. So a weighting
is one function, whatever the network predicts.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from sde_lib.batch import PerSample
from sde_lib.checks import check_name

Weighting = Callable[[PerSample], PerSample]
MIN_SNR_CAP = 5.0


def create(name: str, sigma_data: float = 0.5, bias: float = 2.0) -> Weighting | None:
    """The weighting w(log-SNR) of this name; None for "variance", which is w = 1.

    "variance": the error of the noise (Ho et al. 2020, Eq. 14), k-diffusion's "snr".
    "x0": the error of x_0, w = l^2.
    "v": that of v under a variance-preserving SDE, w = 1 + l^2 (Salimans & Ho 2022, "SNR + 1").
    "velocity": that of noise - x_0 with alpha = 1 - t, sigma = t, w = (1 + l)^2: the loss of
        rectified flow (Liu et al. 2022) and flow matching (Lipman et al. 2022).
    "edm": w = (l^2 + sigma_data^2) / sigma_data^2 (Karras et al. 2022, Table 1).
    "min_snr": min(SNR, 5) on x_0, w = min(1, 5 l^2) (Hang et al. 2023, arXiv 2303.09556).
    "soft_min_snr": k-diffusion's and HDiT's, w = l^2 / (l^2 + sigma_data^2) (Crowson et al. 2024,
        arXiv 2401.11605).
    "truncated_snr": max(SNR, 1) on x_0, w = max(1, l^2) (Salimans & Ho 2022, Section 4).
    "sigmoid": w = sigmoid(bias - log-SNR) (Kingma & Gao 2023, arXiv 2303.00848; simpler diffusion,
        Hoogeboom et al. 2024). Their integral is over log-SNR: the noise density "log_uniform".
        With bias 0 it is P2's (Choi et al. 2022).

    Args:
        name: one of these.
        sigma_data: standard deviation of the data, of "edm" and "soft_min_snr".
        bias: of "sigmoid", the log-SNR at which the weight is 1/2.

    Raises:
        ValueError: an unknown name, or a sigma_data that is not positive.
    """
    if not sigma_data > 0:
        raise ValueError(f"sigma_data of the weighting is {sigma_data}: it must be positive")
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
