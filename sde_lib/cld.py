"""Critically-damped Langevin diffusion (Dockhorn, Vahdat & Kreis 2022, arXiv 2112.07068).

Data x move with velocities v, and noise enters the velocities alone. The state is [x, v], side by
side on the last axis.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from sde_lib.batch import Batch, PerSample, expand, fold_in, normal, sample_keys
from sde_lib.sde import SDE, Time, log_normal

INITIAL = 1 << 24  # folded into a sample's key: its velocities at t = 0
SERIES = np.array([1 / math.factorial(k) for k in range(16, 2, -1)])  # enough for y < 2


@dataclasses.dataclass(frozen=True)
class CLD(SDE):
    """dx = v / M beta dt, dv = -x beta dt - Gamma v / M beta dt + sqrt(2 Gamma beta) dw.

    M is the mass, Gamma = 2 sqrt(M) the critical damping (Eq. 5). Velocities start as
    N(0, gamma M I), and the prior is N(0, I) x N(0, M I).

    A score is that of the velocities: of the shape of the state, and its position half, which no
    sampler looks at, is 0 for a trained model. sigma is the standard deviation of v given x and
    x_0, so denoising score matching is hybrid score matching (Section 3.2): x_0 is data, v_0 is
    integrated out.

    In what follows w = v / sqrt(M) and tau = beta t / sqrt(M): the state there goes by the matrix
    exp(-tau) [[1 + tau, tau], [-tau, 1 - tau]], and ends in N(0, I).

    Attributes:
        beta: the pace, the same at all times.
        mass: M.
        gamma: variance of the velocities at t = 0, in masses.

    Raises:
        ValueError: a number that is not positive, or gamma > 1.
    """

    beta: float = 4.0
    mass: float = 0.25
    gamma: float = 0.04

    is_scalar: ClassVar[bool] = False

    def __post_init__(self):
        super().__post_init__()
        positive = 0 < self.beta < math.inf and 0 < self.mass < math.inf
        if not (positive and 0 < self.gamma <= 1):
            raise ValueError(
                f"beta = {self.beta}, mass = {self.mass}, gamma = {self.gamma}: CLD needs positive "
                "ones, and gamma of at most 1"
            )

    def alpha(self, t: Time) -> Array:
        """Raises ValueError: no single factor and no noise level tell how noisy a state is."""
        raise ValueError(
            "CLD has no noise level sigma / alpha: sample by 'symmetric_splitting', "
            "'euler_maruyama', 'probability_flow', or 'predictor_corrector' with the predictor "
            "'euler_maruyama' and no corrector; train at t uniform (noise_density, without "
            "importance_sampling) with the weighting 'variance' or likelihood_weighting, and the "
            "parametrization 'score_sde', 'epsilon' or 'score'"
        )

    def sigma(self, t: Time) -> Array:
        return self._unit * self._conditional_std(t, self.gamma)

    def diffusion(self, t: Time) -> Array:
        """sqrt(2 Gamma beta), of the velocities."""
        return jnp.full_like(t, math.sqrt(4 * self._unit * self.beta), jnp.float32)

    def drift(self, x: Batch, t: Time) -> Batch:
        x, v = jnp.split(x, 2, axis=-1)
        rate = self.beta / self.mass
        return jnp.concatenate([rate * v, -self.beta * x - 2 * self._unit * rate * v], axis=-1)

    def covariance(self, t: Time, variance: float = 0.0) -> tuple[Array, Array, Array]:
        """Of x with x, x with v, and v with v, at t, for data of this variance: 0 is x_0 given."""
        tau, decay, p = self._terms(t)
        gamma, data = self.gamma * decay, variance * decay
        xx = tau**2 * (tau * p + gamma) + data * (1 + tau) ** 2
        xw = tau * (2 * tau * decay + gamma * (1 - tau) - data * (1 + tau))
        ww = tau**3 * p + 4 * tau * decay + gamma * (1 - tau) ** 2 + data * tau**2
        return xx, self._unit * xw, self.mass * ww

    def noised(self, x0: Batch, t: Time, z: Batch) -> Batch:
        return self._moved(x0, jnp.zeros_like(x0), t, z, self.gamma)

    def noisy(self, x: Batch) -> Batch:
        return x * _halves(x, 0.0, 1.0)

    def state_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        return (*shape[:-1], 2 * shape[-1])

    def initial_state(
        self, key: PRNGKeyArray, x0: Batch, first_index: int | Array = 0
    ) -> tuple[Batch, PerSample]:
        with jax.ensure_compile_time_eval():  # after train_t_min they already are wider
            std = math.sqrt(self.covariance(self.train_t_min)[2])
        v = std * normal(fold_in(sample_keys(key, len(x0), first_index), INITIAL), x0.shape)
        return jnp.concatenate([x0, v], axis=-1), log_normal(v, std)

    def data_of(self, x: Batch) -> Batch:
        return x[..., : x.shape[-1] // 2]

    def denoise(self, x: Batch, t: Time, score: Batch) -> Batch:
        """E[x_0 | x_t, v_t] in the position half; the velocities as they are.

        Tweedie's two equations have the unknowns E[x_0] and the score of positions, which goes.
        """
        tau, decay, p = (expand(term, x) for term in self._terms(t))
        x, v = jnp.split(x, 2, axis=-1)
        w = (v + expand(self.sigma(t) ** 2, v) * jnp.split(score, 2, axis=-1)[1]) / self._unit
        xw = decay * (2 * tau + self.gamma * (1 - tau))  # and below it xx, of HSM's, over tau
        xx = tau * (tau * p + self.gamma * decay)
        x0 = jnp.exp(tau) * (xw * x - xx * w) / ((1 + tau) * xw + tau * xx)
        return jnp.concatenate([x0, v], axis=-1)

    def reverse_free(self, x: Batch, dt: Time, z: Batch) -> Batch:
        """dt of the reverse SDE from the state x, exactly, if the score were the prior's, -v / M.

        It is the forward SDE of [x, -v] (Section 3.3). z is standard normal, of the state's shape.
        """
        x, v = jnp.split(x, 2, axis=-1)
        return self._moved(x, -v / self._unit, dt, z, 0.0) * _halves(z, 1.0, -1.0)

    def prior_sample(
        self, key: PRNGKeyArray, shape: Sequence[int], first_index: int | Array = 0
    ) -> Batch:
        z = normal(sample_keys(key, shape[0], first_index), shape)
        return z * _halves(z, 1.0, self._unit)

    def prior_logp(self, x: Batch) -> PerSample:
        x, v = jnp.split(x, 2, axis=-1)
        return log_normal(x, 1.0) + log_normal(v, self._unit)

    @property
    def _unit(self) -> float:
        """sqrt(M), the velocities' standard deviation under the prior."""
        return math.sqrt(self.mass)

    def _terms(self, t: Time) -> tuple[Array, Array, Array]:
        """tau, exp(-2 tau), and p = (1 - exp(-2 tau) (1 + 2 tau + 2 tau^2)) / tau^3.

        tau^3 p is the variance of x whose x_0 and v_0 are given; with y = 2 tau it is
        exp(-y) (y^3 / 3! + y^4 / 4! + ...), which is what keeps digits near 0.
        """
        tau = jnp.asarray(t, jnp.float32) * (self.beta / self._unit)
        y, decay = 2 * tau, jnp.exp(-2 * tau)
        late = jnp.maximum(y, 2.0)
        closed = -8 * jnp.expm1(-late + jnp.log1p(late + 0.5 * late**2)) / late**3
        return tau, decay, jnp.where(y < 2, 8 * decay * jnp.polyval(SERIES, y), closed)

    def _conditional_std(self, t: Time, gamma: float) -> Array:
        """Standard deviation of w given x, x_0 and, for gamma = 0, w_0: sqrt(det / xx)."""
        tau, decay, p = self._terms(t)
        # The terms are positive: differences of covariances would lose all digits near t = 0.
        det = tau**3 * p**2 + 4 * tau * decay * (p - decay)
        det += gamma * decay * (p * ((1 - tau) ** 2 + tau**2) + 4 * tau * decay)
        return jnp.sqrt(tau * det / (tau * p + gamma * decay))

    def _moved(self, x: Batch, w: Batch, t: Time, z: Batch, gamma: float) -> Batch:
        """The state after t from x and w, the latter with more variance of gamma."""
        tau, decay, p = (expand(term, x) for term in self._terms(t))
        z_x, z_w = jnp.split(z, 2, axis=-1)
        root = jnp.sqrt(tau * p + gamma * decay)  # tau root is that of the variance of x
        shared = decay * (2 * tau + gamma * (1 - tau)) / root
        then_x = jnp.exp(-tau) * ((1 + tau) * x + tau * w) + tau * root * z_x
        then_w = jnp.exp(-tau) * ((1 - tau) * w - tau * x) + shared * z_x
        then_w += expand(self._conditional_std(t, gamma), x) * z_w
        return jnp.concatenate([then_x, self._unit * then_w], axis=-1)


def _halves(x: Batch, of_x: float, of_v: float) -> Array:
    """[2C] factors of the positions and of the velocities of states x."""
    return jnp.repeat(jnp.array([of_x, of_v]), x.shape[-1] // 2)
