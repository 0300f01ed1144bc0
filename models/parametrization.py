"""What a network's labels and output mean: the way from a network to a score function.

Every parametrization is linear: score = a(t) x + b(t) F(c(t) x, label(t)), F the network. With
x = alpha x_0 + sigma eps, and EDM's noise level l = sigma / alpha, F learns

| name                 | F                                                      | label         |
| -------------------- | ------------------------------------------------------ | ------------- |
| "score_sde"          | score under VE and EDM, eps otherwise (CLD: see below) | noise_labels' |
| "epsilon"            | eps                                                    | noise_labels' |
| "x0"                 | x_0                                                    | noise_labels' |
| "v"                  | alpha eps - sigma x_0 (Salimans & Ho 2022)             | noise_labels' |
| "score"              | score                                                  | noise_labels' |
| "velocity"           | alpha' x_0 + sigma' eps, the rate of x                 | noise_labels' |
| "edm"                | (x_0 - c_skip x / alpha) / c_out (Karras et al. 2022,  | log(l) / 4    |
| "edm_vp"             | Table 1): under any SDE, of x / alpha, whose noise has | 999 t, VP's   |
| "edm_ve"             | the standard deviation l                               | log(l / 2)    |
| "edm_iddpm"          |                                                        | 999 - j       |

Under CLD only the velocities' half of F counts, whose eps is sigma times the score's negative, and
"score_sde" is the mixed score: F is what eps has more than for data of unit variance, as if these
were Gaussian with v independent of x (Dockhorn et al. 2022, Section 3.2).
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from models.config import Config
from models.registry import encoder_is_classifier, encoder_name
from sde_lib import CLD, EDM, SDE, VE, VP, ScoreAndVariance, ScoreFn
from sde_lib.batch import PerSample, expand
from sde_lib.checks import check_name

Coefficients = tuple[PerSample | float, PerSample | float, PerSample | float]


def _epsilon(sde: SDE, t: PerSample, sigma_data: float) -> Coefficients:
    return 0.0, -1 / sde.sigma(t), 1.0


def _x0(sde: SDE, t: PerSample, sigma_data: float) -> Coefficients:
    variance = sde.sigma(t) ** 2
    return -1 / variance, sde.alpha(t) / variance, 1.0


def _v(sde: SDE, t: PerSample, sigma_data: float) -> Coefficients:
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    power = alpha**2 + sigma**2  # 1, where variance is preserved
    return -1 / power, -alpha / (sigma * power), 1.0


def _score(sde: SDE, t: PerSample, sigma_data: float) -> Coefficients:
    return 0.0, 1.0, 1.0


def _velocity(sde: SDE, t: PerSample, sigma_data: float) -> Coefficients:
    to_score = 2 / sde.diffusion(t) ** 2  # the rate is the flow's, f x - g^2 score / 2
    return to_score * sde.drift_coefficient(t), -to_score, 1.0


def _edm(sde: SDE, t: PerSample, sigma_data: float) -> Coefficients:
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    std = jnp.hypot(alpha * sigma_data, sigma)  # of x
    return -1 / std**2, alpha * sigma_data / (sigma * std), 1 / std


def _edm_vp(sde: SDE, t: PerSample, sigma_data: float) -> Coefficients:
    return 0.0, -1 / sde.sigma(t), 1 / jnp.hypot(sde.alpha(t), sde.sigma(t))


def _edm_ve(sde: SDE, t: PerSample, sigma_data: float) -> Coefficients:
    return 0.0, 1 / sde.sigma(t), 1 / sde.alpha(t)


def _mixed(sde: CLD, t: PerSample) -> Coefficients:
    return -1 / sde.covariance(t, variance=1.0)[2], -1 / sde.sigma(t), 1.0


PARAMETRIZATIONS: dict[str, Callable[[SDE, PerSample, float], Coefficients]] = {
    "epsilon": _epsilon,
    "x0": _x0,
    "v": _v,
    "score": _score,
    "velocity": _velocity,
    "edm": _edm,
    "edm_vp": _edm_vp,
    "edm_ve": _edm_ve,
    "edm_iddpm": _edm_vp,
}
"""a, b and c of (sde, t, sigma_data)."""


@cache
def _iddpm_boundaries() -> Float[np.ndarray, " levels"]:
    """Half-way points between the levels u_M = 0, ..., u_0 (Karras et al. 2022, Table 1)."""
    m, c1, c2 = 1000, 0.001, 0.008
    alpha_bar = np.sin(0.5 * np.pi * np.arange(m + 1) / (m * (c2 + 1))) ** 2
    ratios = np.maximum(alpha_bar[:-1] / alpha_bar[1:], c1)[::-1]
    u = np.sqrt(np.expm1(np.cumsum(np.append(0.0, -np.log(ratios)))))
    return 0.5 * (u[1:] + u[:-1])


def _iddpm_label(level: PerSample) -> PerSample:
    """999 - j, u_j the level that is nearest."""
    boundaries = jnp.asarray(_iddpm_boundaries(), jnp.float32)
    return jnp.searchsorted(boundaries, level, method="compare_all") - 1.0


LEVEL_LABELS: dict[str, Callable[[PerSample], PerSample]] = {
    "edm": lambda level: jnp.log(level) / 4,
    "edm_vp": lambda level: 999 * VP(0.1, 20.0).inverse_noise_level(level),
    "edm_ve": lambda level: jnp.log(level / 2),
    "edm_iddpm": _iddpm_label,
}
"""The labels of EDM's parametrizations (c_noise): functions of the noise level sigma / alpha."""


def score_fn(
    config: Config,
    sde: SDE,
    model: nn.Module,
    params: Any,
    train: bool = False,
    dropout_key: PRNGKeyArray | None = None,
    **conditions: Any,
) -> ScoreFn:
    """The score function of a network whose output config.model.parametrization names.

    With config.model.learned_variance it is a ScoreAndVariance, whose v is (1 + F) / 2 of the other
    half F of the output's channels (Nichol & Dhariwal 2021, arXiv 2102.09672, Section 3.1).

    The table above says what the network gives and sees; the one for points ("mlp") always sees
    sigma(t), whose logarithm it takes, and "score_sde" is its noise. Networks with
    `scale_by_sigma`, which give a score, divide by sigma themselves.

    Args:
        config: config.model and config.training.continuous decide, together with the SDE.
        sde: the forward SDE.
        model: from models.create(config).
        params: its parameters.
        train: apply dropout, with dropout_key.
        dropout_key: needed in training when the model has dropout.
        **conditions: what the network is told of each sample: arrays [B, ...] of the names that it
            takes, such as class_labels; None, and what is left out, it is not told.

    Raises:
        ValueError: an unknown parametrization, or a sigma_data that is not positive.
    """
    check(config)
    coefficients, inputs = _coefficients(config, sde), network_inputs(config, sde)
    options: dict[str, Any] = {k: v for k, v in conditions.items() if v is not None}
    options["rngs"] = {} if dropout_key is None else {"dropout": dropout_key}

    learned = config.model.get("learned_variance")

    def both(x: jax.Array, t: jax.Array) -> tuple[jax.Array, Any]:
        a, b, _ = (expand(jnp.asarray(k), x) for k in coefficients(t))
        output: Any = model.apply({"params": params}, *inputs(x, t), train=train, **options)
        variance = None
        if learned:
            output, variance = jnp.split(output, 2, axis=-1)
            variance = 0.5 * (1 + variance)
        return sde.noisy(a * x + b * output), variance

    return ScoreAndVariance(both) if learned else lambda x, t: both(x, t)[0]


def network_inputs(
    config: Config, sde: SDE
) -> Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """inputs(x, t): x as a network sees it, and its noise label. A classifier sees x as it is."""
    labels, coefficients = noise_labels(config, sde), _coefficients(config, sde)
    if encoder_is_classifier(config):
        return lambda x, t: (x, labels(t))
    return lambda x, t: (expand(jnp.asarray(coefficients(t)[2]), x) * x, labels(t))


def _coefficients(config: Config, sde: SDE) -> Callable[[jax.Array], Coefficients]:
    name = config.model.get("parametrization", "score_sde")
    if name == "score_sde" and isinstance(sde, CLD):
        return lambda t: _mixed(sde, t)
    if name == "score_sde":
        gives_score = isinstance(sde, VE | EDM) and encoder_name(config) != "mlp"
        name = "score" if gives_score else "epsilon"
    sigma_data = config.model.get("sigma_data", 0.5)
    return lambda t: PARAMETRIZATIONS[name](sde, t, sigma_data)


def noise_labels(config: Config, sde: SDE) -> Callable[[jax.Array], jax.Array]:
    """labels(t): what a network is conditioned on; a classifier, as a network for the noise.

    A discriminator is conditioned as its encoder is.

    EDM's parametrizations have labels of their own. With the others, the network sees sigma(t)
    under VE and EDM, and 999 t / t_max under other SDEs; with config.training.continuous = False,
    the index, among config.model.num_scales levels, of the level that is as noisy as x at t: an
    integer at a level, a fraction between two. The network for points always sees sigma(t).
    """
    if encoder_name(config) == "mlp":
        return sde.sigma
    classifier = encoder_is_classifier(config)
    of_level = LEVEL_LABELS.get(config.model.get("parametrization", "score_sde"))
    if of_level and not classifier:
        return lambda t: of_level(sde.noise_level(t))
    if "training" in config and not config.training.continuous and not classifier:
        levels = sde.levels(config.model.num_scales)
        order = np.argsort(levels)
        return lambda t: jnp.interp(sde.log_snr(t), levels[order], order)
    if isinstance(sde, VE | EDM):
        return sde.sigma
    # Positive, for classifiers take its logarithm.
    least = 999e-5 if classifier else 0.0
    return lambda t: jnp.maximum(999 * t / sde.t_max, least)


def check(config: Config) -> None:
    """Raises ValueError for an unknown parametrization, or a sigma_data that is not positive."""
    name = config.model.get("parametrization", "score_sde")
    check_name("config.model.parametrization", name, ("score_sde", *PARAMETRIZATIONS))
    if not config.model.get("sigma_data", 0.5) > 0:
        raise ValueError(
            f"config.model.sigma_data is {config.model.sigma_data}: it must be positive"
        )
