"""Preconditioning: from a network to a score function.

score(x, t) = a(t) x + b(t) F(c(t) x, label(t)), with F the network. For x = alpha x_0 + sigma eps
and EDM's noise level l = sigma / alpha, F learns

| name                 | F                                                      | label         |
| -------------------- | ------------------------------------------------------ | ------------- |
| "score_sde"          | score under VE and EDM, eps otherwise (CLD: see below) | score_sde's   |
| "epsilon"            | eps                                                    | score_sde's   |
| "x0"                 | x_0                                                    | score_sde's   |
| "v"                  | alpha eps - sigma x_0 (Salimans & Ho 2022)             | score_sde's   |
| "score"              | score                                                  | score_sde's   |
| "velocity"           | alpha' x_0 + sigma' eps = dx/dt                        | score_sde's   |
| "edm"                | (x_0 - c_skip x / alpha) / c_out (Karras et al. 2022,  | log(l) / 4    |
| "edm_vp"             | Table 1). Under any SDE, EDM's input is x / alpha,     | 999 t, VP's   |
| "edm_ve"             | which is x_0 plus noise of standard deviation l.       | log(l / 2)    |
| "edm_iddpm"          |                                                        | 999 - j       |
| "edm_cosine"         | as "edm_vp"                                            | 999 t, cosine |
| "energy"             | as "edm", the gradient of an energy: see below         | log(l) / 4    |

score_sde's labels are sigma(t) under VE and EDM and 999 t / t_max under other SDEs. In discrete
training they are the index of the noise level. All labels are multiplied by label_scale.

With "energy", F(y) is the gradient in y of <y, G(y, label)>, where G is the network. Then
a |x|^2 / 2 + (b / c) <c x, G(c x, label)> is log p_t(x) up to a constant of t, and the score is its
gradient: a ScoreAndEnergy. An evaluation costs a backward pass too.

Under CLD only the velocity half of F counts, with eps = -sigma score. There "score_sde" is the
mixed score: F is the difference between eps and the eps of standard Gaussian data with v
independent of x (Dockhorn et al. 2022, Section 3.2).
"""

import dataclasses
from collections.abc import Callable
from functools import cache, partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from models.config import Config
from models.magnitudes import block_magnitudes
from models.missing import input_shape, with_mask
from models.ncsnv2 import NCSNv2
from models.registry import network_class
from sde_lib import CLD, EDM, SDE, VE, VP, Cosine, ScoreAndEnergy, ScoreAndVariance, ScoreFn
from sde_lib.batch import PerSample, expand
from sde_lib.checks import check_name, check_positive
from sde_lib.missing import observed_score

Coefficients = tuple[PerSample | float, PerSample | float, PerSample | float]
Network = Callable[[jax.Array, jax.Array], jax.Array]
"""F(x, label): a network with its parameters and conditions."""


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
    "edm_cosine": _edm_vp,
}
"""The coefficients (a, b, c) as functions of (sde, t, sigma_data)."""


@cache
def iddpm_levels() -> Float[np.ndarray, " levels"]:
    """iDDPM's noise levels u_M = 0, ..., u_0 (Karras et al. 2022, Table 1)."""
    m, c1, c2 = 1000, 0.001, 0.008
    alpha_bar = np.sin(0.5 * np.pi * np.arange(m + 1) / (m * (c2 + 1))) ** 2
    ratios = np.maximum(alpha_bar[:-1] / alpha_bar[1:], c1)[::-1]
    return np.sqrt(np.expm1(np.cumsum(np.append(0.0, -np.log(ratios)))))


def _iddpm_label(level: PerSample) -> PerSample:
    """iDDPM's label 999 - j, where u_j is the nearest noise level."""
    u = iddpm_levels()
    boundaries = jnp.asarray(0.5 * (u[1:] + u[:-1]), jnp.float32)
    return jnp.searchsorted(boundaries, level, method="compare_all") - 1.0


LEVEL_LABELS: dict[str, Callable[[PerSample], PerSample]] = {
    "edm": lambda level: jnp.log(level) / 4,
    "edm_vp": lambda level: 999 * VP(0.1, 20.0).inverse_noise_level(level),
    "edm_ve": lambda level: jnp.log(level / 2),
    "edm_iddpm": _iddpm_label,
    "edm_cosine": lambda level: 999 * Cosine().inverse_noise_level(level),
    "energy": lambda level: jnp.log(level) / 4,
}
"""EDM's labels (c_noise) as functions of the noise level sigma / alpha."""


@dataclasses.dataclass(frozen=True)
class Preconditioning:
    """The scaling and the labels around a network, by the table above.

    Attributes:
        sde: the forward SDE.
        name: a parametrization of the table.
        sigma_data: standard deviation of the data, for "edm" and "energy".
        n_levels: noise levels of discrete training; None in continuous training. The label is then
            the index of the level that is as noisy as x at t: an integer at a level, a fraction
            between two.
        inputs: "scaled": the network sees c(t) x and the label of the table. "points": it sees
            c(t) x and sigma(t), and "score_sde" means eps. "unscaled": it sees x and score_sde's
            labels of continuous training, which are kept positive (classifiers).
        learned_variance: half of the output's channels parametrise the variance of DDPM's step.
        label_scale: factor of the labels.

    Raises:
        ValueError: an unknown parametrization; a sigma_data or label_scale that is not positive; a
            learned variance with "energy".
    """

    sde: SDE
    name: str = "score_sde"
    sigma_data: float = 0.5
    n_levels: int | None = None
    inputs: str = "scaled"
    learned_variance: bool = False
    label_scale: float = 1.0

    def __post_init__(self):
        known = ("score_sde", "energy", *PARAMETRIZATIONS)
        check_name("config.model.parametrization", self.name, known)
        check_name("inputs", self.inputs, ("scaled", "points", "unscaled"))
        named = {name: getattr(self, name) for name in ("sigma_data", "label_scale")}
        check_positive(**{f"config.model.{name}": value for name, value in named.items()})
        if self.learned_variance and self.name == "energy":
            raise ValueError(
                "config.model.parametrization='energy' has no learned variance: take another one, "
                "such as 'edm', or set config.model.learned_variance=False"
            )

    @property
    def any_sde(self) -> bool:
        """True if the network sees x / alpha and the noise level alone, whatever the SDE."""
        return self.inputs == "scaled" and self.name in LEVEL_LABELS

    def sees_alike(self, other: "Preconditioning") -> bool:
        """True if a network sees the same under another preconditioning, at all our noise levels.

        Labels may differ by two thousandths of their range, as those of a chain's steps do from
        those of its continuous limit.
        """
        if self.inputs != "scaled" or other.inputs != "scaled":
            return False
        times = jnp.array([self.sde.train_t_min, self.sde.t_max])
        low, high = jnp.log(self.sde.noise_level(times))
        levels = jnp.exp(jnp.linspace(low, high, 100))
        seen = []
        for each in (self, other):
            t = each.sde.inverse_noise_level(levels)
            factor = jnp.asarray(each.coefficients(t)[2]) * each.sde.alpha(t)
            seen.append((jnp.broadcast_to(factor, t.shape), each.label(t)))
        (ours, our_labels), (theirs, labels) = seen
        span = our_labels.max() - our_labels.min()
        close = jnp.abs(our_labels - labels).max() <= 2e-3 * span
        return bool(jnp.allclose(ours, theirs, rtol=1e-3) & close)

    def coefficients(self, t: PerSample) -> Coefficients:
        """The coefficients (a, b, c) of score = a x + b F(c x, label), each [B] or a number."""
        name = self.name
        if name == "score_sde" and isinstance(self.sde, CLD):
            return _mixed(self.sde, t)
        if name == "score_sde":
            gives_score = isinstance(self.sde, VE | EDM) and self.inputs != "points"
            name = "score" if gives_score else "epsilon"
        name = "edm" if name == "energy" else name
        return PARAMETRIZATIONS[name](self.sde, t, self.sigma_data)

    def label(self, t: PerSample) -> PerSample:
        """The noise label of the network, [B]."""
        label = self._label(t)
        return label if self.label_scale == 1 else self.label_scale * label

    def _label(self, t: PerSample) -> PerSample:
        if self.inputs == "points":
            return self.sde.sigma(t)
        if self.inputs == "scaled" and self.name in LEVEL_LABELS:
            return LEVEL_LABELS[self.name](self.sde.noise_level(t))
        if self.inputs == "scaled" and self.n_levels is not None:
            levels = self.sde.levels(self.n_levels)
            order = np.argsort(levels)
            return jnp.interp(self.sde.log_snr(t), levels[order], order)
        if isinstance(self.sde, VE | EDM):
            return self.sde.sigma(t)
        least = 999e-5 if self.inputs == "unscaled" else 0.0  # classifiers take the logarithm
        return jnp.maximum(999 * t / self.sde.t_max, least)

    def network_inputs(self, x: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The network's input and label for x [B, ...] at t [B]."""
        if self.inputs != "unscaled":
            x = expand(jnp.asarray(self.coefficients(t)[2]), x) * x
        return x, self.label(t)

    def score_fn(self, network: Network) -> ScoreFn:
        """The score function of a network F(x, label).

        With learned_variance it is a ScoreAndVariance with v = (1 + G) / 2, where G is the second
        half of the output's channels (Nichol & Dhariwal 2021, arXiv 2102.09672, Section 3.1). With
        "energy" it is a ScoreAndEnergy.
        """
        if self.name == "energy":
            return ScoreAndEnergy.of(partial(self._log_density, network))

        def both(x: jax.Array, t: jax.Array) -> tuple[jax.Array, Any]:
            a, b, _ = (expand(jnp.asarray(k), x) for k in self.coefficients(t))
            output, variance = network(*self.network_inputs(x, t)), None
            if self.learned_variance:
                output, variance = jnp.split(output, 2, axis=-1)
                variance = 0.5 * (1 + variance)
            return self.sde.noisy(a * x + b * output), variance

        return ScoreAndVariance(both) if self.learned_variance else lambda x, t: both(x, t)[0]

    def _log_density(self, network: Network, x: jax.Array, t: jax.Array) -> PerSample:
        """log p_t(x) of "energy", up to a constant of t."""
        a, b, c = self.coefficients(t)
        y, label = self.network_inputs(x, t)
        axes = tuple(range(1, x.ndim))
        inner = jnp.sum(y * network(y, label), axis=axes)
        return 0.5 * a * jnp.sum(x**2, axis=axes) + b / c * inner

    def check(self, network: Any) -> None:
        """Raises ValueError for a network that cannot make sense of its labels."""
        if self.inputs != "scaled":
            return
        kind = self._kind_of_labels()
        what = f"the network {type(network).__name__}"
        embedding = getattr(network, "embedding_type", None)
        if embedding:
            what += f" with embedding_type = {embedding!r}"
        if isinstance(network, NCSNv2) and (self.n_levels is None or self.name in LEVEL_LABELS):
            raise ValueError(
                f"{what} knows discrete levels only: set config.training.continuous=False and "
                "config.model.parametrization='score_sde'"
            )
        if isinstance(network, NCSNv2) and self.label_scale != 1:
            raise ValueError(
                f"{what} looks its labels up in a list, but config.model.label_scale is "
                f"{self.label_scale}: set it to 1"
            )
        fourier = embedding == "fourier"
        takes_logarithm = fourier and network.log_labels
        if fourier and kind == "indices":
            raise ValueError(
                f"{what} takes the logarithm of its labels, which are 0, 1, ... in discrete "
                "training and with parametrization = 'edm_iddpm': set "
                "config.model.embedding_type='positional'"
            )
        if fourier and takes_logarithm == (kind == "logarithms"):
            raise ValueError(
                f"{what} and log_labels = {takes_logarithm} is given {kind} with parametrization = "
                f"{self.name!r}: set config.model.log_labels={not takes_logarithm}"
            )
        if embedding == "learned" and kind == "logarithms":
            raise ValueError(
                f"{what} is a table of noise levels, but is given logarithms with parametrization "
                f"= {self.name!r}: set config.model.time_embedding_type='positional'"
            )
        if kind == "sigmas" and not takes_logarithm:
            raise ValueError(
                f"{what} cannot tell sigmas apart, which are the labels under VE and EDM: set "
                "config.model.parametrization='edm', or take 'ncsnpp' with embedding_type = "
                "'fourier', or set config.training.continuous=False (VE only)"
            )
        gives_score = isinstance(self.sde, VE | EDM) and self.name in ("score_sde", "score")
        if getattr(network, "scale_by_sigma", False) and not gives_score:
            raise ValueError(
                "config.model.scale_by_sigma makes the output a score, which is VE's convention "
                "with parametrization = 'score_sde': set it to False"
            )

    def _kind_of_labels(self) -> str:
        of_level = {
            **dict.fromkeys(("edm", "edm_ve", "energy"), "logarithms"),
            **dict.fromkeys(("edm_vp", "edm_cosine"), "times"),
        }
        if self.name in of_level:
            return of_level[self.name]
        if self.name == "edm_iddpm" or self.n_levels is not None:
            return "indices"
        return "sigmas" if isinstance(self.sde, VE | EDM) else "times"


@dataclasses.dataclass(frozen=True)
class NoiseModel:
    """A network of noisy data together with its preconditioning.

    Attributes:
        network: a linen module, called as network.apply(variables, x, labels, train=...).
        preconditioning: its scaling and labels, with the SDE.
        missing: the network is given the mask of the observed values too (models/missing.py).
    """

    network: nn.Module
    preconditioning: Preconditioning
    missing: bool = False

    gives: ClassVar[str] = "score"  # or a name in models/few_steps.py

    @property
    def sde(self) -> SDE:
        """The forward SDE."""
        return self.preconditioning.sde

    def init(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Any:
        """Random parameters of the network for a batch of states of this shape."""
        x = jnp.zeros(input_shape(shape, self.missing))
        return self.network.init(key, x, jnp.ones(shape[0]))["params"]

    def score_fn(
        self,
        params: Any,
        train: bool = False,
        dropout_key: PRNGKeyArray | None = None,
        observed: jax.Array | None = None,
        **conditions: Any,
    ) -> ScoreFn:
        """The network's score function.

        Args:
            params: parameters of the network.
            train: apply dropout, with dropout_key.
            dropout_key: needed in training if the network has dropout.
            observed: of a model of data with missing values, the mask [B, ...], 1 for each observed
                value: the score is that of the observed part, and 0 elsewhere. None: all of them.
            **conditions: arrays [B, ...] by the network's keyword, such as class_labels. A value
                of None is the same as no condition.

        Raises:
            ValueError: a mask for a model of complete data.
        """
        apply = self.applied(params, train, dropout_key, **conditions)
        if not self.missing and observed is not None:
            raise ValueError(
                "observed is given, but the model was trained on complete data: leave it out, or "
                "train one with config.data.missing='mask'"
            )
        if self.missing:
            apply = with_mask(apply, observed)
        score_fn = self.preconditioning.score_fn(apply)
        return score_fn if observed is None else observed_score(score_fn, observed)

    @property
    def projection(self) -> Callable[[Any], Any] | None:
        """The network's `project`, where training puts its parameters after each step, if any."""
        return getattr(self.network, "project", None)

    def magnitudes(
        self, params: Any, x: jax.Array, t: jax.Array, **conditions: Any
    ) -> dict[str, PerSample]:
        """The root mean square of each block's output for x [B, ...] at t, [B] by block.

        A model of data with missing values gives {}, and so does a network that is no module.
        """
        if self.missing or not isinstance(self.network, nn.Module):
            return {}
        options = {name: value for name, value in conditions.items() if value is not None}
        inputs = self.preconditioning.network_inputs(x, t)
        return block_magnitudes(self.network, params, *inputs, **options)

    def applied(
        self, params: Any, train: bool, dropout_key: PRNGKeyArray | None, **conditions: Any
    ) -> Network:
        """The network F(x, label) with its parameters and conditions, as of `score_fn`."""
        options: dict[str, Any] = {k: v for k, v in conditions.items() if v is not None}
        options["rngs"] = {} if dropout_key is None else {"dropout": dropout_key}
        return partial(self.network.apply, {"params": params}, train=train, **options)  # pyright: ignore[reportReturnType]

    def outputs(self, params: Any, **options: Any) -> Callable[[jax.Array, jax.Array], Any]:
        """The network's own output as a function of (x, t), such as a classifier's logits."""
        inputs = self.preconditioning.network_inputs
        return lambda x, t: self.network.apply({"params": params}, *inputs(x, t), **options)

    def in_float32(self) -> "NoiseModel":
        """The same model computed in float32, for exact likelihoods."""
        if not hasattr(self.network, "dtype"):
            return self
        return dataclasses.replace(self, network=self.network.clone(dtype="float32"))


def precondition(
    network: Network, sde: SDE, name: str = "score_sde", sigma_data: float = 0.5
) -> ScoreFn:
    """The score function of any function F(x, label), by the name of a parametrization.

    Args:
        network: F(x [B, ...], label [B]) of the shape of x.
        sde: the forward SDE.
        name: a parametrization of the table above.
        sigma_data: standard deviation of the data, for "edm" and "energy".

    Raises:
        ValueError: an unknown parametrization, or a sigma_data that is not positive.
    """
    return Preconditioning(sde, name, sigma_data).score_fn(network)


def preconditioning(config: Config, sde: SDE) -> Preconditioning:
    """The preconditioning that config.model and config.training.continuous describe."""
    model, training = config.model, config.get("training", {})
    return Preconditioning(
        sde,
        model.get("parametrization", "score_sde"),
        model.get("sigma_data", 0.5),
        None if training.get("continuous", True) else model.num_scales,
        getattr(network_class(config), "inputs", "scaled"),
        bool(model.get("learned_variance")),
        model.get("label_scale", 1.0),
    )


def score_fn(
    config: Config,
    sde: SDE,
    model: nn.Module,
    params: Any,
    train: bool = False,
    dropout_key: PRNGKeyArray | None = None,
    **conditions: Any,
) -> ScoreFn:
    """The score function of a network that config.model describes.

    Args:
        config: config.model and config.training.continuous decide, together with the SDE.
        sde: the forward SDE.
        model: from models.create(config).
        params: its parameters.
        train: apply dropout, with dropout_key.
        dropout_key: needed in training if the network has dropout.
        **conditions: arrays [B, ...] by the network's keyword, such as class_labels.

    Raises:
        ValueError: an unknown parametrization, or a sigma_data that is not positive.
    """
    missing = bool(config.get("data", {}).get("missing"))
    made = NoiseModel(model, preconditioning(config, sde), missing)
    return made.score_fn(params, train, dropout_key, **conditions)
