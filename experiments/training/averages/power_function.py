"""Averages of the weights over training by power functions, and any of them from a few others.

The average at time t of weights theta, with the exponent gamma >= 0, is

    theta_gamma(t) = integral of p(tau) theta(tau),  p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1)

over tau from 0 to t. Its length sigma_rel is the standard deviation of p, as a share of t. Because
it is linear in p, an average whose profile is a sum of other profiles is the same sum of their
averages: some snapshots of two averages give those of other lengths after training.

Time is counted in any unit, such as steps. Everything is float64 on the host.
Source: Karras et al. 2024, "Analyzing and improving the training dynamics of diffusion models",
section 3 and appendix C.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

LONGEST = 12**-0.5
"""The length of the plain mean of all weights, gamma = 0."""


class Profiles(NamedTuple):
    """Power functions p, as many as the longer of both arrays.

    gamma: their exponents [n]. t: the times [n] that they end at, above 0.
    """

    gamma: Float[np.ndarray, " n"]
    t: Float[np.ndarray, " n"]


def length_of(gamma: ArrayLike) -> Float[np.ndarray, "*n"]:
    """The lengths sigma_rel of profiles with the exponents gamma (Eq. 123)."""
    gamma = np.asarray(gamma, np.float64)
    return np.sqrt(gamma + 1) / ((gamma + 2) * np.sqrt(gamma + 3))


def gamma_of(length: float, name: str = "sigma_rel") -> float:
    """The exponent of a profile by its length: the inverse of length_of for gamma >= 0 (Alg. 2).

    It is the largest real root of (gamma + 1) = sigma_rel^2 (gamma + 2)^2 (gamma + 3).

    Raises:
        ValueError: no length between 0 and LONGEST; the error calls it `name`.
    """
    if not 0 < length <= LONGEST:
        raise ValueError(
            f"{name} is {length}: the length of an average is a share of the training, above 0 and "
            f"at most {LONGEST:.4f}, that of the mean of all weights"
        )
    q = float(length) ** -2
    return max(float(np.roots([1, 7, 16 - q, 12 - q]).real.max()), 0.0)


def beta(gamma: ArrayLike, t: ArrayLike, dt: float = 1.0) -> Float[np.ndarray, "*n"]:
    """The share of an average that the step from t - dt to t keeps, 0 of the first (Eq. 127)."""
    return (1 - dt / np.asarray(t, np.float64)) ** (np.asarray(gamma, np.float64) + 1)


def inner_products(a: Profiles, b: Profiles) -> Float[np.ndarray, "n m"]:
    """The integrals of p_a p_b over all times, of n profiles with m others (Appendix C.3).

    With the later of both ending at t_max and its exponent gamma_max, that is

        (gamma_a + 1) (gamma_b + 1) / (gamma_a + gamma_b + 1) (t_min / t_max)^gamma_max / t_max
    """
    gamma_a, t_a = (np.asarray(each, np.float64)[:, None] for each in a)
    gamma_b, t_b = (np.asarray(each, np.float64) for each in b)
    first, last = np.minimum(t_a, t_b), np.maximum(t_a, t_b)
    gamma_last = np.where(t_a < t_b, gamma_b, gamma_a)
    scale = (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1)
    return scale * (first / last) ** gamma_last / last


class Fit(NamedTuple):
    """Profiles as sums of others.

    coefficients: [n, m] of the n profiles in each of m sums, whose columns add up to 1.
    error: [m], the L2 norm of what is left, as a share of that of the profile.
    """

    coefficients: Float[np.ndarray, "n m"]
    error: Float[np.ndarray, " m"]


def fit(given: Profiles, wanted: Profiles) -> Fit:
    """The sums of given profiles that are nearest to the wanted ones (Alg. 3).

    The least squares solution has a sum near 1, and is scaled to 1: an average of weights that
    never changed is exact.
    """
    products, targets = inner_products(given, given), inner_products(given, wanted)
    coefficients = np.linalg.solve(products, targets)
    coefficients /= coefficients.sum(axis=0)
    norms = np.diag(inner_products(wanted, wanted))
    cross = np.sum(coefficients * targets, axis=0)
    squares = norms - 2 * cross + np.sum(coefficients * (products @ coefficients), axis=0)
    return Fit(coefficients, np.sqrt(np.maximum(squares, 0) / norms))
