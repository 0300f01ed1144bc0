"""Chains of betas by name, as DDPM's family trains them, and the SDE through their noise levels.

Step i = 1, ..., N of a chain is x_i = sqrt(1 - beta_i) x_{i-1} + sqrt(beta_i) z.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from sde_lib.checks import check_at_least, check_in, check_known, check_name
from sde_lib.table import Table, from_betas

Betas = Float[np.ndarray, " levels"]
MOST_BETA = 0.999  # where a schedule's alpha vanishes at its end (Nichol & Dhariwal 2021)
LEAST_ALPHA2 = 2.0**-24
"""The most that alpha^2 of the last level is where its signal-to-noise ratio is meant to be 0."""


def clipped_betas(alpha2: Float[np.ndarray, " levels+1"]) -> Betas:
    """The betas of the levels alpha^2 of a schedule at i = 0, ..., N, clipped at MOST_BETA."""
    return np.minimum(1 - alpha2[1:] / alpha2[:-1], MOST_BETA)


def linear(n_levels: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> Betas:
    """Even steps in beta (Ho et al. 2020)."""
    return np.linspace(beta_start, beta_end, n_levels)


def scaled_linear(n_levels: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> Betas:
    """Even steps in sqrt(beta) (Rombach et al. 2022)."""
    return np.linspace(math.sqrt(beta_start), math.sqrt(beta_end), n_levels) ** 2


def sigmoid(n_levels: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> Betas:
    """A sigmoid of even steps from -6 to 6, scaled to [beta_start, beta_end] (GeoDiff)."""
    return beta_start + (beta_end - beta_start) / (1 + np.exp(-np.linspace(-6, 6, n_levels)))


def cosine(n_levels: int) -> Betas:
    """Levels of the cosine schedule (Nichol & Dhariwal 2021, Eq. 17)."""
    t = np.arange(n_levels + 1) / n_levels
    return clipped_betas(np.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2)


def laplace(n_levels: int) -> Betas:
    """Levels whose log-SNR has Laplace's distribution (Hang & Gu 2024, arXiv 2407.03297).

    alpha^2 is the square root of the paper's, as in diffusers.
    """
    u = 0.5 - np.arange(n_levels + 1) / n_levels
    log_snr = -0.5 * np.sign(u) * np.log(1 - 2 * np.abs(u) + 1e-6)
    return clipped_betas(np.sqrt(1 / (1 + np.exp(-log_snr))))


def explicit(n_levels: int, betas: Sequence[float] = ()) -> Betas:
    """Given betas. Raises ValueError for another number of them than n_levels."""
    if len(betas) != n_levels:
        raise ValueError(
            f"betas has {len(betas)} numbers, but the chain has {n_levels} levels: give one for "
            "each, or set num_scales to their number"
        )
    return np.asarray(betas, np.float64)


SCHEDULES: dict[str, Callable[..., Betas]] = {
    "linear": linear,
    "scaled_linear": scaled_linear,
    "sigmoid": sigmoid,
    "cosine": cosine,
    "laplace": laplace,
    "explicit": explicit,
}
"""The betas of n_levels steps, as functions of n_levels and the schedule's options."""


def chain(
    n_levels: int, schedule: str = "linear", zero_terminal_snr: bool = False, **options: Any
) -> Table:
    """The SDE through the noise levels of a chain.

    Args:
        n_levels: number of levels.
        schedule: a name in SCHEDULES.
        zero_terminal_snr: change the betas so that the last level has no signal (Lin et al. 2024,
            arXiv 2305.08891, Algorithm 1): its alpha^2 is at most LEAST_ALPHA2.
        **options: of the schedule.

    Raises:
        ValueError: an unknown schedule, or betas outside (0, 1) or of another number.
    """
    check_name("beta_schedule", schedule, SCHEDULES)
    check_at_least(2, n_levels=n_levels)
    ends = {name: value for name, value in options.items() if name != "betas"}
    check_known("the betas are computed on the host", **ends)
    check_in("(0, 1)", **ends)
    betas = SCHEDULES[schedule](n_levels, **options)
    return from_betas(_without_signal(betas) if zero_terminal_snr else betas)


def _without_signal(betas: Betas) -> Betas:
    """Betas whose last level has almost no signal. The first level stays."""
    alpha = np.sqrt(np.cumprod(1 - betas))
    alpha2 = ((alpha - alpha[-1]) * (alpha[0] / (alpha[0] - alpha[-1]))) ** 2
    alpha2[-1] = min(LEAST_ALPHA2, alpha2[-2] / 4)
    return 1 - alpha2 / np.append(1.0, alpha2[:-1])
