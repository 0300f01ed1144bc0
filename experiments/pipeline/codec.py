"""Maps between the data and the latents that diffuse, trained together with the score model.

Flow, of INDM (Kim et al. 2022, arXiv 2205.13699): z = h(x) is invertible, so that

    log p(x) = log p(z) + log |det dh/dx|.

Coder, of LSGM (Vahdat et al. 2021, arXiv 2106.05931): z is drawn from an encoder's q(z | x), and

    log p(x) >= E[log p(z) + log p(x | z) - log q(z | x)].

All that is added to log p(z) is called log_ratio. The codec's parameters are params[CODEC], beside
those of the score network.
"""

import dataclasses
import math
from functools import partial
from typing import Any, ClassVar, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.flow import CouplingFlow
from sde_lib import SDE
from sde_lib.batch import Batch, PerSample, fold_in, normal, sample_keys
from sde_lib.variational import discretized_gaussian
from sde_lib.vdm import ENCODE_KEY

CODEC = "codec"
LOG_VARIANCES = -20.0, 10.0
FIRST_LOG_VARIANCE = -4.0  # of encoder and decoder: latents that start noisy may never be used


class Encoded(NamedTuple):
    """Latents of samples, with the terms of their likelihood.

    Attributes:
        start: [B, ...] latents that the SDE starts from at t = 0.
        z: [B, ...] the same at train_t_min, where the score model's density is.
        log_ratio: [B] log p(x) is log p(z) + log_ratio, or its expectation at least that; in nats.
    """

    start: Batch
    z: Batch
    log_ratio: PerSample


class Codec(Protocol):
    """A map between data in model space and latents.

    Attributes:
        exact: log p(x) = log p(z) + log_ratio; otherwise that is a lower bound in expectation.
        levels: log_ratio is of the probability of one of so many grey levels; None: of a density.
    """

    exact: ClassVar[bool]

    @property
    def levels(self) -> int | None: ...

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the latent of a sample of this shape."""
        ...

    def init(self, key: jax.Array, shape: tuple[int, ...]) -> Any:
        """Random parameters, for samples of this shape."""
        ...

    def encode(self, params: Any, sde: SDE, key: jax.Array, x: Batch, first_index: Any) -> Encoded:
        """Latents of samples x; what is drawn for sample i depends on key and i alone."""
        ...

    def decode(self, params: Any, z: Batch) -> Batch:
        """Samples of latents."""
        ...


@dataclasses.dataclass(frozen=True)
class Flow:
    """An invertible network.

    Attributes:
        network: the flow.
    """

    network: CouplingFlow

    exact: ClassVar = True

    @property
    def levels(self) -> None:
        return None

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def init(self, key: jax.Array, shape: tuple[int, ...]) -> Any:
        return self.network.init(key, jnp.zeros((1, *shape))).get("params", {})

    def encode(self, params: Any, sde: SDE, key: jax.Array, x: Batch, first_index: Any) -> Encoded:
        z, log_det = self._apply(params, x)
        return Encoded(z, z, log_det)

    def decode(self, params: Any, z: Batch) -> Batch:
        return self._apply(params, z, inverse=True)[0]

    def _apply(self, params: Any, x: Batch, **options: Any) -> tuple[Batch, PerSample]:
        result: Any = self.network.apply({"params": params}, x, **options)
        return result


@dataclasses.dataclass(frozen=True)
class Coder:
    """An encoder and a decoder, each of a Gaussian with a diagonal covariance.

    A sample is the mean of p(x | z). Of grey levels without dequantisation, p(x | z) integrates the
    Gaussian over their bins.

    Attributes:
        network: with the methods encode, which gives means and log-variances, and decode, which
            gives both in its channels.
        shape: of a latent.
        data_range: values of the first and the last grey level.
        grey_levels: number of grey levels of the data; None for floats, and dequantised ones.
    """

    network: nn.Module
    shape: tuple[int, ...]
    data_range: tuple[float, float]
    grey_levels: int | None

    exact: ClassVar = False

    @property
    def levels(self) -> int | None:
        return self.grey_levels

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return self.shape

    def init(self, key: jax.Array, shape: tuple[int, ...]) -> Any:
        return self.network.init(key, jnp.zeros((1, *shape)))["params"]

    def encode(self, params: Any, sde: SDE, key: jax.Array, x: Batch, first_index: Any) -> Encoded:
        keys = fold_in(sample_keys(key, len(x), first_index), ENCODE_KEY)
        apply: Any = partial(self.network.apply, {"params": params}, method="encode")
        mean, log_variance = apply(x)
        log_variance = _log_variance(log_variance)
        start = mean + jnp.exp(0.5 * log_variance) * normal(fold_in(keys, 0), mean.shape)
        alpha, sigma = sde.alpha(sde.train_t_min), sde.sigma(sde.train_t_min)
        z = alpha * start + sigma * normal(fold_in(keys, 1), mean.shape)
        log_q = log_normal(z - alpha * mean, jnp.log(alpha**2 * jnp.exp(log_variance) + sigma**2))
        return Encoded(start, z, self._log_prob(params, x, z) - log_q)

    def decode(self, params: Any, z: Batch) -> Batch:
        return self._decoded(params, z)[0]

    def _log_prob(self, params: Any, x: Batch, z: Batch) -> PerSample:
        """log p(x | z)."""
        mean, log_variance = self._decoded(params, z)
        if self.levels is None:
            return log_normal(x - mean, log_variance)
        each = discretized_gaussian(x, mean, log_variance, self.data_range, self.levels)
        return jnp.sum(each, axis=tuple(range(1, x.ndim)))

    def _decoded(self, params: Any, z: Batch) -> tuple[Batch, Batch]:
        output: Any = self.network.apply({"params": params}, z, method="decode")
        mean, log_variance = jnp.split(output, 2, axis=-1)
        return mean, _log_variance(log_variance)


def _log_variance(output: Batch) -> Batch:
    """Log-variances from the outputs of a network, which start near 0."""
    return jnp.clip(output + FIRST_LOG_VARIANCE, *LOG_VARIANCES)


def log_normal(residual: Batch, log_variance: Batch) -> PerSample:
    """Log density of each residual [B, ...] under N(0, variance), in nats."""
    each = residual**2 * jnp.exp(-log_variance) + log_variance + math.log(2 * math.pi)
    return -0.5 * jnp.sum(each, axis=tuple(range(1, residual.ndim)))
