"""Training densities of the noise level l = sigma / alpha, given by their quantile functions.

A quantile function maps u, uniform in (0, 1), to the log-SNR, -2 log l, so that l grows with u.
Stratification and the like act on u, and so work for every density. Each density is truncated to
the SDE's noise levels between train_t_min and t_max.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.special import logit, ndtr, ndtri
from jaxtyping import Array

from sde_lib.batch import PerSample
from sde_lib.checks import check_in, check_name
from sde_lib.sde import SDE

Quantile = Callable[[PerSample], PerSample]
BASE_IMAGE_SIZE = 32  # pixels; larger images get a shifted cosine schedule


def create(
    name: str,
    sde: SDE,
    mean: float = -1.2,
    std: float = 1.2,
    std_above: float = 1.2,
    sigma_data: float = 0.5,
    image_size: int = BASE_IMAGE_SIZE,
) -> Quantile | None:
    """Makes the quantile function u -> log-SNR of a density; None for "uniform", uniform in t.

    "log_uniform": uniform in log-SNR, like importance sampling of the likelihood weighting.
    "log_uniform_variance": uniform in log sigma^2, of variance-preserving SDEs (LSGM, Section 3.4).
    "log_normal": EDM's (Karras et al. 2022, Table 1). Where alpha = 1 - t and sigma = t it is the
        logit-normal density of t (Esser et al. 2024, arXiv 2403.03206).
    "split_log_normal": k-diffusion's, with `std` below the mean and `std_above` above it.
    "log_logistic": k-diffusion's, with `std` as the scale.
    "v_diffusion": k-diffusion's, with a uniform angle arctan(l / sigma_data). At sigma_data = 1 it
        is the cosine schedule at uniform t.
    "cosine_interpolated": "v_diffusion" for images up to 32 pixels. For larger images log l is
        shifted by log(image_size / 32) at the highest noise, and less towards low noise (simple
        diffusion, Hoogeboom et al. 2023, arXiv 2301.11093).

    Args:
        name: "uniform" or one of the above.
        sde: the SDE; the density covers its noise levels from train_t_min to t_max.
        mean: mean of log l in "log_normal", "split_log_normal" and "log_logistic".
        std: standard deviation of log l in the same three.
        std_above: standard deviation above the mean in "split_log_normal".
        sigma_data: standard deviation of the data in "v_diffusion" and "cosine_interpolated".
        image_size: width of the images in "cosine_interpolated", in pixels.

    Raises:
        ValueError: an unknown name, a mean far outside the SDE's log l, a std or sigma_data that
            is not positive, or "log_uniform" for an SDE whose log-SNR is unbounded.
    """
    spreads = {"std": std, "std_above": std_above, "sigma_data": sigma_data}
    check_in(
        "(0, inf)", **{f"{name} of the noise density": spread for name, spread in spreads.items()}
    )
    check_in("(-inf, inf)", **{"mean of the noise density": mean})
    if name == "uniform":
        return None
    _check_mean(sde, mean, std, std_above)
    whole = {"log_uniform": log_uniform, "log_uniform_variance": log_uniform_variance}
    if name in whole:
        return whole[name](sde)
    shift = math.log(sigma_data)
    shift_high = shift + math.log(max(image_size / BASE_IMAGE_SIZE, 1))
    quantiles = {
        "log_normal": partial(_split_normal, mean=mean, std=std, std_above=std),
        "split_log_normal": partial(_split_normal, mean=mean, std=std, std_above=std_above),
        "log_logistic": partial(_logistic, mean=mean, scale=std),
        "v_diffusion": partial(_angle, shift=shift),
        "cosine_interpolated": partial(_interpolated, shift_high=shift_high, shift=shift),
    }
    check_name("noise density", name, {"uniform", *whole, *quantiles})
    quantile = quantiles[name]
    # A float32 draw u may be exactly 0 or 1, whose quantiles may be infinite.
    return lambda u: -2 * quantile(jnp.clip(u, 2.0**-24, 1 - 2.0**-24), *_log_levels(sde))


def _check_mean(sde: SDE, mean: float, std: float, std_above: float) -> None:
    """Raises ValueError for a mean that is too far from the SDE's noise levels."""
    with jax.ensure_compile_time_eval():
        least, largest = (float(level) for level in _log_levels(sde))
    if not least - 4 * std <= mean <= largest + 4 * std_above:
        raise ValueError(
            f"mean of the noise density is {mean}: too far from log(sigma / alpha) in training, "
            f"which goes from {least:g} to {largest:g}"
        )


def log_uniform(sde: SDE) -> Quantile:
    """Quantile function of the uniform density of log-SNR between train_t_min and t_max.

    Raises:
        ValueError: an SDE whose log-SNR is unbounded there.
    """
    with jax.ensure_compile_time_eval():
        least, largest = (float(level) for level in _log_levels(sde))
    if not math.isfinite(largest - least):
        raise ValueError(
            f"log(sigma / alpha) of {sde} goes from {least:g} to {largest:g} in training, where "
            "no density is uniform: choose another noise density"
        )

    def quantile(u: PerSample) -> PerSample:
        highest, lowest = log_snrs(sde)
        return highest + u * (lowest - highest)

    return quantile


def log_uniform_variance(sde: SDE) -> Quantile:
    """Quantile function of the uniform density of log sigma^2, between train_t_min and t_max.

    It is the importance sampling of sde_lib.cross_entropy, in closed form where
    alpha^2 + sigma^2 = 1.

    Raises:
        ValueError: an SDE that does not preserve variance, or without noise at train_t_min.
    """
    log_uniform(sde)  # refuses SDEs whose log-SNR is unbounded
    if not preserves_variance(sde):
        raise ValueError(
            f"{type(sde).__name__} has no importance sampling of t in closed form, as its "
            "alpha^2 + sigma^2 is not 1: take a variance-preserving SDE, such as VP or "
            "GeometricVP, or draw t uniformly (importance_sampling=False)"
        )

    def quantile(u: PerSample) -> PerSample:
        least, largest = (-jax.nn.softplus(log_snr) for log_snr in log_snrs(sde))
        return jnp.log(jnp.expm1(-(least + u * (largest - least))))

    return quantile


def preserves_variance(sde: SDE) -> bool:
    """True if alpha^2 + sigma^2 is 1 at all times."""
    with jax.ensure_compile_time_eval():
        t = jnp.linspace(sde.train_t_min, sde.t_max, 16)
        return bool(jnp.allclose(sde.alpha(t) ** 2 + sde.sigma(t) ** 2, 1.0, atol=1e-4))


def log_snrs(sde: SDE) -> tuple[Array, Array]:
    """Highest and lowest log-SNR of training, at train_t_min and t_max."""
    highest, lowest = sde.log_snr(jnp.array([sde.train_t_min, sde.t_max]))
    return highest, lowest


def _log_levels(sde: SDE) -> tuple[Array, Array]:
    highest, lowest = log_snrs(sde)
    return -0.5 * highest, -0.5 * lowest


def _split_normal(
    u: PerSample, low: Array, high: Array, mean: float, std: float, std_above: float
) -> PerSample:
    below = std / (std + std_above)  # probability below the mean

    def cdf(level: Array) -> Array:
        left = 2 * below * ndtr((level - mean) / std)
        right = 1 - 2 * (1 - below) * ndtr((mean - level) / std_above)
        return jnp.where(level < mean, left, right)

    u = cdf(low) + u * (cdf(high) - cdf(low))
    left = std * ndtri(jnp.minimum(u / (2 * below), 0.5))
    right = -std_above * ndtri(jnp.minimum((1 - u) / (2 * (1 - below)), 0.5))
    return mean + left + right


def _logistic(u: PerSample, low: Array, high: Array, mean: float, scale: float) -> PerSample:
    first, last = jax.nn.sigmoid((jnp.stack([low, high]) - mean) / scale)
    return mean + scale * logit(first + u * (last - first))


def _angle(u: PerSample, low: Array, high: Array, shift: float) -> PerSample:
    """log l = shift + log tan(angle), for an angle uniform between the angles of both ends."""
    ends = jnp.exp(jnp.stack([low, high]) - shift)
    # Near a right angle, only the complementary angle keeps its digits.
    (first, last), (first_rest, last_rest) = jnp.arctan(ends), jnp.arctan(1 / ends)
    angle, rest = first + u * (last - first), first_rest + u * (last_rest - first_rest)
    return shift + jnp.log(jnp.sin(angle)) - jnp.log(jnp.sin(rest))


def _interpolated(
    u: PerSample, low: Array, high: Array, shift_high: float, shift: float
) -> PerSample:
    return u * _angle(u, low, high, shift_high) + (1 - u) * _angle(u, low, high, shift)
